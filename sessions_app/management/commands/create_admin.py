"""`manage.py create_admin`: the first account of the admin."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth import get_user_model

from codeexec.audit.actors import command_actor
from codeexec.audit.record import record
from codeexec.cli import TeachingCommand, changing

NAME = "admin"


class Command(TeachingCommand):
    """Prints one line, which set-up shows."""

    help = (
        "Creates the superuser `admin` with a random password, which is printed this once, "
        "unless there is a superuser already."
    )
    explanation = "A forgotten password is set anew with `manage.py changepassword admin`."
    examples = ("create_admin", "create_admin --json")
    has_dry_run = True

    def handle(self, *_args: Any, **options: Any) -> None:
        users = get_user_model().objects
        superuser = users.filter(is_superuser=True, is_active=True).first()
        if superuser is not None:
            name = superuser.get_username()
            value = {"username": name, "created": False}
            self.answer(options, value, [f"user {name} (password as set before)"])
            return
        password = secrets.token_urlsafe(12)
        with changing(options):
            created = users.create_superuser(NAME, password=password)
            record(command_actor("create_admin"), "user.create", created)
        if options["dry_run"]:
            value = {"username": NAME, "created": False, "dry_run": True}
            self.answer(options, value, [f"user {NAME} would be created"])
        else:
            value = {"username": NAME, "created": True, "password": password}
            self.answer(options, value, [f"user {NAME}, password {password} (shown this once)"])
