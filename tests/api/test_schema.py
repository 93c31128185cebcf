"""The OpenAPI schema is true to what the service does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from django.core.management import call_command
from django.urls import get_resolver
from django.urls.resolvers import RoutePattern, URLPattern, URLResolver
from drf_spectacular.generators import SchemaGenerator

from codeexec.sandbox.errors import SandboxLost
from environments_app.models import Environment
from sessions_app.api import schema_view
from sessions_app.models import Execution, Node
from tests.api.test_every_call import NOBODY
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import execution_in, session_in
from tests.support.fake_driver import FakeDriver

pytestmark = pytest.mark.django_db(transaction=True)

PREFIX = "/api/v1"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """As `manage.py spectacular` writes it; a warning ends it with an error."""
    out = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    written: dict[str, Any] = yaml.safe_load(out.getvalue())
    return written


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def as_json_schema(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """By itself, with all that it refers to."""
    return {**part, "components": schema["components"]}


def strict(part: Any) -> Any:
    """The same, with no property but those that it names."""
    if isinstance(part, list):
        return [strict(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: strict(value) for name, value in part.items()}
    if "properties" in part and part.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def content(described: dict[str, Any]) -> dict[str, Any]:
    media: dict[str, Any] = described["content"]["application/json"]
    return media


def check(answer: httpx.Response, path: str, schema: dict[str, Any]) -> Any:
    """The answer is one that the schema describes."""
    method = answer.request.method.lower()
    described = schema["paths"][f"{PREFIX}{path}"][method]["responses"][str(answer.status_code)]
    expected = as_json_schema(content(described)["schema"], schema)
    if answer.status_code < 400:
        expected = strict(expected)
    jsonschema.validate(answer.json(), expected, format_checker=jsonschema.FormatChecker())
    return answer.json()


# ---- the whole of it


def test_every_address_of_the_api_is_described(schema: dict[str, Any]) -> None:
    assert set(schema["paths"]) == set(_addresses(get_resolver().url_patterns, "/"))


def _addresses(patterns: list[Any], prefix: str) -> Iterator[str]:
    for pattern in patterns:
        route = pattern.pattern
        address = prefix + (str(route) if isinstance(route, RoutePattern) else "")
        if isinstance(pattern, URLResolver) and f"{PREFIX}/".startswith(address):
            yield from _addresses(pattern.url_patterns, address)
        elif isinstance(pattern, URLPattern) and address.startswith(f"{PREFIX}/"):
            yield re.sub(r"<\w+:(\w+)>", r"{\1}", address)


def test_every_operation_is_named_and_summed_up(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(names) == len(set(names)) == 24
    for _, path, operation in operations(schema):
        assert operation["summary"], path
        assert operation["tags"], path


def test_the_documents_are_served(api: Api, schema: dict[str, Any]) -> None:
    answer = api.get("/api/schema", headers={"accept": "application/json"})
    assert answer.status_code == 200
    assert set(yaml.safe_load(answer.text)["paths"]) == set(schema["paths"])
    site = "http://testserver"
    assert 'src="/docs?script="' in api.get(f"{site}/docs").text
    for page in ("/docs?script=", "/redoc"):
        shown = api.get(site + page)
        assert shown.status_code == 200
        assert "/api/schema" in shown.text
        assert "cdn" not in shown.text


def test_the_document_is_rendered_once_whoever_asks(
    api: Api, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    generate = SchemaGenerator.get_schema

    def counted(*given: Any, **more: Any) -> Any:
        made.append(None)
        return generate(*given, **more)

    monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
    schema_view._render.cache_clear()

    async def ask() -> list[httpx.Response]:
        return await asyncio.gather(*(api.send("GET", f"/api/schema?x={n}") for n in range(20)))

    answers = [*api.run(ask()), api.get("/api/schema")]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len(made) == 1
    assert api.request("HEAD", "/api/schema").status_code == 200
    assert api.post("/api/schema", {}).status_code == 405


# ---- examples


def test_the_examples_are_what_the_schema_says(schema: dict[str, Any]) -> None:
    checked = 0
    for _, _, operation in operations(schema):
        described = [*operation["responses"].values(), operation.get("requestBody", {})]
        for each in described:
            if "examples" not in each.get("content", {}).get("application/json", {}):
                continue
            media = content(each)
            expected = strict(as_json_schema(media["schema"], schema))
            for example in media["examples"].values():
                jsonschema.validate(example["value"], expected)
                checked += 1
    assert checked >= 8


def test_the_examples_of_requests_are_accepted(
    api: Api, schema: dict[str, Any], work: Work, python: Environment, this: Node
) -> None:
    session_id = api.post("/sessions", {}).json()["session_id"]
    waits = execution_in("queued", session_in("pending", python, this))
    Execution.row(waits.pk).update(interactive=True)
    sent = 0
    for method, path, operation in operations(schema):
        for example in _request_examples(operation):
            address = path.format(session_id=session_id, execution_id=waits.pk)
            address = address.removeprefix(PREFIX)
            query = "?wait=false" if address.endswith("execute") else ""
            answer = api.request(method.upper(), f"{address}{query}", json=example)
            assert answer.status_code in (200, 201, 202), answer.text
            sent += 1
    assert sent >= 5


def _request_examples(operation: dict[str, Any]) -> list[Any]:
    examples = operation.get("requestBody", {"content": {"application/json": {}}})
    return [each["value"] for each in content(examples).get("examples", {}).values()]


def test_the_example_of_a_run_answers_as_it_says(
    api: Api, schema: dict[str, Any], work: Work
) -> None:
    session_id = api.post("/sessions", {}).json()["session_id"]
    path = "/sessions/{session_id}/execute"
    operation = schema["paths"][f"{PREFIX}{path}"]["post"]
    (example,) = content(operation["responses"]["200"])["examples"].values()
    body = api.post_while(f"/sessions/{session_id}/execute", _request_examples(operation)[0], work)
    said, answered = example["value"], body.json()
    assert list(said) == list(answered)
    for name in ("stdout", "stderr", "exit_code", "verdict", "status", "sequence", "signal"):
        assert said[name] == answered[name]


# ---- real answers


def test_answers_are_what_the_schema_says(
    api: Api, schema: dict[str, Any], work: Work, driver: FakeDriver, configure: Configure
) -> None:
    check(api.get("/health"), "/health", schema)
    check(api.get("/environments"), "/environments", schema)
    check(api.get("/environments/rust"), "/environments/{name}", schema)
    opened = check(api.post("/sessions", {"metadata": {"a": 1}}), "/sessions", schema)
    session_id = opened["session_id"]
    one, run, timeline = (
        f"/sessions/{session_id}{rest}" for rest in ("", "/execute", "/executions")
    )
    check(api.get(one), "/sessions/{session_id}", schema)
    queued = api.post(f"{run}?wait=false", {"code": "1", "files": {"b": {"base64": "AA=="}}})
    execution = (
        f"/executions/{check(queued, '/sessions/{session_id}/execute', schema)['execution_id']}"
    )
    check(api.get(execution), "/executions/{execution_id}", schema)
    work()
    check(api.get(execution), "/executions/{execution_id}", schema)
    Environment.objects.update(compile_command="python -m py_compile main.py")
    answer = api.post_while(run, {"code": "print("}, work)
    assert check(answer, "/sessions/{session_id}/execute", schema)["compile"] is not None
    driver.fail_next("run", SandboxLost("It is gone."))
    answer = api.post_while(run, {"code": "1"}, work)
    assert check(answer, "/sessions/{session_id}/execute", schema)["status"] == "error"
    check(api.get(timeline), "/sessions/{session_id}/executions", schema)
    check(api.get("/sessions?page_size=1"), "/sessions", schema)
    check(api.post_while("/execute", {"code": "1"}, work), "/execute", schema)
    check(api.delete(one), "/sessions/{session_id}", schema)
    check(api.get(one), "/sessions/{session_id}", schema)


def test_errors_are_what_the_schema_says(
    api: Api, schema: dict[str, Any], work: Work, configure: Configure
) -> None:
    session_id = api.post("/sessions", {}).json()["session_id"]
    run, nobodys = f"/sessions/{session_id}/execute", f"/sessions/{NOBODY}"
    run_path = "/sessions/{session_id}/execute"
    check(api.post("/sessions", {"ttl": 0}), "/sessions", schema)
    check(api.get("/sessions?status=x"), "/sessions", schema)
    check(api.get(nobodys), "/sessions/{session_id}", schema)
    check(api.delete(nobodys), "/sessions/{session_id}", schema)
    check(api.get(f"{nobodys}/executions"), "/sessions/{session_id}/executions", schema)
    check(api.get(f"/executions/{NOBODY}"), "/executions/{execution_id}", schema)
    check(api.get("/environments/cobol"), "/environments/{name}", schema)
    check(api.post(run, {}), run_path, schema)
    check(api.post(f"{nobodys}/execute", {"code": "1"}), run_path, schema)
    configure(REQUEST_TIMEOUT=0.01)
    check(api.post(run, {"code": "1"}), run_path, schema)
    api.delete(f"/sessions/{session_id}")
    check(api.post(run, {"code": "1"}), run_path, schema)
    check(api.post("/execute", {}), "/execute", schema)
    Node.objects.all().update(capacity=0)
    check(api.post("/execute", {"code": "1"}), "/execute", schema)
    check(api.post("/sessions", {}), "/sessions", schema)


def test_the_schema_is_json_too(schema: dict[str, Any]) -> None:
    assert json.loads(json.dumps(schema)) == schema
