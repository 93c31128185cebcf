"""Checks command templates and fills them in: the result is the words that a sandbox executes.

A template is split into words before it is filled in, so that a file name stays one word. In a
shell script (`sh -c "…"`) values are quoted for the shell.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache

from codeexec.sandbox.types import PROGRAM_PATH
from environments_app.rules import MAX_COMMAND_LENGTH

PLACEHOLDERS = ("file_path", "filename", "output_path", "heap_mb")

_LEAST_HEAP_MB = 8

# `${HOME}` is the shell's own, and `{print $1}` is awk's: neither is a placeholder.
_PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh"}
_SCRIPT_OPTION = re.compile(r"-[A-Za-z]*c")
_USES_ARGUMENTS = re.compile(r"\$[@*#1-9]|\$\{[@*#1-9]")
_ENDS_A_COMPOUND = re.compile(r"(?:^|[\s;])(?:fi|done|esac|\})$|\)$")


def placeholder_values(
    workspace_dir: str, filename: str, run_command: str = "", *, memory_bytes: int = 0
) -> dict[str, str]:
    """Values of the placeholders. A `run_command` with {output_path} has the program compiled to
    where it can't overwrite a user's file; one that names it itself, as `./main`, finds it beside
    the source. A heap gets three quarters of the sandbox's memory, so that a language that collects
    garbage does so before the kernel ends it.
    """
    file_path = posixpath.join(workspace_dir, filename)
    stem, extension = posixpath.splitext(file_path)
    beside = stem if extension else f"{file_path}.out"
    return {
        "file_path": file_path,
        "filename": filename,
        "output_path": PROGRAM_PATH if "{output_path}" in run_command else beside,
        "heap_mb": str(max(_LEAST_HEAP_MB, memory_bytes * 3 // 4 >> 20)),
    }


def check_command(template: str) -> None:
    """Raise ValueError with the reason if a template can't be rendered."""
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ValueError(f"{{{name}}} is not a placeholder; allowed: {known}")
    if "\x00" in template or len(template) > MAX_COMMAND_LENGTH:
        raise ValueError(f"allowed: {MAX_COMMAND_LENGTH} characters at most, and no NUL")
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ValueError("its quotes are not balanced") from error
    if not words or not words[0]:
        raise ValueError("there is no program in it")


def check_names_the_file(run_command: str, compile_command: str) -> None:
    """Raise ValueError if neither command gets the name of the program's file."""
    named = {*_PLACEHOLDER.findall(run_command), *_PLACEHOLDER.findall(compile_command)}
    if not named & {"file_path", "filename"}:
        where = "neither command names" if compile_command else "it doesn't name"
        raise ValueError(f"{where} the program's file; write {{file_path}} where it belongs")


def render(template: str, values: Mapping[str, str], args: Sequence[str] = ()) -> tuple[str, ...]:
    words = _words(template)
    script = _script_index(words)
    filled = [
        _fill_script(word, values)
        if index == script or re.search(r"\s", word)
        else _PLACEHOLDER.sub(lambda match: values[match[1]], word)
        for index, word in enumerate(words)
    ]
    if not args:
        return tuple(filled)
    if script is None or script < len(words) - 1:
        return (*filled, *args)
    return (*filled[:script], _passing_arguments(filled[script]), "sh", *args)


@lru_cache(maxsize=256)
def _words(template: str) -> tuple[str, ...]:
    """Kept, because every run needs them and splitting takes longer than filling in."""
    return tuple(shlex.split(template))


def _script_index(words: Sequence[str]) -> int | None:
    """Where the script of a `sh -c SCRIPT` stands, also in `env A=1 bash -ec SCRIPT`."""
    shell = next((i for i, w in enumerate(words) if posixpath.basename(w) in _SHELLS), None)
    if shell is None:
        return None
    for index in range(shell + 1, len(words) - 1):
        if _SCRIPT_OPTION.fullmatch(words[index]):
            return index + 1
    return None


def _fill_script(script: str, values: Mapping[str, str]) -> str:
    """Fill in a shell script; each value is quoted for its place."""
    parts, start, quote = [], 0, ""
    for match in _PLACEHOLDER.finditer(script):
        between = script[start : match.start()]
        quote = _open_quote(between, quote)
        parts += [between, _quoted(values[match[1]], quote)]
        start = match.end()
    return "".join([*parts, script[start:]])


def _open_quote(text: str, quote: str) -> str:
    """The quotation mark that is open after a piece of script; empty: none."""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif character in "'\"" and not quote:
            quote = character
    return quote


def _quoted(value: str, quote: str) -> str:
    if quote == "'":
        return value.replace("'", "'\"'\"'")
    if quote == '"':
        return re.sub(r'([\\$`"])', r"\\\1", value)
    return shlex.quote(value)


def _passing_arguments(script: str) -> str:
    """The script with its own arguments appended for its last program, unless it uses them.

    Nothing can be appended after `fi`, `done` and the like: such a script must contain `"$@"`.
    """
    stripped = script.rstrip("; \t\n")
    if _USES_ARGUMENTS.search(script) or _ENDS_A_COMPOUND.search(stripped):
        return script
    return f'{stripped} "$@"'
