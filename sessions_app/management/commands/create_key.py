"""`manage.py create_key`: another key for a client."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from sessions_app.management.key_options import days, told
from sessions_app.models import Client
from sessions_app.services.clients import ClientError, create_client, create_key, find_client


class Command(BaseCommand):
    help = (
        "Makes another key for a client, besides those that it has: it changes to the new one "
        "before the old one is revoked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="of the client")
        parser.add_argument(
            "--expires-in", type=days, metavar="DAYS", help="of the key; without it: never"
        )
        parser.add_argument(
            "--create",
            action="store_true",
            help="the client, too, where there is none: with the usual scopes and no limits",
        )
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            client = _client(options["name"], create=options["create"])
        except ClientError as error:
            raise CommandError(str(error)) from error
        new = create_key(client, expires_in=options["expires_in"])
        self.stdout.write(told(client, new, as_json=options["json"]))


def _client(name: str, *, create: bool) -> Client:
    """Raises ClientError."""
    if create and not Client.objects.filter(name=name).exists():
        return create_client(name)
    return find_client(name)
