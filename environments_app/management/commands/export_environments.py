"""Write the environments as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from codeexec.cli import TeachingCommand
from environments_app.exporting import environments_yaml
from environments_app.models import Environment


class Command(TeachingCommand):
    help = "Writes all environments as they are now, as a file that seed_environments takes."
    explanation = (
        "With --dockerfiles, the Dockerfiles that were changed in the console and promoted are\n"
        "written too, each as DIR/<name>/Dockerfile."
    )
    examples = (
        "export_environments > environments.yaml",
        "export_environments --dockerfiles environments",
    )
    errors = (ValueError, OSError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dockerfiles", type=Path, metavar="DIR", help="write promoted Dockerfiles there"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        text = environments_yaml()
        folder: Path | None = options["dockerfiles"]
        written = [] if folder is None else _write_dockerfiles(folder)
        for path in written:
            self.remark(f"{path} is written.")
        value = {"yaml": text, "dockerfiles": [str(path) for path in written]}
        self.answer(options, value, text.splitlines())


def _write_dockerfiles(folder: Path) -> list[Path]:
    written = []
    for row in Environment.objects.exclude(build=None).select_related("build"):
        path = folder / row.name / "Dockerfile"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row.build.dockerfile if row.build else "")
        written.append(path)
    return written
