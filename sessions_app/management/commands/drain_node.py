"""manage.py drain_node"""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from codeexec.audit.actors import Actor, command_actor
from codeexec.cli import TeachingCommand, WrongUse, changing, counted, option
from codeexec.numbers import within
from sessions_app.management.rows import named
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.workers import check_node
from sessions_app.services.nodes import drain_node, live_sessions, recycle_pool, resume_node

_POLL_SECONDS = 2.0
_MOST_SECONDS = 7 * 86_400.0
_WHEN_LOST = {
    "drain": "It can be drained as soon as its worker runs.",
    "resume": "It takes new sessions again as soon as its worker runs.",
}


class Command(TeachingCommand):
    help = (
        "Drains a worker node: it gets no new sessions, and those that it has run until they end. "
        "After that its host can be shut down without losing anything."
    )
    explanation = """
--resume makes the node take sessions again. --recycle only replaces its warm sandboxes by new ones;
sandboxes of sessions stay. With --wait the command ends when the node has no session left; Ctrl-C
stops waiting, and the node keeps draining.

`manage.py check_stack --only workers` lists the nodes.
"""
    examples = (
        "drain_node worker-2",
        "drain_node worker-2 --wait --timeout 3600",
        "drain_node worker-2 --resume",
        "drain_node worker-2 --recycle --json",
    )
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the node's name")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--resume", action="store_true", help="give it new sessions again")
        what.add_argument(
            "--recycle", action="store_true", help="replace its warm sandboxes, and drain nothing"
        )
        parser.add_argument("--wait", action="store_true", help="until it has no session left")
        parser.add_argument(
            "--timeout",
            type=option(within(float, 0, _MOST_SECONDS), "a number of seconds from 0 to 604800"),
            metavar="SECONDS",
            help="with --wait: give up after this, with exit code 1 (a week)",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["wait"] and (options["resume"] or options["recycle"]):
            raise WrongUse("--wait goes with draining, not with --resume or --recycle.")
        if options["timeout"] is not None and not options["wait"]:
            raise WrongUse("--timeout is for --wait; give both, or neither.")
        node = named(Node.objects.with_silence(), options["name"], "node")
        with changing(options):
            value = _do(node, command_actor("drain_node"), options)
        node.refresh_from_db()
        if node.status == Node.Status.LOST and value["action"] in _WHEN_LOST:
            raise CommandError(
                f"Nothing was changed: {check_node(node)} {_WHEN_LOST[value['action']]}"
            )
        if options["wait"] and not options["dry_run"]:
            seconds = options["timeout"]
            self._wait(node, _MOST_SECONDS if seconds is None else seconds)
        value |= {"node": node.name, "status": node.status, "dry_run": options["dry_run"]}
        value["live_sessions"] = live_sessions(node).count()
        self.answer(options, value, [_line(value)])

    def _wait(self, node: Node, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        reported = -1
        while left := live_sessions(node).count():
            if time.monotonic() >= deadline:
                raise CommandError(
                    f"{node.name} still has {counted(left, 'session')} after {seconds:g} s; it "
                    f"keeps draining. `manage.py stop_session --node {node.name}` ends them."
                )
            if left != reported:
                self.remark(f"{node.name}: {counted(left, 'session')} left")
                reported = left
            time.sleep(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0)))


def _do(node: Node, by: Actor, options: dict[str, Any]) -> dict[str, Any]:
    if options["recycle"]:
        return {"action": "recycle", "recycled": recycle_pool(node.pk, by=by)}
    if options["resume"]:
        return {"action": "resume", "changed": resume_node(node.pk, by=by)}
    return {"action": "drain", "changed": drain_node(node.pk, by=by)}


def _line(value: dict[str, Any]) -> str:
    would = " (a dry run: nothing was changed)" if value["dry_run"] else ""
    if value["action"] == "recycle":
        return f"{value['node']}: warm sandboxes being replaced: {value['recycled']}{would}"
    if not value["changed"]:
        return f"{value['node']} was not changed: it is {value['status']}"
    done = {"resume": "takes new sessions", "drain": "takes no new sessions"}[value["action"]]
    left = counted(value["live_sessions"], "session")
    return f"{value['node']} {done}; {left} live there{would}"
