"""Paths inside a workspace, validated once, where they enter the service."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from codeexec.bounds import PATH_BYTES, PATH_DEPTH
from codeexec.errors import InvalidPath

_NAME = r"(?:[^./\\{0}][^/\\{0}]*|\.[^./\\{0}][^/\\{0}]*|\.\.[^/\\{0}]+)".format(
    r"\x00-\x1f\x7f-\x9f"
)
PATTERN = rf"^(?:\.(?:/+\.)*/+)?{_NAME}(?:/+(?:\.|{_NAME}))*$"
"""What `workspace_path` accepts, without length and depth, as a pattern that JavaScript knows."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def workspace_path(text: str, field: str = "filename") -> str:
    """The path, relative to the workspace and in its plainest form (`./a//b.py` is `a/b.py`).

    `field`: of the request, for the error. Raises InvalidPath for anything that is not a file below
    the workspace.
    """
    parts = [part for part in text[: PATH_BYTES + 1].split("/") if part not in ("", ".")]
    reason = _refusal(text, parts)
    if reason:
        shown = text[:PATH_BYTES].encode(errors="replace").decode()
        bound: dict[str, Any] = {"maximum": PATH_BYTES} if reason == _TOO_LONG else {}
        detail = f"{field}: {shown!r} can't be a file in the workspace: {reason}."
        raise InvalidPath(detail, path=shown, field=field, **bound)
    return "/".join(parts)


def readable_path(text: str) -> str:
    """The path of a file to read. Programs name files as they like, so only paths that can't be
    below the workspace are refused. Raises InvalidPath.
    """
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in text or text.startswith("/"):
        shown = text[:PATH_BYTES].encode(errors="replace").decode()
        detail = f"path: {shown!r} must be a relative path inside the workspace."
        raise InvalidPath(detail, path=shown, field="path")
    return "/".join(parts)


def require_separate(paths: Iterable[str]) -> None:
    """Raises InvalidPath where one of these workspace paths is a folder of another."""
    known = set(paths)
    for path in known:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in known:
                detail = f"files: {folder!r} can't be both a file and the folder of {path!r}."
                raise InvalidPath(detail, path=path, field="files")
            folder = folder.rpartition("/")[0]


_TOO_LONG = f"a path has at most {PATH_BYTES} bytes and {PATH_DEPTH} levels"


def _refusal(text: str, parts: list[str]) -> str:
    if len(text) > PATH_BYTES:
        return _TOO_LONG
    if not parts or text.endswith("/"):
        return "it doesn't name a file"
    if text.startswith("/"):
        return "it must be relative to the workspace"
    if ".." in parts:
        return "it must not leave the workspace"
    if _CONTROL.search(text):
        return "it must not contain control characters or broken Unicode"
    if "\\" in text:
        return "folders must be separated by /"
    if len(text.encode()) > PATH_BYTES or len(parts) > PATH_DEPTH:
        return _TOO_LONG
    return ""
