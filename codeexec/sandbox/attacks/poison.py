"""Files that a language's tools read when they start, by the extension of its sources.

Each ends the program that reads it with exit code 66, so that a poisoned run is recognized. Paths
are relative to the workspace; those of HOME are below `~`.
"""

from __future__ import annotations

from collections.abc import Mapping

_PYTHON = "import os\nos._exit(66)\n"
_NODE = "process.exit(66);\n"
_SHELL = "#!/bin/sh\nexit 66\n"
_PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")

WORKSPACE: Mapping[str, Mapping[str, str]] = {
    ".py": {
        "sitecustomize.py": _PYTHON,
        "usercustomize.py": _PYTHON,
        "poison.pth": "import os; os._exit(66)\n",
        ".pythonrc": _PYTHON,
        "python": _SHELL,
        "lib/python3.13/site-packages/sitecustomize.py": _PYTHON,
    },
    ".js": {
        "node_modules/console/index.js": _NODE,
        "node_modules/process/index.js": _NODE,
        ".npmrc": "node-options=--require=./poison.js\n",
        ".noderc": _NODE,
        "poison.js": _NODE,
        "node": _SHELL,
    },
    ".rs": {
        ".cargo/config.toml": '[build]\nrustc-wrapper = "./poison"\n',
        "rust-toolchain.toml": '[toolchain]\nchannel = "poison"\n',
        "poison": _SHELL,
        "rustc": _SHELL,
        "cc": _SHELL,
        "ld": _SHELL,
        "std.rs": "compile_error!();\n",
    },
}

HOME: Mapping[str, Mapping[str, str]] = {
    ".py": {
        path: _PYTHON if path.endswith(".py") else "import os; os._exit(66)\n"
        for version in _PYTHON_VERSIONS
        for path in (
            f"~/.local/lib/python{version}/site-packages/usercustomize.py",
            f"~/.local/lib/python{version}/site-packages/poison.pth",
        )
    },
    ".js": {
        "~/.node_modules/console/index.js": _NODE,
        "~/.node_libraries/console/index.js": _NODE,
        "~/.npmrc": "node-options=--require=/tmp/poison.js\n",
    },
    ".rs": {
        "~/.cargo/config.toml": '[build]\nrustc-wrapper = "/tmp/poison"\n',
        "~/.cargo/bin/rustc": _SHELL,
        "~/poison": _SHELL,
    },
}

ANY: Mapping[str, str] = {"attack-left.sh": _SHELL}
"""For other languages."""


def planted(attack: str, extension: str) -> Mapping[str, str]:
    """The files that an attack leaves in such an environment: path to text."""
    if attack == "poisoned-workspace":
        return {**WORKSPACE.get(extension, {}), **ANY}
    if attack == "poisoned-home":
        return HOME.get(extension, ANY)
    return {}
