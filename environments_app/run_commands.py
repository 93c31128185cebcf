"""The commands with which an environment compiles and runs a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from environments_app.command_templates import placeholder_values, render
from environments_app.models import Environment


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands of one run, as words."""

    compile: tuple[str, ...] | None
    run: tuple[str, ...]
    compiles_to_program_path: bool
    """The compile command writes the program to PROGRAM_PATH."""


def build_commands(environment: Environment, filename: str, args: Sequence[str] = ()) -> Commands:
    """The commands for one file of the workspace; `args` are passed to the program."""
    compile_command, run_command = environment.compile_command, environment.run_command
    values = placeholder_values(
        environment.workspace_dir,
        filename,
        run_command,
        memory_bytes=environment.limits().memory_bytes,
    )
    return Commands(
        compile=render(compile_command, values) if compile_command else None,
        run=render(run_command, values, args),
        compiles_to_program_path="{output_path}" in run_command,
    )
