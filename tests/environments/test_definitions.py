"""Reading config/environments.yaml, and refusing it with the line and the key."""

from pathlib import Path

import pytest
import yaml
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from environments_app.definitions import (
    Definition,
    Definitions,
    DefinitionsError,
    read_definitions,
)
from environments_app.yaml_nodes import read_document

MIB = 1024 * 1024


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str) -> Definitions:
        path = tmp_path / "environments.yaml"
        path.write_text(text)
        return read_definitions(path)

    return read_text


@pytest.fixture
def refusal(read):
    """The message that a file is refused with."""

    def refuse(text: str) -> str:
        with pytest.raises(DefinitionsError) as caught:
            read(text)
        return str(caught.value)

    return refuse


def one(body: str) -> str:
    """A file with one environment whose keys are `body`, from line 5 on."""
    needed = "    default_filename: main.x\n    run_command: x {file_path}\n"
    return f"environments:\n  x:\n{needed}{body}\n"


def test_the_shipped_file_has_the_four_environments() -> None:
    definitions = read_definitions(settings.BASE_DIR / "config" / "environments.yaml")
    assert [each.name for each in definitions.environments] == [
        "python",
        "python-ml",
        "node",
        "rust",
    ]
    assert definitions.default_environment == "python"
    for each in definitions.environments:
        assert (settings.BASE_DIR / "environments" / each.name / "Dockerfile").is_file()


def test_every_key_is_read(read) -> None:
    text = """
environments:
  full:
    image: full-image:2
    default_filename: src/main.x
    file_extension: .y
    run_command: "{output_path}"
    compile_command: cc -o {output_path} {file_path}
    description: All of it
    title: Full «1»
    version: "1.0"
    editor_mode: text/x-full
    sample: |
      first
        second
    enabled: false
    limits: {memory: 1g, cpu: 2, pids: 80, timeout: 1.5, tmpfs: 128m, output: 2048}
    maxima: {memory: 2g, cpu: 4, pids: 90, timeout: 60, tmpfs: 1g, output: 4k}
    warm_pool_size: 3
    warm_pool_max: 5
    runtime: runsc
    network: true
  small:
    default_filename: main.x
    run_command: x {file_path}
defaults:
  default_environment: small
  workspace_dir: /data
  executor_user: "1000:1000"
"""
    full, small = read(text).environments
    assert full == Definition(
        name="full",
        image="full-image:2",
        default_filename="src/main.x",
        file_extension=".y",
        run_command="{output_path}",
        compile_command="cc -o {output_path} {file_path}",
        description="All of it",
        title="Full «1»",
        version="1.0",
        editor_mode="text/x-full",
        sample="first\n  second\n",
        enabled=False,
        warm_pool_size=3,
        warm_pool_max=5,
        runtime="runsc",
        network=True,
        workspace_dir="/data",
        executor_user="1000:1000",
        limits={
            "memory_bytes": 1024 * MIB,
            "max_memory_bytes": 2048 * MIB,
            "cpus": 2.0,
            "max_cpus": 4.0,
            "pids": 80,
            "max_pids": 90,
            "timeout_seconds": 1.5,
            "max_timeout_seconds": 60.0,
            "tmpfs_bytes": 128 * MIB,
            "max_tmpfs_bytes": 1024 * MIB,
            "output_bytes": 2048,
            "max_output_bytes": 4096,
        },
    )
    assert (small.image, small.file_extension, small.enabled) == ("small", ".x", True)
    assert (small.network, small.limits, small.compile_command) == (None, {}, "")
    assert (small.warm_pool_size, small.warm_pool_max) == (1, None)


