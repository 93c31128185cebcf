"""What many tests of the API begin with."""

from __future__ import annotations

import pytest

from tests.conftest import Work
from tests.support.api_client import Api


@pytest.fixture
def session_id(api: Api, work: Work) -> str:
    """Of a session that is ready."""
    opened = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    return str(opened)
