"""Every input has a bound; what is beyond it is a 4xx that names the field and the bound."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeexec import bounds
from codeexec.sandbox.client import protocol
from sessions_app.models import Execution, Node, Session
from sessions_app.models.session import most_ttl_seconds
from tests.api.test_every_call import error
from tests.support.api_client import Api

pytestmark = pytest.mark.django_db(transaction=True)
JSON = {"content-type": "application/json"}


@pytest.fixture
def path(api: Api) -> str:
    """Of a session; its node has nobody who gives signs of life, and needs none for the test."""
    Node.objects.update(heartbeat_at=timezone.now() + timedelta(hours=1))
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    return f"/sessions/{session_id}/execute?wait=false"


# ---- fields

TOO_MUCH: dict[str, tuple[dict[str, Any], str, int]] = {
    "code": ({"code": "#" * (bounds.CODE_BYTES + 1)}, "code", bounds.CODE_BYTES),
    "code in bytes": ({"code": "é" * (bounds.CODE_BYTES // 2 + 1)}, "code", bounds.CODE_BYTES),
    "filename": ({"code": "", "filename": "a" * 256}, "filename", bounds.PATH_BYTES),
    "filename in bytes": ({"code": "", "filename": "é" * 128}, "filename", bounds.PATH_BYTES),
    "levels": ({"code": "", "filename": "a/" * 16 + "b"}, "filename", bounds.PATH_BYTES),
    "an argument": ({"code": "", "args": ["a" * 65_537]}, "args", bounds.ARGUMENT_BYTES),
    "arguments": ({"code": "", "args": [""] * 1001}, "args", bounds.ARGUMENTS),
    "all arguments": ({"code": "", "args": ["a" * 60_000] * 4}, "args", bounds.ARGUMENTS_BYTES),
    "a variable": ({"code": "", "env": {"A": "a" * 65_537}}, "env", bounds.ARGUMENT_BYTES),
    "a variable and its name": (
        {"code": "", "env": {"A" * 65_536: "a" * 65_536}},
        "env",
        bounds.VARIABLE_BYTES,
    ),
    "a variable's name": ({"code": "", "env": {"A" * 65_537: ""}}, "env", bounds.ARGUMENT_BYTES),
    "variables": ({"code": "", "env": {f"A{n}": "" for n in range(1001)}}, "env", bounds.VARIABLES),
    "a file's path": ({"code": "", "files": {"a" * 256: ""}}, "files", bounds.PATH_BYTES),
    "files": ({"code": "", "files": {f"f{n}": "" for n in range(1001)}}, "files", bounds.FILES),
    "timeout": ({"code": "", "timeout": 1e300}, "timeout", bounds.TIMEOUT_SECONDS),
    "a whole timeout": ({"code": "", "timeout": 10**400}, "timeout", bounds.TIMEOUT_SECONDS),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_run_that_is_too_much_names_the_field_and_the_bound(
    name: str, api: Api, path: str
) -> None:
    fields, field, maximum = TOO_MUCH[name]
    answer = api.post(path, fields)
    body = error(answer, 400, answer.json()["code"])
    assert (body["field"], body["maximum"]) == (field, maximum)
    assert body["detail"].startswith(field)
    assert str(maximum) in body["detail"]
    assert len(answer.content) < 2000
    assert not Execution.objects.exists()


@pytest.mark.parametrize(
    ("fields", "field", "maximum"),
    [
        ({"ttl": most_ttl_seconds() + 1}, "ttl", most_ttl_seconds()),
        ({"ttl": 10**4000}, "ttl", most_ttl_seconds()),
        ({"environment": "a" * 101}, "environment", bounds.ENVIRONMENT_BYTES),
        ({"metadata": {"a": "x" * 16_384}}, "metadata", bounds.METADATA_BYTES),
        ({"metadata": {"a" * 16_384: 1}}, "metadata", bounds.METADATA_BYTES),
        ({"metadata": {"a": [0] * 9000}}, "metadata", bounds.METADATA_BYTES),
    ],
    ids=lambda value: str(value)[:25],
)  # fmt: skip
def test_a_session_that_is_too_much_names_the_field_and_the_bound(
    fields: dict[str, Any], field: str, maximum: int, api: Api
) -> None:
    body = error(api.post("/sessions", fields), 400, "invalid_request")
    assert (body["field"], body["maximum"]) == (field, maximum)
    assert not Session.objects.exists()


def test_what_is_just_within_the_bounds_is_taken(api: Api, path: str) -> None:
    for fields in (
        {"code": "#" * bounds.CODE_BYTES},
        {"code": "", "filename": "/".join("abcdefghijklmnop")},
        {"code": "", "filename": "é" * 127},
        {"code": "", "args": ["a" * bounds.ARGUMENT_BYTES]},
        {"code": "", "args": [""] * bounds.ARGUMENTS},
        {"code": "", "env": {f"A{number}": "" for number in range(bounds.VARIABLES)}},
        {"code": "", "files": {f"f{number}": "" for number in range(bounds.FILES)}},
        {"code": "", "timeout": bounds.LEAST_TIMEOUT_SECONDS},
    ):
        assert api.post(path, fields).status_code == 202, str(fields)[:80]
    opened = {"ttl": most_ttl_seconds(), "metadata": {"a": "x" * (bounds.METADATA_BYTES - 9)}}
    assert api.post("/sessions", opened).status_code == 201


def test_the_bounds_are_within_what_comes_behind() -> None:
    assert bounds.ARGUMENTS_BYTES < protocol.MAX_PAYLOAD
    assert max(bounds.ARGUMENTS, bounds.VARIABLES) < protocol._MAX_STRINGS
    assert bounds.ARGUMENT_BYTES < 128 * 1024
    assert Execution._meta.get_field("filename").max_length == bounds.PATH_BYTES


# ---- characters and numbers

NO_TEXT = ["\0", "\ud800", "a\udfffb"]
FIELDS: list[Any] = [
    lambda text: {"code": text},
    lambda text: {"code": "", "filename": text},
    lambda text: {"code": "", "args": [text]},
    lambda text: {"code": "", "env": {"A": text}},
    lambda text: {"code": "", "env": {text: "1"}},
    lambda text: {"code": "", "env": {text: 1}},
    lambda text: {"code": "", "files": {"a": text}},
    lambda text: {"code": "", "files": {text: "a"}},
    lambda text: {"code": "", "files": {text: 1}},
    lambda text: {"code": "", "files": {"a": {"base64": text}}},
    lambda text: {"code": "", "files": {"a": {text: ""}}},
    lambda text: {"environment": text, "code": ""},
    lambda text: {"code": "", "timeout": text},
]


@pytest.mark.parametrize("text", NO_TEXT, ids=ascii)
def test_what_is_no_text_is_a_400_wherever_it_comes(text: str, api: Api, path: str) -> None:
    for fields in (field(text) for field in FIELDS):
        for address in (path, "/execute?wait=false"):
            if address != path or "environment" not in fields:
                answer = api.post(address, fields)
                assert answer.status_code == 400, fields
                assert answer.json()["field"] in fields
    for opened in ({"environment": text}, {"metadata": {text: 1}}, {"metadata": {"a": [text]}}):
        assert api.post("/sessions", opened).status_code == 400
    assert not Execution.objects.exists()


def test_a_half_of_a_surrogate_pair_is_no_input(api: Api, path: str) -> None:
    body = error(api.post(path, {"code": "", "stdin": "\ud800"}), 400, "invalid_request")
    assert body["field"] == "stdin"
    assert api.post(path, {"code": "", "stdin": "\0"}).status_code == 202


@pytest.mark.parametrize("field", ["timeout", "ttl"])
@pytest.mark.parametrize(
    "number",
    ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "-0", "-0.0", "0", "9" * 5000, "true",
     '"5"', "[5]", "{}", "1e-320", "-5"],
)  # fmt: skip
def test_a_number_that_can_not_be_is_a_400(field: str, number: str, api: Api, path: str) -> None:
    address = "/sessions" if field == "ttl" else path
    code = '"code": "1", ' if field == "timeout" else ""
    content = f'{{{code}"{field}": {number}}}'.encode()
    answer = api.request("POST", address, content=content, headers=JSON)
    error(answer, 400, "invalid_request")


def test_a_whole_number_may_be_written_as_a_decimal_one(api: Api) -> None:
    answer = api.request("POST", "/sessions", content=b'{"ttl": 60.0}', headers=JSON)
    session = api.get(f"/sessions/{answer.json()['session_id']}").json()
    assert (session["ttl"], type(session["ttl"])) == (60, int)
    assert api.post("/sessions", {"ttl": 60.5}).status_code == 400


# ---- bodies

BODIES = {
    "UTF-16": "{}".encode("utf-16"),
    "UTF-32": "{}".encode("utf-32"),
    "UTF-8 with a byte order mark": b"\xef\xbb\xbf{}",
    "broken UTF-8": b'{"code": "\xff"}',
    "overlong UTF-8": b'{"code": "\xc0\x80"}',
    "a surrogate in UTF-8": b'{"code": "\xed\xa0\x80"}',
    "a control character": b'{"code": "\n"}',
    "a NUL": b'{"code": "1"}\0',
    "two values": b'{"code": "1"}{}',
    "gzip": b"\x1f\x8b\x08\x00",
    "white space": b"   ",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_in_utf_8_is_a_400(name: str, api: Api, path: str) -> None:
    for address in (path, "/sessions", "/execute"):
        answer = api.request("POST", address, content=BODIES[name], headers=JSON)
        error(answer, 400, "invalid_request")


def test_a_body_that_is_coded_is_a_415(api: Api, path: str) -> None:
    for coding in ("gzip", "br", "deflate, gzip"):
        headers = {**JSON, "content-encoding": coding}
        answer = api.request("POST", path, content=b'{"code": ""}', headers=headers)
        error(answer, 415, "unsupported_media_type")
    headers = {**JSON, "content-encoding": "identity"}
    assert api.request("POST", path, content=b'{"code": ""}', headers=headers).status_code == 202


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_is_bounded(opening: str, api: Api, path: str) -> None:
    deep = opening * (bounds.JSON_DEPTH + 1)
    body = f'{{"code": "1", "x": {deep}'.encode()
    found = error(api.request("POST", path, content=body, headers=JSON), 400, "invalid_request")
    assert (found["field"], found["maximum"]) == ("body", bounds.JSON_DEPTH)


@pytest.mark.parametrize("element", ["[]", "{}", "0", '""', '"a"', "[[]]"])
def test_the_number_of_values_is_bounded(element: str, api: Api, path: str) -> None:
    many = ",".join([element] * (bounds.JSON_VALUES + 1))
    body = f'{{"code": "1", "x": [{many}]}}'.encode()
    found = error(api.request("POST", path, content=body, headers=JSON), 400, "invalid_request")
    assert (found["field"], found["maximum"]) == ("body", bounds.JSON_VALUES)


def test_what_stands_between_quotes_is_no_value(api: Api, path: str) -> None:
    code = 'x = "[{,\\\\\\"" # ' + '[{,"\\' * 30_000
    answer = api.post(path, {"code": code, "stdin": '"' * 90_000})
    assert answer.status_code == 202, answer.text
    assert Execution.objects.get().code == code


def test_the_last_of_two_names_counts(api: Api, path: str) -> None:
    body = b'{"code": "1", "code": "2"}'
    assert api.request("POST", path, content=body, headers=JSON).status_code == 202
    assert Execution.objects.get().code == "2"


def test_a_body_in_chunks_is_a_body(api: Api, path: str) -> None:
    async def chunks() -> Any:
        for part in (b'{"code": ', b'"print(7)"}'):
            yield part

    answer = api.request("POST", path, content=chunks(), headers=JSON)
    assert answer.status_code == 202
    assert Execution.objects.get().code == "print(7)"


# ---- queries

QUERIES = {
    "a long query": ("/sessions", "x=" + "a" * bounds.QUERY_BYTES, "query"),
    "a long value": ("/sessions", "metadata.a=" + "x" * 16_385, "metadata.a"),
    "a long environment": ("/sessions", "environment=" + "x" * 101, "environment"),
    "many filters": ("/sessions", "&".join(f"metadata.{n}=1" for n in range(17)), "metadata"),
    "two of them": ("/sessions", "status=ready&status=error", "status"),
    "two metadata filters": ("/sessions", "metadata.a=1&metadata.a=2", "metadata.a"),
    "two cursors": ("/sessions", "cursor=a&cursor=b", "cursor"),
    "two page sizes": ("/sessions", "page_size=1&page_size=2", "page_size"),
    "an unknown status": ("/sessions", "status=" + "x" * 5000, "status"),
    "NUL": ("/sessions", "metadata.a=%00", "metadata.a"),
    "NUL in a name": ("/sessions", "metadata.a%00=1", "metadata.a"),
    "no word for yes": ("execute", "wait=perhaps", "wait"),
    "yes and no": ("execute", "wait=true&wait=false", "wait"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_that_can_not_be_names_the_parameter(name: str, api: Api, path: str) -> None:
    address, query, field = QUERIES[name]
    method, address = ("POST", path.split("?")[0]) if address == "execute" else ("GET", address)
    options = {"json": {"code": ""}} if method == "POST" else {}
    answer = api.request(method, f"{address}?{query}", **options)
    assert error(answer, 400, "invalid_request")["field"] == field
    assert len(answer.content) < 1000


def test_a_number_that_nothing_can_keep_is_a_text_to_filter_by(api: Api) -> None:
    text = "1e-99999999999999999999"
    own = api.post("/sessions", {"metadata": {"a": text}}).json()["session_id"]
    found = api.get(f"/sessions?metadata.a={text}")
    assert [each["session_id"] for each in found.json()["results"]] == [own]


# ---- anything at all

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_TEXT = st.text(st.characters(), max_size=20)  # halves of surrogate pairs too
ANY_RUN = st.fixed_dictionaries(
    {},
    optional={
        "code": ANY_TEXT | ANYTHING,
        "filename": ANY_TEXT | ANYTHING,
        "stdin": ANY_TEXT | ANYTHING,
        "args": st.lists(ANY_TEXT | ANYTHING) | ANYTHING,
        "env": st.dictionaries(ANY_TEXT, ANY_TEXT | ANYTHING) | ANYTHING,
        "files": st.dictionaries(ANY_TEXT, ANY_TEXT | ANYTHING) | ANYTHING,
        "timeout": st.floats() | ANYTHING,
        "memory": ANYTHING,
        "environment": ANY_TEXT | ANYTHING,
    },
)
ANY_SESSION = st.fixed_dictionaries(
    {},
    optional={
        "environment": ANY_TEXT | ANYTHING,
        "ttl": st.integers() | st.floats() | ANYTHING,
        "metadata": st.dictionaries(ANY_TEXT, ANY_TEXT | ANYTHING) | ANYTHING,
        "limits": ANYTHING,
    },
)
TRIES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def require_explained(answer: Any, content: bytes) -> None:
    assert answer.status_code < 500, content
    if answer.status_code >= 400:
        body = answer.json()
        assert isinstance(body["detail"], str), content
        assert isinstance(body["code"], str), content


@pytest.mark.parametrize("address", ["session", "/execute?wait=false", "/sessions"])
def test_no_body_whatsoever_is_a_failure_of_ours(address: str, api: Api, path: str) -> None:
    bodies = ANY_SESSION if address == "/sessions" else ANY_RUN

    @TRIES
    @given(body=bodies | ANYTHING)
    def send(body: Any) -> None:
        content = json.dumps(body).encode()
        target = path if address == "session" else address
        require_explained(api.request("POST", target, content=content, headers=JSON), content)

    send()


def test_no_query_whatsoever_is_a_failure_of_ours(api: Api, path: str) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    names = st.sampled_from(["cursor", "page_size", "status", "environment", "metadata.a"])

    @TRIES
    @given(query=st.dictionaries(names | text.map("metadata.{}".format), text | st.just("ready")))
    def send(query: dict[str, str]) -> None:
        for address in ("/sessions", path.replace("execute", "executions")):
            answer = api.get(address, params=query)
            require_explained(answer, repr(query).encode())

    send()
