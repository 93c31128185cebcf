"""A pre-started program can't be told from one that is started anew, byte for byte.

`LINES` in prestart_cases.py lists what must not differ, each with the programs that show it.
"""

from __future__ import annotations

import pytest

from scripts.steps import ROOT
from tests.sandbox.prestart_cases import (
    LINES,
    NODE_CASES,
    PRELOADED_CASES,
    PYTHON_CASES,
    SHARED_BY_PRELOADED,
)
from tests.support.prestart import Case, Pair, compare
from tests.support.sandboxes import AMPLE_SECONDS

pytest_plugins = ["tests.support.prestart_fixtures"]
pytestmark = pytest.mark.docker


DAILY = {names[0] for names in LINES.values()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in DAILY else pytest.mark.thorough)
        for name in PYTHON_CASES
    ],
)
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


EVERYDAY = {
    "system.py": "python_pair",
    "everyday.sh": "python_pair",
    "system.py with libraries": "preloaded_pair",
    "learn.py": "preloaded_pair",
    "everyday.js": "node_pair",
}
FROM_PYTHON = "import subprocess, sys\nsys.exit(subprocess.run(['sh', 'everyday.sh']).returncode)\n"


@pytest.mark.thorough  # for seconds each, in an image of its environment
@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_programs(name: str, request: pytest.FixtureRequest) -> None:
    file = name.partition(" ")[0]
    text = (ROOT / "tests" / "programs" / file).read_text()
    source = FROM_PYTHON if file.endswith(".sh") else text
    compare(
        request.getfixturevalue(EVERYDAY[name]),
        Case(source=source, files={file: text}, wall_seconds=AMPLE_SECONDS, shows=b"fine\n"),
    )


def test_each_line_has_programs() -> None:
    known = PYTHON_CASES.keys()
    assert {name for names in LINES.values() for name in names} <= known
    assert all(LINES.values())


DRAWN = "import random, os, uuid; print(random.random(), os.urandom(4), uuid.uuid4())"
DRAWN_BY_NUMPY = (
    f"import numpy as n; print(n.random.rand(), n.random.default_rng().random()); {DRAWN}"
)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("python_pair", DRAWN),
        pytest.param("preloaded_pair", DRAWN_BY_NUMPY, marks=pytest.mark.thorough),
    ],
)
def test_random_numbers_are_others_in_each_run(
    name: str, source: str, request: pytest.FixtureRequest
) -> None:
    results = [request.getfixturevalue(name).results(Case(source=source))[0] for _ in range(2)]
    assert all(each.prestarted for each in results)
    drawn = [word for each in results for word in each.stdout.split()]
    assert len(set(drawn)) == len(drawn) > 4


def test_hashes_are_those_of_the_sandbox(python_pair: Pair) -> None:
    """Documented: new in each run where it is started anew."""
    case = Case(source="print(hash('a'), list({'a', 'b', 'c'}))")
    warm, anew = zip(*(python_pair.results(case) for _ in range(2)), strict=True)
    assert warm[0].stdout == warm[1].stdout
    assert len({each.stdout for each in (*warm, *anew)}) == 3
