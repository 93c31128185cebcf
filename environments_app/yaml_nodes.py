"""Reads YAML as nodes, so that each problem is reported with its line and key."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from codeexec.bounds import CONFIGURATION_BYTES

T = TypeVar("T")

_TAG = "tag:yaml.org,2002:"


class DefinitionsError(Exception):
    """The file can't be used. The text has one line for each problem."""


@dataclass(kw_only=True)
class Problems:
    """The problems of one file."""

    filename: str
    lines: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, key: str, message: str) -> None:
        where = f"{self.filename}, line {line}, {key}".rstrip(", ")
        self.lines.append((line, f"{where}: {message}"))

    def raise_if_any(self) -> None:
        if self.lines:
            raise DefinitionsError("\n".join(text for _, text in sorted(self.lines)))


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of the file, with the place where it stands."""

    key: str
    """Dotted: `environments.rust.limits.memory`."""
    line: int
    node: Node
    problems: Problems

    def problem(self, message: str) -> None:
        self.problems.add(self.line, self.key, message)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing after the colon, or only empty quotes."""
        return self.node.tag == f"{_TAG}null" or self.node.value == ""

    def missing(self, key: str) -> None:
        name = f"{self.key}.{key}".lstrip(".")
        self.problems.add(self.line, name, "is missing")

    def check_name(self, name: str, check: Callable[[str], None]) -> None:
        """Add a problem if `check` refuses this entry's own name."""
        try:
            check(name)
        except ValueError as error:
            self.problem(f"the name {name!r} is wrong; {error}")

    def mapping(self) -> dict[str, Value]:
        """Its entries by name; wrong types and duplicate keys become problems."""
        if not isinstance(self.node, MappingNode):
            self.problem(f"{self._found()} is wrong; allowed: keys with values")
            return {}
        entries: dict[str, Value] = {}
        for key_node, node in self.node.value:
            self._take(entries, key_node, node)
        return entries

    def _take(self, entries: dict[str, Value], key_node: Node, node: Node) -> None:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            self.problems.add(line, self.key, "a key must be a single word")
            return
        name = str(key_node.value)
        key = f"{self.key}.{name}".lstrip(".")
        if name in entries:
            self.problems.add(line, key, f"is there already, in line {entries[name].line}")
            return
        entries[name] = Value(key=key, line=line, node=node, problems=self.problems)

    def text(self) -> str | None:
        """A text; None, and a problem, for anything else."""
        if isinstance(self.node, ScalarNode) and self.node.tag == f"{_TAG}str":
            return str(self.node.value)
        allowed = "a text (in quotes where it looks like something else)"
        self.problem(f"{self._found()} is wrong; allowed: {allowed}")
        return None

    def flag(self) -> bool | None:
        if isinstance(self.node, ScalarNode) and self.node.tag == f"{_TAG}bool":
            return self.node.value.lower() in ("true", "yes", "on")
        self.problem(f"{self._found()} is wrong; allowed: true or false")
        return None

    def parsed(self, parse: Callable[[str], T], allowed: str) -> T | None:
        """The result of `parse` for a single value; its ValueError becomes a problem."""
        tags = [f"{_TAG}{name}" for name in ("str", "int", "float")]
        if isinstance(self.node, ScalarNode) and self.node.tag in tags:
            try:
                return parse(self.node.value.strip())
            except ValueError:
                pass
        self.problem(f"{self._found()} is wrong; allowed: {allowed}")
        return None

    def checked(self, check: Callable[[str], None]) -> str | None:
        """A text that `check` accepts; its ValueError states the problem."""
        text = self.text()
        return None if text is None else self._accepted(text, check)

    def joined(self, check: Callable[[str], None]) -> str | None:
        """A list of texts, with commas between them, that `check` accepts."""
        nodes: list[Any] = self.node.value if isinstance(self.node, SequenceNode) else [None]
        if not all(isinstance(node, ScalarNode) for node in nodes):
            self.problem(f"{self._found()} is wrong; allowed: a list such as [numpy, pandas]")
            return None
        return self._accepted(", ".join(str(node.value) for node in nodes), check)

    def _accepted(self, text: str, check: Callable[[str], None]) -> str | None:
        try:
            check(text)
        except ValueError as error:
            self.problem(f"{text!r} is wrong; {error}")
            return None
        return text

    def _found(self) -> str:
        if isinstance(self.node, MappingNode):
            return "keys with values"
        if isinstance(self.node, SequenceNode):
            return "a list"
        return "nothing" if self.is_empty else repr(self.node.value)


def known_entries(value: Value, known: Iterable[str]) -> dict[str, Value]:
    """A mapping's entries that have a value; unknown names become problems."""
    names = list(known)
    entries = value.mapping()
    for name in [name for name in entries if name not in names]:
        entries.pop(name).problem(f"there is no such key{suggestion(name, names)}")
    return {name: entry for name, entry in entries.items() if not entry.is_empty}


def suggestion(name: str, names: Iterable[str]) -> str:
    """`; did you mean …?`, or all names if none is similar."""
    ordered = list(names)
    near = difflib.get_close_matches(name, ordered, n=1)
    return f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(ordered)}"


def read_document(path: Path) -> Value:
    """The root of a YAML file. Raises DefinitionsError if it isn't YAML."""
    problems = Problems(filename=path.name)
    try:
        with path.open("rb") as file:
            data = file.read(CONFIGURATION_BYTES + 1)
        if len(data) > CONFIGURATION_BYTES:
            raise DefinitionsError(f"{path.name}: more than {CONFIGURATION_BYTES} bytes")
        # An alias is the same node once more, so aliases can't multiply the data.
        node = yaml.compose(data, Loader=yaml.SafeLoader)
    except RecursionError:
        raise DefinitionsError(f"{path.name}: it is nested too deeply") from None
    except OSError as error:
        raise DefinitionsError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DefinitionsError(_syntax_problem(path, error)) from error
    if node is None:
        raise DefinitionsError(f"{path.name}, line 1: the file is empty")
    return Value(key="", line=node.start_mark.line + 1, node=node, problems=problems)


def _syntax_problem(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        line = error.problem_mark.line + 1
        return f"{path.name}, line {line}: this is no YAML: {error.problem}"
    return f"{path.name}: this is no YAML: {' '.join(str(error).split())}"
