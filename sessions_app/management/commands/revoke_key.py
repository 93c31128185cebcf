"""`manage.py revoke_key`: a key that is refused from now on."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from sessions_app.services.clients import ClientError, revoke_key


class Command(BaseCommand):
    help = "Has a key refused from now on, by every process of the API. For ever."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "prefix",
            metavar="PREFIX",
            help="the eight digits after `cex_`; `manage.py clients` lists them",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            revoked = revoke_key(options["prefix"])
        except ClientError as error:
            raise CommandError(str(error)) from error
        self.stdout.write("revoked" if revoked else "it was revoked before")
