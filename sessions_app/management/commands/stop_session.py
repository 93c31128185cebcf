"""manage.py stop_session"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, WrongUse, add_yes, changing, counted
from sessions_app.management.rows import add_owners, find_one, owned
from sessions_app.models import Session
from sessions_app.services.sessions import stop_session

_SHOWN = 10


class Command(TeachingCommand):
    help = "Stops sessions: their programs are ended, their containers removed, their history kept."
    explanation = """
A session is named by the first digits of its id, eight at least; `manage.py sessions` lists them.
As with the console's button, the worker of its node removes the container within seconds. The
command asks for confirmation, unless --yes is given. A session that has ended already is left as it
is; that is no failure.
"""
    examples = (
        "stop_session 0f8e2c1a",
        "stop_session 0f8e2c1a 77ab09f3 --yes",
        "stop_session --environment python --dry-run",
        "stop_session --all --node worker-2 --yes --json",
    )
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", metavar="ID", help="sessions to stop")
        parser.add_argument("--all", action="store_true", help="every open session")
        add_owners(parser, "environment", "node")
        add_yes(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        sessions = _chosen(options)
        if sessions and not options["dry_run"]:
            names = ", ".join(str(session.pk)[:8] for session in sessions[:_SHOWN])
            names += " …" * (len(sessions) > _SHOWN)
            self.require_yes(options, f"Stop {counted(len(sessions), 'session')} ({names})?")
        by = command_actor("stop_session")
        with changing(options):
            stopped = [_stop(session, by) for session in sessions]
        self.answer(options, stopped, _lines(stopped, dry_run=options["dry_run"]))


def _chosen(options: dict[str, Any]) -> list[Session]:
    """Raises WrongUse, CommandError."""
    several = options["all"] or options["environment"] or options["node"]
    if bool(options["ids"]) == bool(several):
        raise WrongUse("Give ids of sessions, or else --all, --environment or --node.")
    if options["ids"]:
        found = [find_one(Session.objects.all(), each, "session") for each in options["ids"]]
        return list({session.pk: session for session in found}.values())
    return list(owned(Session.objects.open(), options).order_by("created_at"))


def _stop(session: Session, by: Any) -> dict[str, Any]:
    was_open = session.is_open
    after = stop_session(session.pk, Session.StopReason.OPERATOR, by=by)
    return {"session_id": session.pk, "asked": was_open, "status": after.status}


def _lines(stopped: list[dict[str, Any]], *, dry_run: bool) -> list[str]:
    lines = []
    for each in stopped:
        done = "would be stopped" if dry_run else each["status"]
        lines.append(f"{each['session_id']} {done if each['asked'] else 'had ended already'}")
    asked = sum(each["asked"] for each in stopped)
    return [*lines, f"{counted(asked, 'session')} in all"]
