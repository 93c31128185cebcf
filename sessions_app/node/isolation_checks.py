"""Isolation checks: attacks on sandboxes of this node prove their isolation. Only workers import
this.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from codeexec.sandbox.attacks.catalogue import ATTACKS, Attack
from codeexec.sandbox.attacks.subject import PROGRAMS, FirstProgram, Subject
from codeexec.sandbox.attacks.suite import MAX_IDLE_SECONDS, AttackReport, OnReport, attack_all
from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import SandboxSpec
from codeexec.taskqueue.enqueue import enqueue, node_queue
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from environments_app.run_commands import build_commands
from environments_app.services import record_image, sandbox_spec
from sessions_app.models import AttackResult, Execution, IsolationCheck, Node
from sessions_app.monitoring.diagnosis.weaknesses import weaknesses
from sessions_app.services.isolation import built_on, queue_check, runtimes_of
from sessions_app.services.task_names import CHECK_TASK

NOT_BEFORE = timedelta(minutes=10)
"""A node checks nothing by itself until it has been up for this long."""

AGAIN_AFTER = timedelta(hours=1)
"""A check on a host that was busy is repeated after this."""

WAIT_FOR_QUIET = timedelta(hours=1)
"""A check that is due waits up to this long for a moment in which its node runs no program."""

LONGEST_DETAIL = 4000

logger = logging.getLogger(__name__)


class AnotherCheckRunsError(Exception):
    """This node is being checked already. Two checks would disturb each other's timing."""


def new_check(
    environment: Environment, runtime: str, node: Node, *, complete: bool = True
) -> IsolationCheck:
    """A check that counts as running from now on."""
    return IsolationCheck.objects.create(
        node=node,
        environment=environment,
        runtime=runtime,
        complete=complete,
        started_at=timezone.now(),
    )


def carry_out(
    check: IsolationCheck, attacks: Sequence[Attack] = ATTACKS, *, on_report: OnReport | None = None
) -> None:
    """Attack sandboxes of the check's environment and store the verdicts. They are logged as well,
    except where `on_report` shows them.

    An error that ends the check early is stored and raised: SandboxError. Raises
    AnotherCheckRunsError before anything is done.
    """
    log = _log if on_report is None else lambda _check: None
    with _alone(check.node):
        try:
            _attack(check, attacks, on_report)
        except SandboxError as error:
            check.finish(error=str(error))
            log(check)
            raise
        except BaseException:
            check.finish(error="It was interrupted.", complete=False)
            raise
        check.finish()
        log(check)


def _attack(check: IsolationCheck, attacks: Sequence[Attack], on_report: OnReport | None) -> None:
    driver = get_driver()
    environment = check.environment
    revision = record_image(environment, driver.inspect_image(environment.image_reference))
    check.notes = "\n".join(str(each) for each in weaknesses(driver))
    IsolationCheck.objects.filter(pk=check.pk).update(
        revision=revision, image_id=revision.image_id, notes=check.notes
    )

    def store(report: AttackReport) -> None:
        _store(check, report)
        if on_report is not None:
            on_report(report)

    attack_all(driver, subject_of(check, revision.image_id), attacks, on_report=store)


def _store(check: IsolationCheck, report: AttackReport) -> None:
    AttackResult.objects.create(
        isolation_check=check,
        attack=report.attack.name,
        group=report.attack.group,
        outcome=report.outcome,
        detail=report.detail.replace("\0", "")[:LONGEST_DETAIL],
        seconds=report.seconds,
        answer_seconds=report.answer_seconds,
    )


def _log(check: IsolationCheck) -> None:
    level = logging.ERROR
    if check.ok or check.host_was_busy:
        level = logging.INFO if check.ok else logging.WARNING
    where = f"{check.environment} in {check.runtime} on {check.node}"
    logger.log(level, "isolation of %s: %s", where, check.summary)
    for result in check.results.exclude(outcome=AttackResult.Outcome.HELD):
        logger.log(level, "isolation of %s: %s: %s", where, result, result.detail)


def subject_of(check: IsolationCheck, image_id: str) -> Subject:
    environment = check.environment
    return Subject(
        environment=environment.name,
        runtime=check.runtime,
        new_spec=partial(_new_spec, check, image_id),
        extension=environment.file_extension,
        program=_first_program(environment),
    )


