"""The programs that are run: as little as each environment can do, and what candidates write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.figures import WrongPlan


@dataclass(frozen=True, kw_only=True)
class Program:
    code: str
    stdout: str | None = None
    """What it must print; None: anything."""
    comment: str = ""
    """How a comment begins. If it is given, each run is another program: nothing of an earlier one
    can be used again."""

    def accepts(self, stdout: str) -> bool:
        return self.stdout is None or stdout == self.stdout

    def code_of(self, number: int) -> str:
        """Of that run."""
        return f"{self.code}\n{self.comment} run {number}\n" if self.comment else self.code


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


@dataclass(frozen=True, kw_only=True)
class Everyday:
    """A program as candidates write them: a row of the tables."""

    key: str
    environment: str
    title: str
    program: Program


_PANDAS = """\
import pandas

print(pandas.Series([1, 2, 3]).sum())
"""
_SCIKIT = """\
from sklearn.linear_model import LinearRegression

model = LinearRegression().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
print(round(model.predict([[3.0]])[0]))
"""
_MATPLOTLIB = """\
import matplotlib.pyplot as plt

plt.plot([1, 2, 3], [1, 4, 9])
plt.savefig("plot.png")
print(len(plt.gca().lines))
"""
_HELLO = 'fn main() { println!("1"); }'
_GENERICS = """\
use std::collections::HashMap;
use std::hash::Hash;

trait Shape {
    fn area(&self) -> f64;
}

struct Square(f64);

impl Shape for Square {
    fn area(&self) -> f64 {
        self.0 * self.0
    }
}

fn count<T: Eq + Hash, I: IntoIterator<Item = T>>(items: I) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_insert(0) += 1;
    }
    counts
}

fn main() {
    let counts = count("to be or not to be".split_whitespace());
    let mut words: Vec<_> = counts.into_iter().filter(|(_, number)| *number > 1).collect();
    words.sort();
    let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Square(2.0)), Box::new(Square(3.0))];
    let areas: Vec<String> = shapes.iter().map(|shape| shape.area().to_string()).collect();
    println!("{} {}", areas.join(" "), words[0].0);
}
"""

EVERYDAY: Sequence[Everyday] = (
    Everyday(
        key="python",
        environment="python",
        title="python, `print(1)`",
        program=OF_ENVIRONMENTS["python"],
    ),
    Everyday(
        key="pandas",
        environment="python-ml",
        title="python-ml, `import pandas` and a sum",
        program=Program(code=_PANDAS, stdout="6\n"),
    ),
    Everyday(
        key="scikit-learn",
        environment="python-ml",
        title="python-ml, fit of scikit-learn's `LinearRegression`",
        program=Program(code=_SCIKIT, stdout="7\n"),
    ),
    Everyday(
        key="matplotlib",
        environment="python-ml",
        title="python-ml, matplotlib's `savefig`",
        program=Program(code=_MATPLOTLIB, stdout="1\n"),
    ),
    Everyday(
        key="node",
        environment="node",
        title="node, `console.log(1)`",
        program=OF_ENVIRONMENTS["node"],
    ),
    Everyday(
        key="rust-first",
        environment="rust",
        title="rust, `println!`, first",
        program=Program(code=_HELLO, stdout="1\n", comment="//"),
    ),
    Everyday(
        key="rust-again",
        environment="rust",
        title="rust, `println!`, again",
        program=Program(code=_HELLO, stdout="1\n"),
    ),
    Everyday(
        key="rust-generics",
        environment="rust",
        title="rust, 30 lines with generics, first",
        program=Program(code=_GENERICS, stdout="4 9 be\n", comment="//"),
    ),
)
"""In the order of the tables. "First" is another program in each run, "again" always the same."""

EVERYDAY_KEYS = tuple(each.key for each in EVERYDAY)
