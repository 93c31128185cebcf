"""Entry point for ASGI servers: `codeexec.asgi:application`."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "codeexec.settings")
django.setup(set_prefix=False)

from codeexec.http.serving import Application  # noqa: E402 -- the settings come first

application = Application()
