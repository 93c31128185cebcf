"""The rules for an environment's texts, which the YAML file and the admin share."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
IMAGE_PATTERN = r"^[a-z0-9]+([._-][a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$"
_MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_PATH_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"

# A tmpfs is mounted over the workspace, and would hide these folders of the image.
_SYSTEM_FOLDERS = (
    "bin|boot|dev|etc|lib|lib32|lib64|proc|root|run|sbin|sys|tmp|usr|opt/code-executor"
)
_PARENT_OF_RUNNER = "/opt"


@dataclass(frozen=True, kw_only=True)
class TextRule:
    """A pattern for the whole text, a pattern for exceptions, and both in words."""

    pattern: str
    allowed: str
    max_length: int
    refused: str = r"(?!)"

    def check(self, text: str) -> None:
        """Raise ValueError, with what is allowed as its text."""
        matches = re.fullmatch(self.pattern, text) and not re.fullmatch(self.refused, text)
        if not matches or len(text) > self.max_length:
            raise ValueError(f"allowed: {self.allowed}")


NAME = TextRule(
    pattern=NAME_PATTERN,
    allowed="lower-case letters and digits, with single dashes between them, 63 at most",
    max_length=63,
)
IMAGE = TextRule(
    pattern=IMAGE_PATTERN,
    allowed="lower-case letters and digits with single separators, such as python-ml, and a tag",
    max_length=200,
)
FILENAME = TextRule(
    pattern=rf"{_PATH_PART}(/{_PATH_PART})*",
    allowed="a path inside the workspace, such as main.py",
    max_length=200,
)
EXTENSION = TextRule(
    pattern=r"(\.[A-Za-z0-9_+-]+)+", allowed="an extension with its dot, such as .py", max_length=20
)
WORKSPACE_DIR = TextRule(
    pattern=rf"(/{_PATH_PART})+",
    refused=rf"{_PARENT_OF_RUNNER}|/({_SYSTEM_FOLDERS})(/.*)?",
    allowed="an absolute path such as /workspace, not below a folder of the system",
    max_length=200,
)
USER = TextRule(
    pattern=r"[a-z_][a-z0-9_-]*|[0-9]+(:[0-9]+)?",
    refused=r"root|0+(:[0-9]+)?",
    allowed="a user's name in the image, a uid or uid:gid, but not root",
    max_length=32,
)
RUNTIME = TextRule(
    pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    allowed="a runtime that the Docker Engine knows, such as runc or runsc",
    max_length=100,
)
PRELOAD = TextRule(
    pattern=rf"({_MODULE}(, ?{_MODULE})*)?",
    allowed="names of Python modules with commas between them, such as numpy, pandas",
    max_length=500,
)
PRESTARTED = {
    "python": r"\S*\bpython[0-9.]*( -[bBdOqRuvx]+| -[WX] ?[^\s-]\S*)* \{file_path\}.*",
    "node": r"\S*\bnode(js)?( --(?!test|run|watch|eval|print|check|inspect|import)[a-z]\S*)* "
    r"\{file_path\}.*",
}
"""The run command of an environment that is pre-started so: the interpreter itself, which reads its
variables and nothing but the file. With -I, -E or -S Python would not wait for a run.
"""
DESCRIPTION = TextRule(pattern=r"[^\x00]*", allowed="1000 characters at most", max_length=1000)


_LINE = r"[^\x00-\x1f\x7f]*"
TITLE = TextRule(pattern=_LINE, allowed="one line of 100 characters at most", max_length=100)
VERSION = TextRule(pattern=_LINE, allowed="one line of 50 characters at most", max_length=50)
EDITOR_MODE = TextRule(
    pattern=r"([A-Za-z0-9][A-Za-z0-9+#._/-]*)?",
    allowed="a name that editors know, such as python or text/x-csrc",
    max_length=50,
)
SAMPLE = TextRule(pattern=r"[^\x00]*", allowed="16384 characters at most", max_length=16_384)


def check_kind_of_prestart(text: str) -> None:
    if text not in PRESTARTED:
        raise ValueError(f"allowed: {', '.join(PRESTARTED)}")


def check_prestart(prestart: str, preload: str, run_command: str) -> None:
    """Raise ValueError, with what is wrong and allowed, where an environment can't be pre-started
    so.
    """
    if preload and prestart != "python":
        raise ValueError("modules can be preloaded where prestart is python, and nowhere else")
    if prestart and not re.fullmatch(PRESTARTED[prestart], run_command):
        allowed = f"{prestart} {{file_path}}, with options that don't change where it starts"
        raise ValueError(f"run_command can't be started ahead; allowed: {allowed}")


MAX_COMMAND_LENGTH = 2000
MAX_WARM_POOL = 100
USUAL_WARM_POOL_MAX = 8
"""For an environment without a `warm_pool_max`, whose `warm_pool_size` is neither 0 nor more."""