def test_keys_with_nothing_behind_them_are_left_out(read) -> None:
    text = one('    limits:\n    network:\n    compile_command: ""\n    runtime: ~')
    (only,) = read(text).environments
    assert (only.limits, only.network, only.compile_command, only.runtime) == ({}, None, "", "")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "    limits:\n      memory: 12x",
            "environments.yaml, line 6, environments.x.limits.memory: '12x' is wrong; "
            "allowed: a size such as 64m, 1g or 1048576 (units: b, k, m, g), 16m or more",
        ),
        (
            "    limits: {pids: 2.5}",
            "line 5, environments.x.limits.pids: '2.5' is wrong; allowed: a whole number",
        ),
        (
            "    limits: {cpu: true}",
            "line 5, environments.x.limits.cpu: 'true' is wrong; allowed",
        ),
        ("    limits: {cpu: [1]}", "line 5, environments.x.limits.cpu: a list is wrong"),
        ("    limits: {cpu: .nan}", "line 5, environments.x.limits.cpu: '.nan' is wrong"),
        ("    limits: 256m", "line 5, environments.x.limits: '256m' is wrong; allowed: keys"),
        ("    limits: {cpus: 1}", "environments.x.limits.cpus: there is no such key; did you mean"),
        (
            "    maxima: {memory: 128m}",
            "line 5, environments.x.maxima.memory: is below the limit, which is 256m "
            "(CONTAINER_MEMORY_LIMIT)",
        ),
        (
            "    limits: {timeout: 60}\n    maxima: {timeout: 59}",
            "line 6, environments.x.maxima.timeout: is below the limit, which is 60 "
            "(limits.timeout)",
        ),
        (
            "    enabled: 'yes'",
            "line 5, environments.x.enabled: 'yes' is wrong; allowed: true or",
        ),
        (
            "    network: 1",
            "line 5, environments.x.network: '1' is wrong; allowed: true or false",
        ),
        (
            "    description: 3.13",
            "line 5, environments.x.description: '3.13' is wrong; allowed: a",
        ),
        ("    image: Python", "line 5, environments.x.image: 'Python' is wrong; allowed: lower-"),
        ("    image: [x]", "line 5, environments.x.image: a list is wrong; allowed: a text"),
        (
            "    file_extension: py",
            "line 5, environments.x.file_extension: 'py' is wrong; allowed",
        ),
        (
            "    warm_pool_size: -1",
            "line 5, environments.x.warm_pool_size: '-1' is wrong; allowed",
        ),
        (
            "    warm_pool_size: 101",
            "warm_pool_size: '101' is wrong; allowed: a number from 0 to",
        ),
        (
            "    warm_pool_max: 101",
            "line 5, environments.x.warm_pool_max: '101' is wrong; allowed: a number from 0 to 100",
        ),
        (
            "    warm_pool_max: 0",
            "line 5, environments.x.warm_pool_max: is below warm_pool_size, which is 1",
        ),
        (
            "    warm_pool_max: 2\n    warm_pool_size: 3",
            "line 5, environments.x.warm_pool_max: is below warm_pool_size, which is 3",
        ),
        (
            "    warm_pool_max: many\n    warm_pool_size: few",
            "environments.x.warm_pool_size: 'few' is wrong",
        ),
        ("    runtime: run sc", "line 5, environments.x.runtime: 'run sc' is wrong; allowed: a"),
        (
            "    compile_command: cc {file} -o x",
            "line 5, environments.x.compile_command: 'cc {file} -o x' is wrong; {file} is not a "
            "placeholder; allowed: {file_path}, {filename}, {output_path}",
        ),
        (
            '    compile_command: sh -c "cc {file_path}',
            "line 5, environments.x.compile_command: 'sh -c \"cc {file_path}' is wrong; its quotes "
            "are not balanced",
        ),
        ("    compile_command: '  '", "compile_command: '  ' is wrong; there is no program in it"),
        (
            "    compile_command: {output_path}",
            "line 5, environments.x.compile_command: keys with values is wrong; allowed: a text",
        ),
        ("    comand: x", "line 5, environments.x.comand: there is no such key; did you mean"),
        ("    run_command: y", "line 5, environments.x.run_command: is there already, in line 4"),
        ("    ? [a]\n    : b", "line 5, environments.x: a key must be a single word"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(refusal, body: str, expected: str) -> None:
    assert expected in refusal(one(body))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "environments.yaml, line 1: the file is empty"),
        ("- x", "environments.yaml, line 1: a list is wrong; allowed: keys with values"),
        ("environments:\n", "environments.yaml, line 1, environments: is missing"),
        ("environments: {}", "line 1, environments: there is no environment in it"),
        ("environments: 3", "line 1, environments: '3' is wrong; allowed: keys with values"),
        ("a: [", "environments.yaml, line 1: this is no YAML"),
        ("a: \x07", "environments.yaml: this is no YAML"),
        (
            "environments:\n  X: {}",
            "line 2, environments.X: the name 'X' is wrong; allowed: lower",
        ),
        ("environments:\n  x:\n    image: x", "line 2, environments.x.run_command: is missing"),
        (
            "environments:\n  x: {default_filename: Makefile, run_command: make}",
            "line 2, environments.x.file_extension: is missing",
        ),
        (
            "environments:\n  x: {default_filename: ../x.py, run_command: x}",
            "environments.x.default_filename: '../x.py' is wrong; allowed: a path inside",
        ),
        ("environmens: {}", "line 1, environmens: there is no such key; did you mean environments"),
        ("environments: &a\n  x: *a", "x.run_command: is missing"),
        ("x: 1\n---\ny: 2", "environments.yaml, line 2: this is no YAML"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_refused(refusal, text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ("default_environment: y", "line 7, defaults.default_environment: there is no environment"),
        ("executor_user: root", "line 7, defaults.executor_user: 'root' is wrong"),
        ("executor_user: '0:0'", "line 7, defaults.executor_user: '0:0' is wrong"),
        ("workspace_dir: /etc/work", "line 7, defaults.workspace_dir: '/etc/work' is wrong"),
        ("workspace_dir: /opt", "line 7, defaults.workspace_dir: '/opt' is wrong"),
        ("workspace_dir: work", "line 7, defaults.workspace_dir: 'work' is wrong"),
        ("workspace_dir: /a/../etc", "line 7, defaults.workspace_dir: '/a/../etc' is wrong"),
        ("workspace: /x", "line 7, defaults.workspace: there is no such key; did you mean"),
    ],
)
def test_mistakes_in_the_defaults(refusal, defaults: str, expected: str) -> None:
    assert expected in refusal(one("    enabled: true") + f"defaults:\n  {defaults}\n")


