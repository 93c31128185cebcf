"""A pre-started program can't be told from one that is started anew, byte for byte."""

from __future__ import annotations

import pytest

from tests.sandbox.prestart_cases import (
    NODE_CASES,
    PRELOADED_CASES,
    PYTHON_CASES,
    SHARED_BY_PRELOADED,
)
from tests.support.prestart import Pair, compare

pytest_plugins = ["tests.support.prestart_fixtures"]
pytestmark = pytest.mark.docker


@pytest.mark.parametrize("name", PYTHON_CASES)
def test_python(python_pair: Pair, name: str) -> None:
    compare(python_pair, PYTHON_CASES[name])


@pytest.mark.thorough  # what the image of its environment makes of it
@pytest.mark.parametrize("name", [*PRELOADED_CASES, *SHARED_BY_PRELOADED])
def test_python_with_libraries(preloaded_pair: Pair, name: str) -> None:
    compare(preloaded_pair, PRELOADED_CASES.get(name) or PYTHON_CASES[name])


@pytest.mark.thorough  # what the image of its environment makes of it
@pytest.mark.parametrize("name", NODE_CASES)
def test_node(node_pair: Pair, name: str) -> None:
    compare(node_pair, NODE_CASES[name])
