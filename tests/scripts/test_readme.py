"""README.md and README.ru.md say the same, and what they say is true of the code."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands

from codeexec.configuration import CONF_FILE_VARIABLE, SETTINGS
from tests.support.stack import Stack, eventually, running_stack

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.ru.md")
PRINTED_ADDRESS = "127.0.0.1:8000"
EXAMPLES_SECONDS = 120
MEASURED = {"execution_time", "cpu_time", "memory_peak"}
"""Numbers that differ each time: only their type is compared."""
ELLIPSIS = "…"

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_SETTING = re.compile(r"^\| `([A-Z_]+)` \| (.+?) \| .+? \| .+? \|$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"manage\.py ([a-z_]+)")
_TOP_LEVEL = re.compile(
    r"(?:codeexec|environments_app|sessions_app|environments|config|scripts|tests|templates|static)"
    r"/[A-Za-z0-9_./-]*"
)


@pytest.fixture(params=READMES)
def text(request: pytest.FixtureRequest) -> str:
    return read(request.param)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each, in order."""
    return _FENCE.findall(text)


def prose(text: str) -> str:
    return _FENCE.sub("", text)


class TestSettings:
    def test_every_setting_has_a_row_with_its_default_and_no_row_is_left_over(
        self, text: str
    ) -> None:
        rows = dict(_SETTING.findall(prose(text)))
        expected = {setting.name: setting.default for setting in SETTINGS}
        assert rows.keys() == expected.keys()
        host_name = rows.pop("NODE_NAME")  # no text of ours: it differs from host to host
        assert "`" not in host_name
        del expected["NODE_NAME"]
        assert {name: _default(cell) for name, cell in rows.items()} == expected

    def test_the_variable_that_names_another_file_is_told(self, text: str) -> None:
        assert f"`{CONF_FILE_VARIABLE}`" in text


def _default(cell: str) -> str:
    return "" if cell == "—" else cell.removeprefix("`").removesuffix("`")


class TestLanguages:
    def test_both_readmes_have_the_same_code(self) -> None:
        english, russian = (code_blocks(read(name)) for name in READMES)
        assert russian == english

    def test_both_readmes_have_the_same_skeleton(self) -> None:
        english, russian = (_skeleton(read(name)) for name in READMES)
        assert russian == english

    def test_both_readmes_name_the_same_things(self) -> None:
        """Commands, settings, files, fields: what stands in backquotes is in no language."""
        english, russian = (set(_CODE.findall(prose(read(name)))) for name in READMES)
        assert russian == english


def _skeleton(text: str) -> list[tuple[str, int]]:
    """Levels of the headings, lengths of the tables and of the lists between them, in order."""
    parts = [(match.start(), "heading", len(match[1])) for match in _HEADING.finditer(prose(text))]
    parts += [
        (match.start(), "table", match[0].count("\n")) for match in _TABLE.finditer(prose(text))
    ]
    parts += [(match.start(), "item", 1) for match in re.finditer(r"(?m)^(?:-|\d\.) ", prose(text))]
    return [(kind, size) for _, kind, size in sorted(parts)]


class TestReferences:
    def test_every_link_leads_somewhere(self, text: str) -> None:
        anchors = {f"#{_slug(match[2])}" for match in _HEADING.finditer(prose(text))}
        links = [link for link in _LINK.findall(text) if "://" not in link]
        assert links
        missing = [
            link
            for link in links
            if link not in anchors and (link.startswith("#") or not (ROOT / link).exists())
        ]
        assert missing == []

    def test_every_path_that_is_named_exists(self, text: str) -> None:
        named = [code.split()[0] for code in _CODE.findall(prose(text)) if code.strip()]
        commands = [line.split()[0] for _, block in code_blocks(text) for line in _lines(block)]
        paths = {path for path in [*named, *commands] if _TOP_LEVEL.fullmatch(path)}
        assert {"scripts/server", "config/environments.yaml"} <= paths
        assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []

    def test_every_management_command_that_is_named_exists(self, text: str) -> None:
        named = set(_COMMAND.findall(text))
        assert {"run_api", "run_worker", "seed_environments"} <= named
        assert named - get_commands().keys() == set()

    def test_every_command_of_the_service_is_told(self, text: str) -> None:
        apps = ("environments_app", "sessions_app")
        ours = {name for name, app in get_commands().items() if app in apps}
        assert ours - set(_COMMAND.findall(text)) == set()


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


@dataclass
class Example:
    """A block of commands, and the answers that are printed below it."""

    commands: str
    answers: list[Any]