def test_the_default_environment_must_be_enabled(refusal) -> None:
    text = one("    enabled: false") + "defaults: {default_environment: x}\n"
    assert "defaults.default_environment: 'x' is not enabled" in refusal(text)


def test_all_problems_are_listed_in_the_order_of_the_file(refusal) -> None:
    text = one("    enabled: 3\n    limits: {pids: 1}\n    nonsense: 1") + "defaults: 4\n"
    lines = refusal(text).splitlines()
    assert [line.split(",")[1] for line in lines] == [" line 5", " line 6", " line 7", " line 8"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionsError, match=r"none\.yaml: No such file"):
        read_definitions(tmp_path / "none.yaml")


_texts = st.text(max_size=8)
_scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts)
_keys = st.sampled_from(
    ["environments", "defaults", "python", "image", "run_command", "limits", "memory"]
)
_trees = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_keys | _texts, inner, max_size=5)
    ),
    max_leaves=20,
)


@given(tree=_trees)
def test_whatever_stands_in_the_file_it_is_read_or_refused(tmp_path_factory, tree: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"environments": {"python": tree}, "defaults": tree}))
    try:
        definitions = read_definitions(path)
    except DefinitionsError as error:
        assert str(error).startswith("any.yaml")
    else:
        assert all(each.run_command for each in definitions.environments)


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "lines.yaml"
    path.write_text("# comment\n\nfirst: 1\nsecond:\n  inner: 2\n")
    entries = read_document(path).mapping()
    inner = entries["second"].mapping()["inner"]
    assert (entries["first"].line, entries["second"].line, inner.line) == (3, 4, 5)
    assert inner.key == "second.inner"


def test_a_file_is_no_larger_than_one_can_be(refusal) -> None:
    assert "more than 1048576 bytes" in refusal("#" * 1_048_577)


def test_a_file_that_is_nested_without_end_is_refused(refusal) -> None:
    assert "nested too deeply" in refusal("[" * 20_000)


def test_aliases_multiply_nothing(refusal) -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "there is no such key" in refusal("\n".join(lines))
