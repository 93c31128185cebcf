"""From command templates to words: quoting is checked with real shells."""

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeexec.sandbox.types import PROGRAM_PATH
from environments_app.command_templates import (
    check_command,
    placeholder_values,
    render,
)
from environments_app.models import Environment
from environments_app.run_commands import build_commands

PRINT_ARGUMENTS = "/usr/bin/printf '%s\\0'"

names = st.text(
    st.characters(exclude_characters="\x00/", exclude_categories=["Cs"]), min_size=1, max_size=12
)
arguments = st.lists(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8),
    max_size=3,
)


def values(filename: str) -> dict[str, str]:
    return placeholder_values("/workspace", filename)


def words_seen(argv: tuple[str, ...]) -> list[str]:
    done = subprocess.run(argv, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("filename", "output_path"),
    [
        ("main.py", "/workspace/main"),
        ("pkg/mod.rs", "/workspace/pkg/mod"),
        ("archive.tar.gz", "/workspace/archive.tar"),
        ("Makefile", "/workspace/Makefile.out"),
        (".hidden", "/workspace/.hidden.out"),
        ("v1.2/main", "/workspace/v1.2/main.out"),
    ],
)
def test_the_output_path_is_the_file_without_its_extension(filename: str, output_path: str) -> None:
    filled = values(filename)
    assert filled["output_path"] == output_path != filled["file_path"]
    assert filled["file_path"] == f"/workspace/{filename}"
    assert filled["filename"] == filename


@pytest.mark.parametrize(("mib", "heap_mb"), [(256, "192"), (512, "384"), (17, "12"), (1, "8")])
def test_a_heap_is_less_than_the_memory(mib: int, heap_mb: str) -> None:
    filled = placeholder_values("/workspace", "main.js", memory_bytes=mib << 20)
    assert render("node --max-old-space-size={heap_mb} {file_path}", filled) == (
        "node",
        f"--max-old-space-size={heap_mb}",
        "/workspace/main.js",
    )


def test_words_are_filled_in_as_they_are() -> None:
    assert render("python -u {file_path}", values("a b.py")) == (
        "python",
        "-u",
        "/workspace/a b.py",
    )


def test_a_shell_script_gets_quoted_values() -> None:
    command = 'sh -c "rustc {file_path} -o {output_path} && {output_path}"'
    assert render(command, values("main.rs")) == (
        "sh",
        "-c",
        "rustc /workspace/main.rs -o /workspace/main && /workspace/main",
    )
    assert render(command, values("a b.rs"))[2] == (
        "rustc '/workspace/a b.rs' -o '/workspace/a b' && '/workspace/a b'"
    )


def test_a_script_without_white_space_is_quoted_as_well() -> None:
    assert render("sh -c {file_path}", values("a;b")) == ("sh", "-c", "'/workspace/a;b'")


def test_braces_of_the_shell_and_of_other_languages_stay() -> None:
    script = "sh -c 'echo ${HOME} {print} {} {1}'"
    with pytest.raises(ValueError, match=r"\{print\} is not a placeholder"):
        check_command(script)
    command = "sh -c 'echo ${HOME} {print $1} {} {1} ${file_path}'"
    check_command(command)
    assert render(command, values("x"))[2] == "echo ${HOME} {print $1} {} {1} ${file_path}"


@pytest.mark.parametrize("quote", ["", "'", '"'])
@given(name=names)
@example(name="a'b")
@example(name='$(touch x)"`id`\\')
@settings(max_examples=40, deadline=None)
def test_no_name_of_a_file_breaks_out_of_a_script(quote: str, name: str) -> None:
    script = f"exec {PRINT_ARGUMENTS} first {quote}{{filename}}{quote} last"
    argv = ("sh", "-c", *render("prefix " + _as_word(script), values(name))[1:])
    assert words_seen(argv) == ["first", name, "last"]


def _as_word(script: str) -> str:
    return "'" + script.replace("'", "'\"'\"'") + "'"


@pytest.mark.parametrize("shell", ["sh -c", "bash -ec", "env A=1 sh -c", "/bin/bash -e -c"])
@given(args=arguments)
@settings(max_examples=20, deadline=None)
def test_arguments_reach_the_last_program_of_a_script(shell: str, args: list[str]) -> None:
    command = f"{shell} {_as_word('true && ' + PRINT_ARGUMENTS + ' own; ')}"
    assert words_seen(render(command, values("main.py"), args)) == ["own", *args]


@given(args=arguments)
@settings(max_examples=20, deadline=None)
def test_arguments_are_appended_to_a_plain_command(args: list[str]) -> None:
    argv = render(f"{PRINT_ARGUMENTS} {{filename}}", values("main.py"), args)
    assert words_seen(argv) == ["main.py", *args]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('for a in "$@"; do echo "[$a]"; done', "[x]\n[y z]\n"),
        ("echo $2 $1", "y z x\n"),
        ("if true; then echo no arguments here; fi", "no arguments here\n"),
        ("(echo sub)", "sub\n"),
        ("echo $*", "x y z\n"),
        ("echo end;", "end x y z\n"),
    ],
)
def test_a_script_can_place_its_arguments_itself(script: str, expected: str) -> None:
    argv = render(f"sh -c {_as_word(script)}", values("main.py"), ["x", "y z"])
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == expected


def test_a_script_with_words_behind_it_gets_the_arguments_after_them() -> None:
    argv = render("sh -c 'echo $0 $1 $2' zero one", values("main.py"), ["two"])
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == (
        "zero one two\n"
    )


def test_the_compiler_gets_no_arguments() -> None:
    environment = Environment(
        compile_command="rustc -o {output_path} {file_path}", run_command="{output_path}"
    )
    commands = build_commands(environment, "src/main.rs", ["--fast"])
    assert commands.compile == ("rustc", "-o", PROGRAM_PATH, "/workspace/src/main.rs")
    assert commands.run == (PROGRAM_PATH, "--fast")
    assert commands.compiles_to_program_path


def test_a_run_command_that_names_the_program_by_itself_finds_it_beside_the_file() -> None:
    environment = Environment(
        compile_command="cc -o {output_path} {filename}", run_command="./main"
    )
    commands = build_commands(environment, "main.c")
    assert commands.compile == ("cc", "-o", "/workspace/main", "main.c")
    assert not commands.compiles_to_program_path


def test_without_a_compile_command_nothing_is_compiled() -> None:
    assert build_commands(Environment(run_command="python {filename}"), "m.py").compile is None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python {path}", r"\{path\} is not a placeholder; allowed: \{file_path\}, \{filename\}"),
        ('sh -c "x', "its quotes are not balanced"),
        ("   ", "there is no program in it"),
        ("'' x", "there is no program in it"),
        ("x\x00", "no NUL"),
        ("x" * 2001, "2000 characters at most"),
    ],
)
def test_commands_that_cannot_be_are_refused(command: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_command(command)
