"""`manage.py create_key`: another key for a client."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, changing
from sessions_app.access.clients import ClientError, create_client, create_key
from sessions_app.management.key_options import days, new_key_fields, shown
from sessions_app.management.rows import named
from sessions_app.models import Client

BY = command_actor("create_key")


class Command(TeachingCommand):
    help = (
        "Makes another key for a client, besides those that it has: it changes to the new one "
        "before the old one is revoked."
    )
    examples = (
        "create_key interviews",
        "create_key interviews --expires-in 90 --json",
        "create_key trying-out --create",
    )
    errors = (ClientError,)
    has_dry_run = True

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

    def handle(self, *_args: Any, **options: Any) -> None:
        dry_run, name, clients = options["dry_run"], options["name"], Client.objects.all()
        with changing(options):
            if options["create"] and not clients.filter(name=name).exists():
                create_client(name, by=BY)
            client = named(clients, name, "client")
            new = create_key(client, expires_in=options["expires_in"], by=BY)
        value = new_key_fields(client, new, dry_run=dry_run)
        self.answer(options, value, [shown(client, new, dry_run=dry_run)])
