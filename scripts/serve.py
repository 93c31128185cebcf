"""What `scripts/server` does once Python's packages are installed: the rest of the set-up, the
first program, and serving until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from codeexec import configuration
from scripts.base_image import ensure_base_image
from scripts.docker_engine import running_engine
from scripts.first_program import Answer, run_first_program, wait_until_healthy
from scripts.local_postgres import LocalPostgres
from scripts.management import manage, manage_output
from scripts.preconditions import only_one, require_free_port
from scripts.prepare import prepare
from scripts.processes import BackgroundCommand, Part
from scripts.static_files import collect_static_files
from scripts.steps import (
    SetUpError,
    Stopped,
    ignore_signals,
    reported,
    run_logged,
    say,
    step,
    stop_on_signals,
)

WATCH_SECONDS = 0.5
FIRST_CLIENT = "first-program"
ACCESS = {
    "open": "no key needed, reachable from this machine only",
    "key": "with a key; `.venv/bin/python manage.py create_client NAME` makes one",
}


class Server:
    """One run of the service on this machine. What it starts, `stack` stops, in reverse."""

    def __init__(self, config: configuration.Values, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack
        self._data: Path = config["DATA_DIR"]
        self._logs = self._data / "logs"
        self._log = self._logs / "set-up.log"
        self._parts: list[Part] = []
        self._address = f"http://{_reachable(config['API_HOST'])}:{config['API_PORT']}"
        content = yaml.safe_load(config["ENVIRONMENTS_FILE"].read_text()) or {}
        defaults = content.get("defaults") or {}
        self._environment = str(defaults.get("default_environment") or "python")

    def set_up(self) -> None:
        """Everything that has to be there before the service can start."""
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.enter_context(only_one(self._data / "server.lock"))
        require_free_port(self._config["API_HOST"], self._config["API_PORT"])
        socket = self._config["DOCKER_SOCKET"]
        engine = self._stack.enter_context(running_engine(socket, self._logs))
        if engine.daemon is not None:
            self._parts.append(engine.daemon)
        ensure_base_image(engine.client, socket, self._log)
        if not self._config["DATABASE_URL"]:
            self._start_database()
        collect_static_files(self._log)
        prepare(self._log, self._environment)

    def start(self) -> None:
        """Starts worker and API, has them run a program, and shows its answer."""
        self._stack.callback(self._remove_sandboxes)
        with step("API and worker") as current:
            self._start_part("worker", manage("run_worker"), stop_seconds=20)
            self._start_part("API", manage("run_api"), stop_seconds=10)
            admin = manage_output("create_admin")  # while they start
            wait_until_healthy(f"{self._address}/api/v1", self._parts)
            current.outcome = "healthy"
        with step("First program through the API") as current:
            with self._key() as key:
                answer = run_first_program(f"{self._address}/api/v1", self._environment, key)
            current.outcome = "the right answer" if answer else "none for this environment"
        self._show(answer, admin)

    @contextmanager
    def _key(self) -> Iterator[str]:
        """A key for as long as it is needed; none where the API asks for none."""
        if self._config["API_AUTH"] == "open":
            yield ""
            return
        new = json.loads(
            manage_output("create_key", FIRST_CLIENT, "--create", "--expires-in", "0.01", "--json")
        )
        try:
            yield new["key"]
        finally:
            manage_output("revoke_key", new["prefix"])

    def serve(self) -> None:
        """Builds the other environments beside it, and keeps the parts running. Never returns."""
        building = BackgroundCommand(
            "[environments] ", manage("build_environments", "--missing", "--brief")
        )
        self._stack.callback(building.stop)
        while True:
            for part in self._parts:
                part.watch()
            time.sleep(WATCH_SECONDS)

    def _start_database(self) -> None:
        with step("PostgreSQL") as current:
            database = LocalPostgres(self._data / "postgres", self._logs / "database.log")
            self._stack.callback(database.stop)
            database.start()
            current.outcome = "private server is running"
        self._parts.append(database.part)
        os.environ["DATABASE_URL"] = database.url  # for every process that is started from here

    def _start_part(self, name: str, argv: list[str], *, stop_seconds: float) -> None:
        part = Part(name, argv, self._logs / f"{name.lower()}.log", stop_seconds=stop_seconds)
        self._stack.callback(part.stop)
        part.start()
        self._parts.append(part)

    def _remove_sandboxes(self) -> None:
        try:
            run_logged(manage("cleanup_sessions", "--all"), self._log)
        except SetUpError as error:
            say(f"Sandboxes may be left: {error}")

    def _show(self, answer: Answer | None, admin: str) -> None:
        if answer is not None:
            print(f"\n{_indented(answer.program)}\n")
            print(f"  answers in {1000 * answer.seconds:.0f} ms:\n")
            print(f"{_indented(answer.stdout)}\n")
        print(f"  API       {self._address}/api/v1")
        print(f"  Try it    {self._address}/docs  (reference: {self._address}/redoc)")
        print(f"  Admin     {self._address}/admin/  {admin}")
        print(f"  Access    {ACCESS[self._config['API_AUTH']]}")
        print(f"  Logs      {self._logs}")
        print("\n  Ctrl-C stops everything.\n", flush=True)


def _reachable(host: str) -> str:
    """An address to reach a listener by: one that listens everywhere is reached on loopback."""
    if host in ("0.0.0.0", ""):  # noqa: S104 -- compared, not listened on
        return "127.0.0.1"
    return f"[{'::1' if host == '::' else host}]" if ":" in host else host


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    stop_on_signals()
    with reported(), ExitStack() as stack:
        try:
            server = Server(configuration.load(), stack)
            server.set_up()
            server.start()
            server.serve()
        except configuration.ConfigurationError as error:
            raise SetUpError(str(error)) from error
        except Stopped:
            say("Stopping")
        finally:
            ignore_signals()
    say("Stopped")


if __name__ == "__main__":
    main()
