"""The rules of `rules` and `command_templates` as Django validators."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError

from environments_app import rules
from environments_app.command_templates import check_command, check_names_the_file
from environments_app.runtimes import require_known_runtime


def _check(rule: rules.TextRule, value: str) -> None:
    try:
        rule.check(value)
    except ValueError as error:
        raise ValidationError(f"'{value}' is wrong; {error}.") from error


def name(value: str) -> None:
    _check(rules.NAME, value)


def image(value: str) -> None:
    _check(rules.IMAGE, value)


def filename(value: str) -> None:
    _check(rules.FILENAME, value)


def extension(value: str) -> None:
    _check(rules.EXTENSION, value)


def workspace_dir(value: str) -> None:
    _check(rules.WORKSPACE_DIR, value)


def user(value: str) -> None:
    _check(rules.USER, value)


def runtime(value: str) -> None:
    _check(rules.RUNTIME, value)


def preload(value: str) -> None:
    _check(rules.PRELOAD, value)


def title(value: str) -> None:
    _check(rules.TITLE, value)


def version(value: str) -> None:
    _check(rules.VERSION, value)


def editor_mode(value: str) -> None:
    _check(rules.EDITOR_MODE, value)


def sample(value: str) -> None:
    if len(value) > rules.SAMPLE.max_length or "\0" in value:
        raise ValidationError(f"It is wrong; allowed: {rules.SAMPLE.allowed}, and no NUL.")


def can_be_prestarted(prestart: str, preload: str, run_command: str) -> None:
    try:
        rules.check_prestart(prestart, preload, run_command)
    except ValueError as error:
        raise ValidationError({"prestart": f"This is wrong: {error}."}) from error


def command(value: str) -> None:
    try:
        check_command(value)
    except ValueError as error:
        raise ValidationError(f"This command is wrong: {error}.") from error


def runs_the_file(run_command: str, compile_command: str) -> None:
    try:
        check_names_the_file(run_command, compile_command)
    except ValueError as error:
        raise ValidationError({"run_command": f"This command is wrong: {error}."}) from error


def known_runtime(value: str) -> None:
    try:
        require_known_runtime(value)
    except ValueError as error:
        raise ValidationError({"runtime": f"'{value}' can't be used: {error}."}) from error


MAX_DOCKERFILE_BYTES = 64 * 1024
_FROM = re.compile(r"^[ \t]*FROM[ \t]+\S", re.IGNORECASE | re.MULTILINE)


def no_nul(value: str) -> None:
    if "\0" in value:
        raise ValidationError("It must not contain NUL characters.")


def dockerfile(value: str) -> None:
    """Refuses what no Docker Engine would build, before one is asked."""
    no_nul(value)
    if len(value.encode()) > MAX_DOCKERFILE_BYTES:
        raise ValidationError(f"It must be at most {MAX_DOCKERFILE_BYTES // 1024} KiB.")
    if not _FROM.search(value):
        raise ValidationError("It has no FROM; a Dockerfile must begin with a base image.")
