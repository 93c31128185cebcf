"""`manage.py unlock_login`: an operator who has mistyped too often needn't wait."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sessions_app.logins import forgive_logins


class Command(BaseCommand):
    help = "Lets a user of the console, who has given wrong passwords too often, try again at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="as it was given")
        parser.add_argument("--address", help="from this address only, as the admin shows it.")

    def handle(self, *_args: Any, username: str, address: str | None, **_options: Any) -> None:
        count = forgive_logins(username, address)
        self.stdout.write(f"{username}: {count} failed attempts count no more")
