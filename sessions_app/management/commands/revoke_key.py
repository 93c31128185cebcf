"""`manage.py revoke_key`: a key that is refused from now on."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, changing
from sessions_app.access.clients import ClientError, find_key, revoke_key


class Command(TeachingCommand):
    help = "Has a key refused from now on, by every process of the API. For ever."
    examples = ("revoke_key 0a1b2c3d", "revoke_key 0a1b2c3d --dry-run")
    misuses = (ClientError,)
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "prefix",
            metavar="PREFIX",
            help="the eight digits after `cex_`; `manage.py clients` lists them",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        key = find_key(options["prefix"])
        with changing(options):
            revoked = revoke_key(key.prefix, by=command_actor("revoke_key"))
        value = {"client": key.client.name, "prefix": key.prefix, "revoked": revoked}
        done = "would be revoked" if options["dry_run"] else "is revoked"
        text = f"{key} of the client {key.client.name} {done if revoked else 'was revoked before'}"
        self.answer(options, value | {"dry_run": options["dry_run"]}, [text])
