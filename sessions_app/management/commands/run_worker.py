from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connections

import sessions_app.node.tasks  # noqa: F401 -- before the workers are forked: none of them imports it again
from codeexec.cli import TeachingCommand
from codeexec.taskqueue.cluster import ClusterDiedError, run_cluster
from sessions_app.execution.executor import run_executor
from sessions_app.node import upkeep
from sessions_app.node.recovery import take_back
from sessions_app.node.workspace_reader import run_workspace_reader

logger = logging.getLogger(__name__)

UPKEEP_SECONDS = 1.0


class Command(TeachingCommand):
    help = (
        "Runs this node's workers and its upkeep until SIGTERM or Ctrl-C, which gives running "
        "programs a while to finish. Ends with status 1 when it must be started again. "
        "Needs PostgreSQL and this node's Docker Engine."
    )

    examples = ("run_worker",)
    exit_codes = {
        0: "it was asked to stop",
        1: "it must be started again, or can't be; the message says why",
        2: "wrong options",
    }
    has_json = False
    requires_system_checks = "__all__"

    def handle(self, *args: Any, **options: Any) -> None:
        logging.captureWarnings(True)  # in the form of all other lines
        try:
            node = upkeep.node_started()
            upkeep.follow_predecessor(node)
        except DatabaseError as error:
            raise CommandError(f"The database can't be used: {error}") from error
        connections.close_all()
        try:
            run_cluster(
                upkeep.tick,
                interval_seconds=UPKEEP_SECONDS,
                residents={
                    "executor": partial(run_executor, node.pk, concurrency=node.concurrency),
                    "workspace reader": partial(run_workspace_reader, node.pk),
                },
                take_back=take_back,
            )
        except ClusterDiedError as error:
            raise CommandError(str(error)) from error
        finally:
            with contextlib.suppress(DatabaseError):  # a silent node is lost after a while, too
                upkeep.node_stopped()
