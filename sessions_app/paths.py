"""Paths inside a workspace, validated once, where they come in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from codeexec.errors import InvalidPath

MAX_LENGTH = 255
MAX_DEPTH = 16


def workspace_path(text: str) -> str:
    """The path, relative to the workspace and in its plainest form (`./a//b.py` is `a/b.py`).

    Raises InvalidPath for anything that is not a file below the workspace.
    """
    parts = [part for part in text.split("/") if part not in ("", ".")]
    reason = _refusal(text, parts)
    if reason:
        shown = text[:MAX_LENGTH].encode(errors="replace").decode()
        raise InvalidPath(f"{shown!r} can't be a file in the workspace: {reason}.", path=shown)
    return "/".join(parts)


def require_separate(paths: Iterable[str]) -> None:
    """Raises InvalidPath where one of these workspace paths is a folder of another."""
    known = set(paths)
    for path in known:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in known:
                detail = f"{folder!r} can't be both a file and the folder of {path!r}."
                raise InvalidPath(detail, path=path)
            folder = folder.rpartition("/")[0]


def _refusal(text: str, parts: list[str]) -> str:
    if not parts or text.endswith("/"):
        return "it names no file"
    if text.startswith("/"):
        return "it must be relative to the workspace"
    if ".." in parts:
        return "it must not leave the workspace"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return "it must not contain control characters or halves of surrogate pairs"
    if "\\" in text:
        return "folders are separated by /"
    if len(text.encode()) > MAX_LENGTH or len(parts) > MAX_DEPTH:
        return f"at most {MAX_LENGTH} bytes and {MAX_DEPTH} levels"
    return ""
