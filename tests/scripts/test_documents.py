"""README.md and the pages of docs/: what they print is what the service answers, what they name is
there, and README.ru.md has the commands of README.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, get_commands, load_command_class

from benchmark.rendering import check_place
from codeexec.configuration import CONF_FILE_VARIABLE, SETTINGS
from scripts import document_settings
from tests.support.stack import Stack, eventually, running_stack

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, RUSSIAN = "README.md", "README.ru.md"
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    if page.name != "CHANGELOG.md"
)
PRINTED_ADDRESS = "127.0.0.1:8000"
EXAMPLES_SECONDS = 120
MEASURED = {"execution_time", "cpu_time", "memory_peak", "prestarted"}
"""Values that differ from run to run: only their type is compared."""
ELLIPSIS = "…"
OURS = ("environments_app", "sessions_app")
"""The applications with commands of the service."""
APPS = ("codeexec", *OURS)

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"manage\.py ([a-z_]+)")
_CALL = re.compile(r"manage\.py ([a-z_]+)([^|>&)\n]*)")
_DEFINED_IN = re.compile(r"`([\w/]+\.py)` \(`(\w+)`\)")
_TOP_LEVEL = re.compile(
    r"(?:codeexec|environments_app|sessions_app|benchmark|environments|config|scripts|tests|docs"
    r"|templates|static)/[A-Za-z0-9_./-]*"
)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def text(page: str) -> str:
    return read(page)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each, in order."""
    return _FENCE.findall(text)


def prose(text: str) -> str:
    return _FENCE.sub("", text)


class TestSettings:
    def test_page_and_file_have_the_texts_of_the_settings(self) -> None:
        assert document_settings.PAGE.read_text() == document_settings.page()
        assert document_settings.CONF_FILE.read_text() == document_settings.conf_file()

    def test_the_page_has_each_setting_once(self) -> None:
        rows = re.findall(r"^\| `([A-Z_]+)` \|", read("docs/configuration.md"), re.MULTILINE)
        assert sorted(rows) == sorted(setting.name for setting in SETTINGS)

    def test_the_variable_that_names_another_file_is_there(self) -> None:
        assert f"`{CONF_FILE_VARIABLE}`" in read("docs/configuration.md")

    @pytest.mark.parametrize("stale", ["PAGE", "CONF_FILE"])
    def test_the_check_fails_for_what_is_not_up_to_date_and_writing_mends_it(
        self, stale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("PAGE", "CONF_FILE"):
            copy = tmp_path / name
            copy.write_text(getattr(document_settings, name).read_text())
            monkeypatch.setattr(document_settings, name, copy)
        current = (tmp_path / stale).read_text()
        (tmp_path / stale).write_text(current.replace("Processor time of", "Something about"))
        assert _exit_code(monkeypatch, "--check") == 1
        assert _exit_code(monkeypatch) == 0
        assert _exit_code(monkeypatch, "--check") == 0
        assert (tmp_path / stale).read_text() == current


def _exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["document_settings", *arguments])
    return document_settings.main()


class TestRussian:
    def test_its_commands_are_those_of_the_english_one_in_its_order(self) -> None:
        english, russian = (code_blocks(read(name)) for name in (ENGLISH, RUSSIAN))
        assert russian
        there = iter(english)
        assert [block for block in russian if block not in there] == []

    def test_what_it_names_the_english_pages_name(self) -> None:
        """Commands, settings, files, fields: what stands in backquotes is in no language."""
        english = {code for name in PAGES if name != RUSSIAN for code in _CODE.findall(read(name))}
        assert set(_CODE.findall(prose(read(RUSSIAN)))) - english == set()


