"""`manage.py create_admin`: the first account of the admin."""

import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

NAME = "admin"


class Command(BaseCommand):
    """Says what it did in one line, so that set-up can show it."""

    help = (
        "Creates the superuser `admin` with a random password, which is printed this once, "
        "unless there is a superuser already."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        users = get_user_model().objects
        superuser = users.filter(is_superuser=True, is_active=True).first()
        if superuser is not None:
            self.stdout.write(f"user {superuser.get_username()} (password as set before)")
            return
        password = secrets.token_urlsafe(12)
        users.create_superuser(NAME, password=password)
        self.stdout.write(f"user {NAME}, password {password} (shown this once)")
