"""The programs that are run: as little as each environment can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.figures import WrongPlan


@dataclass(frozen=True, kw_only=True)
class Program:
    code: str
    stdout: str | None = None
    """What it must print; None: anything."""

    def accepts(self, stdout: str) -> bool:
        return self.stdout is None or stdout == self.stdout


OF_ENVIRONMENTS = {
    "python": Program(code="print(1)", stdout="1\n"),
    "python-ml": Program(code="import numpy\nprint(numpy.arange(2).sum())", stdout="1\n"),
    "node": Program(code="console.log(1)", stdout="1\n"),
    "rust": Program(code='fn main() { println!("1"); }', stdout="1\n"),
}


def program_for(environment: str, file: Path | None) -> Program:
    """Raises WrongPlan where no program is known and none is given."""
    if file is not None:
        try:
            return Program(code=file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise WrongPlan(f"The program can't be read: {error}") from error
    if environment not in OF_ENVIRONMENTS:
        known = ", ".join(OF_ENVIRONMENTS)
        raise WrongPlan(
            f"No program is known for {environment!r}, only for {known}: name one with --program."
        )
    return OF_ENVIRONMENTS[environment]
