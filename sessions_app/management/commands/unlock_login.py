"""`manage.py unlock_login`: lets an operator log in again after too many wrong passwords."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, changing, counted
from sessions_app.access.console_login import forgive_logins


class Command(TeachingCommand):
    help = "Lets a user who typed too many wrong passwords for the console try again at once."
    examples = ("unlock_login ada", "unlock_login ada --address 192.0.2.7")
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", metavar="NAME", help="the user's name, as it was typed")
        parser.add_argument("--address", help="from this address only, as the admin shows it")

    def handle(self, *_args: Any, **options: Any) -> None:
        name = options["username"]
        with changing(options):
            count = forgive_logins(name, options["address"], by=command_actor("unlock_login"))
        value = {"username": name, "forgiven": count, "dry_run": options["dry_run"]}
        done = "would be forgotten" if options["dry_run"] else "forgotten"
        text = f"{name}: {counted(count, 'failed attempt')} {done}"
        self.answer(options, value, [text if count else f"{name} has no failed attempts"])