def _new_spec(check: IsolationCheck, image_id: str) -> SandboxSpec:
    """As for a session, but with another owner, so that cleanup doesn't search for its session."""
    return sandbox_spec(
        check.environment,
        sandbox_id=uuid4(),
        node=owner(check.node),
        max_idle_seconds=MAX_IDLE_SECONDS,
        image_id=image_id,
        runtime=check.runtime,
    )


def owner(node: Node) -> str:
    """The label `node` of containers of a node's checks."""
    return f"isolation-{node.pk}"


def _first_program(environment: Environment) -> FirstProgram | None:
    source = PROGRAMS.get(environment.file_extension)
    if source is None:
        return None
    commands = build_commands(environment, environment.default_filename)
    return FirstProgram(
        filename=environment.default_filename,
        source=source,
        compile=commands.compile,
        run=commands.run,
    )


@contextlib.contextmanager
def _alone(node: Node) -> Iterator[None]:
    """Keeps other checks of this node out; removes what an earlier one has left.

    The lock belongs to the database connection, so it is released if the process dies.
    """
    key = f"isolation {node.pk}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key])
        if not cursor.fetchone()[0]:
            raise AnotherCheckRunsError(f"Node {node} is being checked already.")
    try:
        _remove_left(node)
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [key])


def requeue_interrupted_checks(node: Node) -> None:
    """Checks whose rows are `running`, although no process of the node has the lock."""
    with contextlib.suppress(AnotherCheckRunsError), _alone(node):
        for check in IsolationCheck.objects.running().filter(node=node):
            same = {"node": node, "environment": check.environment, "runtime": check.runtime}
            if not check.complete or IsolationCheck.objects.queued().filter(**same).exists():
                check.finish(error="It was interrupted.", complete=False)
            else:
                check.results.all().delete()
                check.postpone()


def _remove_left(node: Node) -> None:
    driver = get_driver()
    # An Engine that can't list sandboxes can't start any either.
    with contextlib.suppress(SandboxError):
        for sandbox in driver.list_sandboxes(node=owner(node)):
            driver.destroy(sandbox.sandbox_id)


# ---- by schedule


def queue_due_checks(node: Node) -> None:
    """Queue checks of environments whose last check is older than ISOLATION_CHECK_HOURS, or was of
    another image. Not on a node that has just started, which has other things to do.
    """
    hours = settings.CODE_EXECUTOR["ISOLATION_CHECK_HOURS"]
    if not hours or node.started_at > timezone.now() - NOT_BEFORE:
        return
    oldest = timezone.now() - timedelta(hours=hours)
    for environment in built_on(node):
        for runtime in runtimes_of(environment, node):
            checks = node.isolation_checks.filter(environment=environment, runtime=runtime)
            last = checks.filter(complete=True).order_by("-queued_at").first()
            if last is None or (last.finished_at and _is_old(last, oldest)):
                queue_check(environment, runtime, node)


def _is_old(check: IsolationCheck, oldest: datetime) -> bool:
    """It was queued before then, or checked another image than the current one; or it is incomplete
    because the host was busy.
    """
    if check.host_was_busy and check.queued_at < timezone.now() - AGAIN_AFTER:
        return True
    revisions = check.environment.revisions.filter(node=check.node.name)
    images = revisions.order_by("-number").values_list("image_id", flat=True)
    return check.queued_at < oldest or (check.image_id != "" and check.image_id != images.first())


def start_queued_check(node: Node) -> None:
    """Enqueue the oldest queued check, in a quiet moment, unless one is running. Repeated until a
    task process starts it; the first one that does has it.
    """
    for stale in IsolationCheck.objects.stale().filter(node=node):
        # Finished as incomplete, it is repeated.
        if stale.finish(error="Its process ended before the check was complete.", complete=False):
            logger.warning("isolation of %s: %s", stale, stale.summary)
    checks = IsolationCheck.objects.filter(node=node)
    queued = checks.queued().order_by("queued_at").first()
    if queued is None or checks.running().exists() or not _may_start(queued):
        return
    with transaction.atomic():
        enqueue(CHECK_TASK, str(queued.pk), queue=node_queue(node.name))


def _may_start(check: IsolationCheck) -> bool:
    if check.queued_at < timezone.now() - WAIT_FOR_QUIET:
        return True
    at_work = Execution.objects.unfinished().filter(session__node=check.node)
    return not at_work.exists()
