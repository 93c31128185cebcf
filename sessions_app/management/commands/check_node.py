"""`manage.py check_node`: whether this node's worker is alive, by its exit code."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER


class Command(BaseCommand):
    help = "Fails when the worker of this node (NODE_NAME) has given no sign of life lately."

    def handle(self, *_args: Any, **_options: Any) -> None:
        name = settings.CODE_EXECUTOR["NODE_NAME"]
        node = Node.objects.filter(name=name).first()
        if node is None:
            raise CommandError(f"No worker has run as node {name} yet.")
        silence = timezone.now() - node.heartbeat_at
        if silence > LOST_AFTER:
            raise CommandError(f"No sign of life for {silence.total_seconds():.0f} s.")
        self.stdout.write(f"{name}: {node.status}")