def examples(text: str) -> list[Example]:
    """The shell blocks from the one that sets API on, up to the next that is no call."""
    found: list[Example] = []
    for language, content in code_blocks(text):
        if language == "bash" and (found or content.startswith("API=")):
            found.append(Example(content, []))
        elif language == "json" and found:
            found[-1].answers = list(_documents(content))
    return [
        example for example in found if "$API" in example.commands or "API=" in example.commands
    ]


def _documents(text: str) -> Iterator[Any]:
    """JSON values one after the other; commands print other lines never."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        yield value


@pytest.mark.stack
@pytest.mark.docker
class TestExamples:
    def test_the_calls_run_as_printed_and_answer_what_is_printed(self, tmp_path: Path) -> None:
        printed = examples(read("README.md"))
        assert len(printed) > 10
        with running_stack(tmp_path) as stack:
            _wait_for_a_warm_sandbox(stack)
            outputs = _run_all([example.commands for example in printed], stack.port)
        for example, output in zip(printed, outputs, strict=True):
            answers = list(_documents(output))
            assert len(answers) == len(example.answers), example.commands + output
            for answer, expected in zip(answers, example.answers, strict=True):
                problem = difference(answer, expected)
                assert not problem, f"{problem}\n{example.commands}{output}"


def _wait_for_a_warm_sandbox(stack: Stack) -> None:
    """The first answer that is printed is that of a service that has been up for a moment."""
    query = (
        "SELECT 1 FROM sessions_app_sandbox JOIN environments_app_environment AS environment"
        " ON environment.id = environment_id WHERE environment.name = 'python' AND status = 'idle'"
    )
    assert eventually(lambda: stack.rows(query))


def _run_all(blocks: list[str], port: int) -> list[str]:
    """What each block prints, all of them run by one shell."""
    mark = "=== end of a block ==="
    script = "".join(f"{block}\necho '{mark}'\n" for block in blocks)
    assert PRINTED_ADDRESS in script
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail"],
        input=script.replace(PRINTED_ADDRESS, f"127.0.0.1:{port}"),
        capture_output=True,
        text=True,
        timeout=EXAMPLES_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.split(f"{mark}\n")[:-1]


def difference(actual: Any, printed: Any, where: str = "answer") -> str:
    """Where an answer is not what is printed; empty: it is. What is printed may be shortened:
    fields left out, `…` for what differs each time or for the rest of a text.
    """
    if isinstance(printed, dict) and isinstance(actual, dict):
        for key, value in printed.items():
            if key not in actual:
                return f"{where}.{key} is missing"
            if key in MEASURED and type(actual[key]) is type(value):
                continue
            if problem := difference(actual[key], value, f"{where}.{key}"):
                return problem
        return ""
    if isinstance(printed, list) and isinstance(actual, list) and len(printed) == len(actual):
        pairs = enumerate(zip(actual, printed, strict=True))
        return next((p for i, (a, e) in pairs if (p := difference(a, e, f"{where}[{i}]"))), "")
    if isinstance(printed, str) and printed.endswith(ELLIPSIS) and isinstance(actual, str):
        same = actual.startswith(printed.removesuffix(ELLIPSIS)) and actual != ""
    else:
        same = type(actual) is type(printed) and actual == printed
    return "" if same else f"{where} is {actual!r}, not {printed!r}"


class TestDifference:
    """The comparison itself: it can fail."""

    @pytest.mark.parametrize(
        ("actual", "printed"),
        [
            ({"a": 1, "b": 2}, {"a": 1}),
            ({"a": "x-1"}, {"a": "…"}),
            ({"a": "error: mismatched"}, {"a": "error…"}),
            ({"execution_time": 0.2}, {"execution_time": 0.016}),
            ([{"a": 1, "b": 2}], [{"b": 2}]),
        ],
    )
    def test_shortened_answers_agree(self, actual: Any, printed: Any) -> None:
        assert difference(actual, printed) == ""

    @pytest.mark.parametrize(
        ("actual", "printed"),
        [
            ({"a": 1}, {"a": 2}),
            ({"a": 1}, {"b": 1}),
            ({"a": 0}, {"a": False}),
            ({"a": None}, {"a": "…"}),
            ({"a": "warning"}, {"a": "error…"}),
            ({"execution_time": None}, {"execution_time": 0.016}),
            ([1], [1, 2]),
        ],
    )
    def test_others_do_not(self, actual: Any, printed: Any) -> None:
        assert difference(actual, printed) != ""
