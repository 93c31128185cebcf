"""`manage.py check_node`: whether this node's worker is alive, by its exit code."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from codeexec.cli import TeachingCommand
from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER
from sessions_app.monitoring.diagnosis.workers import check_node


class Command(TeachingCommand):
    help = (
        "Fails unless the worker of this node (NODE_NAME) has given a sign of life lately: for "
        "health checks of containers; `manage.py check_stack` checks everything."
    )
    examples = ("check_node", "check_node --json")
    exit_codes = {0: "the worker is alive", 1: "it is not, or has never run", 2: "wrong options"}

    def handle(self, *_args: Any, **options: Any) -> None:
        name = settings.CODE_EXECUTOR["NODE_NAME"]
        node = Node.objects.filter(name=name).with_silence().first()
        if node is None:
            raise CommandError(
                f"No worker has run as node {name} yet: start one with `manage.py run_worker`."
            )
        if node.silence > LOST_AFTER:
            raise CommandError(str(check_node(node)))
        silent_seconds = node.silence.total_seconds()
        value = {"node": name, "status": node.status, "silent_seconds": silent_seconds}
        self.answer(options, value, [f"{name}: {node.status}"])
