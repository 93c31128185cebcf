"""What an earlier run of a session can plant for a later one: each plant is tried over HTTP. What
is closed does nothing. What isn't is in docs/isolation.md, with where judged code runs instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from scripts.steps import ROOT
from tests.support.stack import Client, Stack, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

HONEST = "honest\n"
FORGED = "forged\n"
FORGE = "import os; os.write(1, b'forged\\\\n'); os._exit(0)"
LINKED = """
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void forge(void) { _exit(write(1, "forged\\n", 7) != 7); }
"""
RUST_PLANT = """
use std::fs::write;
use std::process::Command;
fn main() {
    let object = "/workspace/evil.o";
    let made = Command::new("gcc").args(["-c", "-o", object, "/workspace/evil.c"]).status();
    assert!(made.unwrap().success());
    write("libgcc_s.so.1", format!("INPUT({object})")).unwrap();
    println!("planted");
}
"""


@dataclass(frozen=True, kw_only=True)
class Plant:
    environment: str
    """Whose language it is."""
    code: str
    """The earlier run; it prints `planted`."""
    later: dict[str, Any]
    """What is run then; untouched it prints `honest`."""
    files: dict[str, str] = field(default_factory=dict)
    prints: str = FORGED
    """What the later run prints where the plant works."""


def python(write: str, **later: Any) -> Plant:
    code = f"import os, pathlib, site, sys\n{write}\nprint('planted')"
    return Plant(environment="python", code=code, later={"code": "print('honest')", **later})


def node(write: str, **later: Any) -> Plant:
    code = f"const fs = require('fs');\n{write}\nconsole.log('planted');"
    return Plant(environment="node", code=code, later=later)


USER_SITE = "home = pathlib.Path(site.getusersitepackages()); home.mkdir(parents=True)\n"
UNCHECKED = f"""
import py_compile
pathlib.Path('other.py').write_text("{FORGE}")
pathlib.Path('__pycache__').mkdir(exist_ok=True)
for tag in (sys.implementation.cache_tag,):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile('other.py', f'__pycache__/solution.{{tag}}.pyc', invalidation_mode=mode)
os.remove('other.py')
"""
SOLUTION = {
    "files": {"solution.py": "SAYS = 'honest'"},
    "code": "import solution\nprint(solution.SAYS)",
}
JS_FORGE = "require('fs').writeSync(1, 'forged\\\\n'); process.exit(0)"
JS_SOLUTION = {
    "files": {"solution.js": "module.exports = 'honest'"},
    "code": "console.log(require('./solution'))",
}
JS_LIBRARY = {
    "code": "let said = 'honest';\n"
    "try { said = require('chai'); } catch (error) {}\nconsole.log(said);"
}

CLOSED = {
    "python: usercustomize in ~/.local": python(
        USER_SITE + f"(home / 'usercustomize.py').write_text(\"{FORGE}\")"
    ),
    "python: a .pth file in ~/.local": python(
        USER_SITE + f"(home / 'x.pth').write_text(\"{FORGE}\")"
    ),
    "python: unchecked byte code of the sent file": python(UNCHECKED, **SOLUTION),
    "rust: a linker script in the place of a library": Plant(
        environment="rust",
        code=RUST_PLANT,
        files={"evil.c": LINKED},
        later={"code": 'fn main() { println!("honest"); }'},
    ),
}
DOCUMENTED = {
    "a module of the standard library's name beside the program": python(
        f"pathlib.Path('json.py').write_text(\"{FORGE}\")", code="import json\nprint('honest')"
    ),
    "a package `solution/` before a sent `solution.py`": python(
        f"os.mkdir('solution'); pathlib.Path('solution/__init__.py').write_text(\"{FORGE}\")",
        **SOLUTION,
    ),
    "a file `solution` before a sent `solution.js`": node(
        f"fs.writeFileSync('solution', \"{JS_FORGE}\");", **JS_SOLUTION
    ),
    "modules in `node_modules`": node(
        "fs.mkdirSync('node_modules/chai', {recursive: true});\n"
        f"fs.writeFileSync('node_modules/chai/index.js', \"{JS_FORGE}\");",
        **JS_LIBRARY,
    ),
    "modules in `~/.node_modules`": node(
        "const place = process.env.HOME + '/.node_modules/chai';\n"
        "fs.mkdirSync(place, {recursive: true});\n"
        f"fs.writeFileSync(place + '/index.js', \"{JS_FORGE}\");",
        **JS_LIBRARY,
    ),
    "a `package.json` that declares what a program's files are": Plant(
        environment="node",
        code="require('fs').writeFileSync('package.json', '{\"type\": \"module\"}');\n"
        "console.log('planted');",
        later={"code": "require('fs'); console.log('honest');"},
        prints="",
    ),
    "files that stay": python(
        "pathlib.Path('kept').write_text('forged')",
        code="import os\nprint(open('kept').read() if os.path.exists('kept') else 'honest')",
    ),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
        running.stop("worker")
        running.manage("cleanup_sessions", "--all")


def printed_later(client: Client, plant: Plant) -> str:
    """By the run after the plant; one in a session of its own is honest whatever the plant."""
    assert client.execute(client.open(plant.environment), **plant.later)["stdout"] == HONEST
    session_id = client.open(plant.environment)
    planted = client.execute(session_id, plant.code, files=plant.files)
    assert planted["stdout"] == "planted\n", planted
    printed = client.execute(session_id, **plant.later)["stdout"]
    client.stop(session_id)
    return str(printed)


@pytest.mark.parametrize("name", CLOSED)
def test_a_plant_that_is_closed_changes_nothing(name: str, stack: Stack) -> None:
    assert printed_later(stack.client, CLOSED[name]) == HONEST


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_plant_that_works_is_one_that_the_documentation_names(name: str, stack: Stack) -> None:
    text = " ".join((ROOT / "docs" / "isolation.md").read_text().split())
    assert name in text
    assert printed_later(stack.client, DOCUMENTED[name]) == DOCUMENTED[name].prints


def test_the_documents_state_where_judged_code_runs() -> None:
    text = " ".join((ROOT / "docs" / "isolation.md").read_text().split())
    assert "Judged code never runs where a candidate's code ran before" in text
