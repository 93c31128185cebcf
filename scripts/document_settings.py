"""Writes the texts of `SETTINGS` to where operators read them: the comments of the shipped
configuration file, and the tables of docs/configuration.md.

    python -m scripts.document_settings            # writes
    python -m scripts.document_settings --check    # names what isn't up to date, with exit code 1

Sections and their order are those of the configuration file. A new setting goes into `SETTINGS`
and, as a line `#NAME=`, into its section of the file.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

from codeexec.configuration import BASE_DIR, CONF_FILE, SETTINGS, Setting
from codeexec.sizes import ALLOWED as SIZE

PAGE = BASE_DIR / "docs" / "configuration.md"
WIDTH = 100

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_HOST_NAME = "NODE_NAME"
"""Its default differs from host to host."""
_SECTION = re.compile(r"^# ---- (.+)$", re.MULTILINE)
_SETTING = re.compile(r"(?:^# .*\n)*^#([A-Z_]+)=.*\n", re.MULTILINE)
_TABLES = re.compile(r"(<!-- settings: .+? -->\n).*(<!-- /settings -->\n)", re.DOTALL)


def conf_file() -> str:
    """The configuration file with its settings' comments and defaults as they should be."""
    return _SETTING.sub(lambda found: _commented(_BY_NAME[found[1]]), CONF_FILE.read_text())


def _commented(setting: Setting) -> str:
    text = f"{setting.meaning} Allowed: {_allowed(setting)}."
    lines = textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    return "".join(f"# {line}\n" for line in lines) + f"#{setting.name}={_default(setting)}\n"


def _allowed(setting: Setting) -> str:
    """Without how sizes are written, which both texts explain once."""
    return setting.allowed.replace(SIZE, "a size")


def _default(setting: Setting) -> str:
    return "" if setting.name == _HOST_NAME else setting.default


def page() -> str:
    """The page with its tables as they should be."""
    tables = "\n".join(_tables())
    return _TABLES.sub(lambda found: f"{found[1]}\n{tables}\n{found[2]}", PAGE.read_text())


def _tables() -> Iterator[str]:
    _, *parts = _SECTION.split(CONF_FILE.read_text())
    for title, settings in zip(parts[::2], parts[1::2], strict=True):
        yield f"## {title}\n\n| setting | default | allowed | meaning |\n| --- | --- | --- | --- |"
        for name in _SETTING.findall(settings):
            yield _row(_BY_NAME[name])
        yield ""


def _row(setting: Setting) -> str:
    default = f"`{_default(setting)}`" if _default(setting) else "none"
    cells = (f"`{setting.name}`", default, _allowed(setting), setting.meaning)
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts.document_settings",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = False
    for path, text in ((CONF_FILE, conf_file()), (PAGE, page())):
        if path.read_text() == text:
            continue
        stale = True
        if check:
            print(f"{path} is not up to date; run python -m scripts.document_settings")
        else:
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