class TestReferences:
    def test_every_link_leads_somewhere(self, page: str, text: str) -> None:
        links = [link for link in _LINK.findall(prose(text)) if "://" not in link]
        assert [link for link in links if not _leads_somewhere(link, ROOT / page)] == []

    def test_every_page_is_reached_from_the_readme(self) -> None:
        linked = set(_LINK.findall(read(ENGLISH)))
        assert {page for page in PAGES if page != ENGLISH} - linked == set()

    def test_every_alert_has_a_runbook_there(self) -> None:
        rules = yaml.safe_load(read("config/monitoring/alerts.yml"))["groups"][0]["rules"]
        runbooks = [rule["annotations"]["runbook"] for rule in rules]
        assert runbooks
        assert [link for link in runbooks if not _leads_somewhere(link, ROOT / ENGLISH)] == []

    def test_every_path_that_is_named_exists(self, text: str) -> None:
        named = [code.split()[0] for code in _CODE.findall(prose(text)) if code.strip()]
        commands = [line.split()[0] for _, block in code_blocks(text) for line in _lines(block)]
        arguments = re.findall(r"scripts/test (tests/\S+)", text)
        paths = {path for path in (*named, *commands, *arguments) if _TOP_LEVEL.fullmatch(path)}
        assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []

    def test_the_map_names_what_is_defined_there(self) -> None:
        named = _DEFINED_IN.findall(read("docs/architecture.md"))
        assert len(named) > 10
        missing = [
            f"{path}: {name}"
            for path, name in named
            if not re.search(rf"^(async def|def|class) {name}\b", read(path), re.MULTILINE)
        ]
        assert missing == []

    def test_classes_in_the_glossary_exist(self) -> None:
        names = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", read("docs/glossary.md")))
        assert {"RunRequest", "Claim", "Outcome"} <= names
        code = [file.read_text() for app in APPS for file in (ROOT / app).rglob("*.py")]
        defined = set(re.findall(r"^class (\w+)", "\n".join(code), re.MULTILINE))
        assert names - defined == set()

    def test_the_map_has_every_folder_of_the_top_level(self) -> None:
        folders = subprocess.run(
            ["git", "ls-tree", "-d", "--name-only", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        rooms = re.findall(r"`(\w+)/", read("docs/architecture.md"))
        shown = {name for name in folders if not name.startswith(".")} - {"docs"}
        assert shown - set(rooms) == set()


def _leads_somewhere(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or anchor in {
        _slug(match[2]) for match in _HEADING.finditer(prose(target.read_text()))
    }


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


class TestCommands:
    def test_every_command_that_is_named_exists(self, text: str) -> None:
        assert set(_COMMAND.findall(text)) - get_commands().keys() == set()

    def test_every_command_of_the_service_is_in_the_operators_page(self) -> None:
        ours = {name for name, app in get_commands().items() if app in OURS}
        assert ours
        assert ours - set(_COMMAND.findall(read("docs/operating.md"))) == set()

    def test_options_of_commands_in_code_blocks_are_those_of_the_commands(self, text: str) -> None:
        calls = [
            (name, rest)
            for language, block in code_blocks(text)
            if language in ("sh", "bash")
            for name, rest in _CALL.findall(block.replace("\\\n", " "))
        ]
        assert [wrong for name, rest in calls if (wrong := _wrong_use(name, rest))] == []


def _wrong_use(name: str, arguments: str) -> str:
    """What the command's own parser says of these arguments; empty: they can be."""
    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args([os.path.expandvars(word) for word in shlex.split(arguments)])
    except (CommandError, SystemExit, ValueError) as error:
        return f"{name} {arguments}: {said.getvalue() or error}"
    return ""


class TestPerformance:
    @pytest.mark.parametrize("name", [ENGLISH, "docs/performance.md"])
    def test_pages_have_a_place_for_what_the_benchmark_writes(self, name: str) -> None:
        check_place(ROOT / name)
        assert f"--into {name}" in read("docs/performance.md")

    def test_the_readmes_figures_are_those_of_the_page(self) -> None:
        between = r"<!-- benchmark summary -->(.*)<!-- /benchmark summary -->"
        (summary,) = re.findall(between, read(ENGLISH), re.DOTALL)
        rows = [line.split(" | ") for line in summary.splitlines() if line.startswith("| ")][2:]
        assert len(rows) == 6
        whole = read("docs/performance.md")
        for name, p50, p95, *_ in rows:
            assert f"{name} | {p50} | {p95} |" in whole, name


@dataclass
class Example:
    """A block of commands, and what is printed below it: JSON values, a text, or nothing."""

    commands: str
    answers: list[Any] = field(default_factory=list)
    text: str = ""


def examples(text: str) -> list[Example]:
    """The blocks that are run: those of `bash`, while `sh` is for what changes the host."""
    found: list[Example] = []
    before = ""
    for language, content in code_blocks(text):
        if language == "bash":
            found.append(Example(content))
        elif language == "json" and before == "bash":
            found[-1].answers = list(_documents(content))
        elif language == "text" and before == "bash":
            found[-1].text = content
        before = language
    return found


def _documents(text: str) -> Iterator[Any]:
    """JSON values one after the other; commands print other lines never."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        yield value


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


WITH_EXAMPLES = [name for name in PAGES if name != RUSSIAN and examples(read(name))]


@pytest.mark.stack
@pytest.mark.docker
@pytest.mark.thorough
class TestExamples:
    @pytest.mark.parametrize("name", WITH_EXAMPLES)
    def test_commands_run_as_printed_and_answer_what_is_printed(
        self, name: str, stack: Stack
    ) -> None:
        printed = examples(read(name))
        _wait_for_a_warm_sandbox(stack)
        outputs = _run_all([example.commands for example in printed], stack)
        for example, output in zip(printed, outputs, strict=True):
            problem = _disagreement(example, output)
            assert not problem, f"{problem}\n{example.commands}{output}"


def test_the_pages_that_teach_by_example_have_examples() -> None:
    assert {ENGLISH, "docs/quickstart.md", "docs/integrating.md", "docs/access.md"} <= set(
        WITH_EXAMPLES
    )


def _disagreement(example: Example, output: str) -> str:
    if example.text:
        return difference(output, example.text)
    if example.answers:
        return difference(list(_documents(output)), example.answers)
    return ""


def _wait_for_a_warm_sandbox(stack: Stack) -> None:
    """The first answer that is printed is that of a service that has been up for a moment."""
    query = (
        "SELECT 1 FROM sessions_app_sandbox JOIN environments_app_environment AS environment"
        " ON environment.id = environment_id WHERE environment.name = 'python' AND status = 'idle'"
    )
    assert eventually(lambda: stack.rows(query))


def _run_all(blocks: list[str], stack: Stack) -> list[str]:
    """What each block prints, all of them run by one shell."""
    mark = "=== end of a block ==="
    script = f'manage.py() {{ "{sys.executable}" manage.py "$@"; }}\n'
    script += "".join(f"{block}\necho '{mark}'\n" for block in blocks)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail"],
        input=script.replace(PRINTED_ADDRESS, f"127.0.0.1:{stack.port}"),
        cwd=ROOT,
        env=stack.environ,
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


class TestChecksOfPages:
    """They can fail, too."""

    @pytest.mark.parametrize(
        "link", ["docs/none.md", "docs/glossary.md#no-such-heading", "#no-such-heading"]
    )
    def test_a_link_to_nothing_is_noticed(self, link: str) -> None:
        assert not _leads_somewhere(link, ROOT / ENGLISH)

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [("sessions", "--no-such-option"), ("run_code", ""), ("prune_history", "--older-than x")],
    )
    def test_a_wrong_use_of_a_command_is_noticed(self, name: str, arguments: str) -> None:
        assert _wrong_use(name, arguments)
