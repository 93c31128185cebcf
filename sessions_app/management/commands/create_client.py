"""`manage.py create_client`: a client of the API, and its first key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.models import BigIntegerField

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, changing
from sessions_app.access.clients import ClientError, create_client, create_key
from sessions_app.callers import SCOPES, USUAL_SCOPES
from sessions_app.management.key_options import above_zero, days, new_key_fields, shown, size
from sessions_app.models import Client
from sessions_app.models.client import BOUNDS

_SCOPES = "\n".join(f"  {scope.value:<9} {meaning}" for scope, meaning in SCOPES.items())
EXPLANATION = f"""
A client is a platform that calls the API. It sees the sessions that it has opened, and no others.
Its keys may be used for these scopes (all but `metrics` when none is named):

{_SCOPES}

To change to a new key: `manage.py create_key NAME`, give it to the client, `manage.py revoke_key`
with the old one's prefix. Scopes and limits are changed in the admin.
"""


class Command(TeachingCommand):
    help = "Makes a client of the API and its first key, which is shown this once."

    explanation = EXPLANATION
    examples = (
        "create_client interviews",
        "create_client demo --max-live-sessions 5 --requests-per-minute 120 --expires-in 30",
        "create_client prometheus --scope metrics",
    )
    errors = (ClientError,)
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="unlike any other client's")
        parser.add_argument(
            "--scope",
            action="append",
            choices=[scope.value for scope in SCOPES],
            help="may be given several times",
        )
        parser.add_argument(
            "--expires-in", type=days, metavar="DAYS", help="of the key; without it: never"
        )
        for name in BOUNDS:
            _add_bound(parser, name)

    def handle(self, *_args: Any, **options: Any) -> None:
        dry_run, by = options["dry_run"], command_actor("create_client")
        with changing(options):
            client = create_client(
                options["name"],
                scopes=options["scope"] or USUAL_SCOPES,
                **{name: options[name] for name in BOUNDS},
                by=by,
            )
            new = create_key(client, expires_in=options["expires_in"], by=by)
        value = new_key_fields(client, new, dry_run=dry_run)
        self.answer(options, value, [shown(client, new, dry_run=dry_run)])


def _add_bound(parser: CommandParser, name: str) -> None:
    column: Any = Client._meta.get_field(name)
    in_bytes = isinstance(column, BigIntegerField)
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        type=size if in_bytes else above_zero,
        metavar="SIZE" if in_bytes else "N",
        help=column.help_text.replace("Empty:", "Without it:"),
    )
