"""Isolation checks: the command, the schedule, and where their results are seen. The attacks here
are tame: `test_isolation_protections` and `test_isolation_stack` have the real ones.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from codeexec.db.postgres import connection_parameters
from codeexec.sandbox.attacks.catalogue import ATTACKS, Group, choose
from codeexec.sandbox.attacks.suite import AttackReport
from codeexec.sandbox.errors import RunnerSilent, SandboxLost, SandboxStartFailed
from environments_app.models import Environment
from environments_app.services import record_image
from sessions_app.admin.isolation import state
from sessions_app.models import AttackResult, IsolationCheck, Node
from sessions_app.monitoring.health import check_health
from sessions_app.node.isolation_checks import (
    carry_out,
    new_check,
    owner,
    queue_due_checks,
    start_queued_check,
    subject_of,
)
from sessions_app.node.pruning import KEPT_CHECKS, prune_isolation_checks
from sessions_app.node.tasks import check_isolation
from sessions_app.node.upkeep import node_started
from sessions_app.services.isolation import queue_check, standings
from tests.conftest import Configure, Work
from tests.support.console_fixtures import UNSTARTED, act, execution, page, session, staff
from tests.support.fake_driver import FakeDriver
from tests.support.working import Delivery, queued

LEAKS_OF_ONE = b"""#!/bin/sh
case $1 in hello) echo hello;; tidy) ;; environment) echo "escaped a variable: SECRET";;
*) cat > /dev/null; echo "held $1: nothing was tried";; esac
"""
DEAF = b"""#!/bin/sh
case $1 in hello) echo hello;; tidy) ;; environment) echo "untried it: no /proc";;
*) cat > /dev/null; echo "held $1: nothing was tried";; esac
"""
DEAF_AT_FIRST = b"""#!/bin/sh
case $1 in hello) echo hello;; tidy) ;; environment)
if [ -e tried ]; then echo "held it: refused"; else touch tried; echo "untried it: no time"; fi;;
*) cat > /dev/null; echo "held $1: nothing was tried";; esac
"""
SLOW = b"""#!/bin/sh
case $1 in hello) sleep 2.2; echo hello;; tidy) ;; *) cat > /dev/null; echo "held $1: it";; esac
"""
SLOW_AT_FIRST = b"""#!/bin/sh
case $1 in hello) [ -e slow ] || { touch slow; sleep 2.2; }; echo hello;; tidy) ;;
*) cat > /dev/null; echo "held $1: nothing";; esac
"""
BROKEN_AFTERWARDS = b"""#!/bin/sh
case $1 in hello) echo goodbye;; tidy) ;; *) cat > /dev/null; echo "held $1: nothing";; esac
"""


@pytest.fixture
def python(python: Environment) -> Environment:
    """Its first program is the shell's: an attack is followed by two, and Python starts slowly."""
    Environment.objects.filter(pk=python.pk).update(
        default_filename="main.sh",
        file_extension=".sh",
        run_command="sh {file_path}",
        prestart="",
    )
    return Environment.objects.get(pk=python.pk)


def command(*options: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    output, progress = StringIO(), StringIO()
    try:
        call_command("check_isolation", *options, stdout=output, stderr=progress)
    except SystemExit as ended:
        return int(str(ended.code)), output.getvalue(), progress.getvalue()
    except CommandError as error:
        return error.returncode, output.getvalue(), str(error)
    return 0, output.getvalue(), progress.getvalue()


OF_ANY_SANDBOX = [each for each in ATTACKS if not each.only_prestarted]
"""In the fake driver's, nothing waits for a run."""


def finished(
    environment: Environment,
    node: Node,
    *,
    hours_ago: float = 0.0,
    escaped: tuple[str, ...] = (),
    busy: tuple[str, ...] = (),
    **columns: Any,
) -> IsolationCheck:
    """A check of all attacks, of which some escaped, or were slow."""
    moment = timezone.now() - timedelta(hours=hours_ago)
    given = {"queued_at": moment, "started_at": moment, "finished_at": moment, "runtime": "runc"}
    outcomes = dict.fromkeys(escaped, "escaped") | dict.fromkeys(busy, "busy")
    counts = {"held": len(ATTACKS) - len(outcomes), "escaped": len(escaped), "busy": len(busy)}
    check = IsolationCheck.objects.create(
        node=node, environment=environment, **(given | counts | columns)
    )
    AttackResult.objects.bulk_create(
        AttackResult(
            isolation_check=check,
            attack=attack.name,
            group=attack.group,
            outcome=outcomes.get(attack.name, "held"),
            detail=f"<b>{attack.name}</b>",
            seconds=0.1,
            answer_seconds=0.02,
        )
        for attack in ATTACKS
    )
    return check


def up_for(node: Node, **span: float) -> Node:
    Node.objects.filter(pk=node.pk).update(started_at=timezone.now() - timedelta(**span))
    return Node.objects.get(pk=node.pk)


@contextmanager
def being_checked(node: Node) -> Iterator[None]:
    """Another process has the lock of this node's checks."""
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as other:
        lock = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
        other.execute(lock, [f"isolation {node.pk}"])
        yield


class TestCommand:
    @pytest.fixture(autouse=True)
    def one_runtime(self, configure: Configure) -> None:
        """Sessions have no choice, but where a test gives them one."""
        configure(SESSION_RUNTIMES=["runc"])

    def test_what_is_held_exits_with_0_and_is_stored(
        self,
        python: Environment,
        this: Node,
        driver: FakeDriver,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        code, output, progress = command("--environment=python", "--group=leaks")
        assert code == 0, output + progress
        assert not caplog.records, "a line of the log would stand between the dots"
        count = len(choose(groups=[Group.LEAKS]))
        assert re.search(rf"^python +runc +{count} +{count} +0 +0 +0 +\d+$", output, re.MULTILINE)
        assert "." * count in progress
        check = IsolationCheck.objects.get()
        assert (check.ok, check.held, check.complete) == (True, count, False)
        assert check.image_id == python.current_revision.image_id  # type: ignore[union-attr]
        assert {result.group for result in check.results.all()} == {"leaks"}

    @pytest.mark.parametrize(
        ("attacks", "outcome"), [(LEAKS_OF_ONE, "escaped"), (DEAF, "inconclusive")]
    )
    def test_what_is_not_held_exits_with_1_and_is_named(
        self, python: Environment, this: Node, driver: FakeDriver, attacks: bytes, outcome: str
    ) -> None:
        driver.attacks = attacks
        code, output, _ = command("--environment=python", "--group=leaks")
        assert code == 1
        assert f"python in runc: {outcome}: environment, which reads its environment" in output
        assert getattr(IsolationCheck.objects.get(), outcome) == 1

    def test_an_attack_that_proves_nothing_is_tried_once_more(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.attacks = DEAF_AT_FIRST
        assert command("--environment=python", "--attack=environment")[0] == 0
        assert IsolationCheck.objects.get().summary == "1 held"

    def test_a_sandbox_that_runs_nothing_afterwards_has_not_held(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.attacks = BROKEN_AFTERWARDS
        code, output, _ = command("--environment=python", "--attack=environment")
        assert code == 1
        assert "afterwards, in the same sandbox: a first program ended as ok 0: 'goodbye'" in output

    @pytest.mark.parametrize(
        ("error", "summary"),
        [
            (RunnerSilent("The sandbox's runner doesn't answer."), "2 held"),
            (SandboxLost("The container is gone."), "1 escaped, 1 held"),
        ],
    )
    def test_a_runner_that_is_silent_once_is_asked_again_and_one_that_is_gone_is_not(
        self, python: Environment, this: Node, driver: FakeDriver, error: Exception, summary: str
    ) -> None:
        check = new_check(python, "runc", this)
        attacks = choose(["environment", "capabilities"])
        seen: list[str] = []

        def fail_the_second(report: AttackReport) -> None:
            seen.append(report.attack.name)
            if len(seen) == 1:
                driver.fail_next("run", error)

        carry_out(check, attacks, on_report=fail_the_second)
        check.refresh_from_db()
        assert (len(seen), check.summary) == (2, summary)

    def test_slowness_is_no_breach_exits_with_4_and_is_counted_in_the_table(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        """No first program is known in this language: the greeting, which is slow, must do."""
        Environment.objects.filter(pk=python.pk).update(file_extension=".unknown")
        driver.attacks = SLOW
        code, output, _ = command("--environment=python", "--attack=environment")
        assert code == 4
        assert "python in runc: busy: environment, which reads its environment" in output
        assert re.search(r"a first program took 2\.\d s, more than 2 s", output)
        check = IsolationCheck.objects.get()
        assert (check.ok, check.host_was_busy, check.busy, check.escaped) == (False, True, 1, 0)
        assert check.summary == "1 not proven, for the host is busy"
        head, row = (line.split() for line in output.splitlines()[-2:])
        counts = dict(zip(head, row, strict=True))
        assert (counts["ATTACKS"], counts["HELD"], counts["BUSY"]) == ("1", "0", "1")

    def test_slowness_that_has_gone_when_it_is_tried_once_more_is_forgotten(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.attacks = SLOW_AT_FIRST
        assert command("--environment=python", "--attack=environment")[0] == 0
        assert IsolationCheck.objects.get().summary == "1 held"

    def test_an_old_runc_is_reported_with_the_version_that_fixes_it(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.runc = "1.1.5+ds1"
        code, output, _ = command("--environment=python", "--attack=environment")
        assert code == 0
        assert "Of this host: runc 1.1.5+ds1 lacks the fix for CVE-2024-21626" in output
        assert "fixed in 1.1.12" in IsolationCheck.objects.get().notes
        driver.runc = "1.3.3"
        _, output, _ = command("--environment=python", "--attack=environment", "--json")
        assert [note for note in json.loads(output)[0]["notes"] if "runc" in note] == []

    def test_json_has_every_result(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.attacks = LEAKS_OF_ONE
        code, output, _ = command("--environment=python", "--group=leaks", "--json")
        (document,) = json.loads(output)
        assert (code, document["ok"], document["escaped"]) == (1, False, 1)
        assert document["attacks"] == document["held"] + 1 == len(document["results"])
        assert document["results"][0]["attack"] == "environment"
        assert document["results"][0]["detail"] == "a variable: SECRET"

    def test_every_enabled_environment_is_checked_where_none_is_named(
        self, environments: dict[str, Environment], this: Node, driver: FakeDriver
    ) -> None:
        Environment.objects.exclude(name__in=["python", "python-ml"]).update(enabled=False)
        _, output, _ = command("--attack=environment", "--json")
        checked = [document["environment"] for document in json.loads(output)]
        assert checked == ["python", "python-ml"]

    def test_the_default_environment_is_checked_in_each_runtime_that_sessions_may_choose(
        self, python: Environment, this: Node, driver: FakeDriver, configure: Configure
    ) -> None:
        configure(SESSION_RUNTIMES=["runc", "runsc"])
        _, output, _ = command("--environment=python", "--attack=environment", "--json")
        assert [document["runtime"] for document in json.loads(output)] == ["runc", "runsc"]

    def test_sandboxes_are_those_of_sessions_in_the_runtime_that_is_asked_for(
        self, python: Environment, this: Node, driver: FakeDriver, configure: Configure
    ) -> None:
        configure(CONTAINER_LABELS={"team": "red"})
        command("--environment=python", "--attack=environment", "--runtime=runsc")
        started = driver.started[-1]
        assert (started.runtime, dict(started.labels)) == ("runsc", {"team": "red"})
        assert started.limits == python.limits().for_sandbox()
        assert started.max_idle_seconds <= 300
        assert IsolationCheck.objects.get().runtime == "runsc"

    def test_they_belong_to_no_session_and_take_no_place(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        command("--environment=python", "--attack=environment")
        assert {spec.node for spec in driver.started} == {owner(this)}
        assert str(this.pk) not in {spec.node for spec in driver.started}
        assert driver.sandboxes == {}
        assert not this.sandboxes.exists()

    def test_the_list_names_every_attack_and_needs_no_engine(self, db: None) -> None:
        code, output, _ = command("--list")
        assert code == 0
        assert all(f"  {attack.name} " in output for attack in ATTACKS)
        assert output.endswith(f"{len(ATTACKS)} attacks\n")

    @pytest.mark.parametrize("option", ["--environment=cobol", "--attack=fork-bum"])
    def test_wrong_options_exit_with_2(
        self, python: Environment, driver: FakeDriver, option: str
    ) -> None:
        assert command(option)[0] == 2

    def test_a_runtime_that_the_node_lacks_is_wrong_use_and_no_failed_check(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        code, _, error = command("--environment=python", "--runtime=kata")
        assert code == 2
        assert "this has no runtime kata; it has: " in error
        assert not IsolationCheck.objects.exists()

    def test_without_an_engine_it_exits_with_3(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.engine_is_down = True
        code, _, said = command("--environment=python")
        assert (code, said) == (3, "The Docker Engine doesn't answer: it is down.")
        assert not IsolationCheck.objects.exists()

    def test_a_sandbox_that_does_not_start_exits_with_3_and_is_a_failed_check(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        driver.fail_next("start", SandboxStartFailed("It did not come up."))
        assert command("--environment=python")[0] == 3
        assert IsolationCheck.objects.get().error == "It did not come up."

    def test_while_another_check_of_this_node_runs_it_exits_with_3(
        self, transactional_db: None, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        with being_checked(this):
            code, _, said = command("--environment=python")
        assert (code, said) == (3, "Node this is being checked already.")
        assert not IsolationCheck.objects.exists()

    def test_it_runs_where_no_worker_has_ever_run(
        self, python: Environment, driver: FakeDriver
    ) -> None:
        assert command("--environment=python", "--attack=environment")[0] == 0
        assert not Node.objects.alive().exists()


class TestCarryingOut:
    def test_what_an_earlier_checker_left_is_removed_first(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        check = new_check(python, "runc", this)
        driver.start(subject_of(check, "").new_spec())
        carry_out(check, choose(["environment"]))
        assert driver.sandboxes == {}

    def test_a_failure_is_logged_as_an_error_with_what_escaped(
        self,
        python: Environment,
        this: Node,
        driver: FakeDriver,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        driver.attacks = LEAKS_OF_ONE
        carry_out(new_check(python, "runc", this), choose(["environment"]))
        errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert errors == [
            "isolation of python in runc on this: 1 escaped",
            "isolation of python in runc on this: environment: escaped: a variable: SECRET",
        ]

    def test_where_no_attack_concerns_it_nothing_is_proven(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        this.note_runtimes(["runc", "runsc"])
        check = new_check(python, "runsc", this)
        carry_out(check, choose(["seccomp"]))
        assert (check.ok, check.summary) == (False, "no attack concerns it")
        assert f": python in runsc on this: {check.summary}. " in check_health().checks["isolation"]

    def test_an_interrupted_check_shows_it_and_counts_for_nothing(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        def interrupt(_verdict: object) -> None:
            raise KeyboardInterrupt

        check = new_check(python, "runc", this)
        with pytest.raises(KeyboardInterrupt):
            carry_out(check, choose(["environment"]), on_report=interrupt)
        assert (check.error, check.complete) == ("It was interrupted.", False)
        assert driver.sandboxes == {}
        assert not IsolationCheck.objects.current().exists()

    def test_it_is_carried_out_once_however_often_its_message_comes(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        check = IsolationCheck.objects.create(node=this, environment=python, runtime="runc")
        assert check.start()
        assert not check.start()
        assert check.finish()
        assert not check.finish()
        assert not check.start()

    def test_a_check_is_queued_once_at_a_time(self, python: Environment, this: Node) -> None:
        assert queue_check(python, "runc", this)
        assert not queue_check(python, "runc", this)
        assert queue_check(python, "runsc", this)


class TestSchedule:
    def test_a_node_checks_what_it_has_built_when_it_is_due(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this, hours_ago=23, image_id=_image(environments))
        finished(environments["node"], this, hours_ago=25)
        queue_due_checks(up_for(this, minutes=30))
        due = IsolationCheck.objects.queued().values_list("environment__name", flat=True)
        assert set(due) == environments.keys() - {"python"}

    def test_another_image_is_due_at_once(
        self, python: Environment, this: Node, driver: FakeDriver
    ) -> None:
        finished(python, this, image_id="sha256:older")
        queue_due_checks(up_for(this, minutes=30))
        assert IsolationCheck.objects.queued().filter(environment=python).exists()

    def test_a_node_that_has_just_started_checks_nothing(
        self, python: Environment, this: Node
    ) -> None:
        queue_due_checks(up_for(this, minutes=5))
        assert not IsolationCheck.objects.exists()

    def test_0_hours_mean_never(
        self, python: Environment, this: Node, configure: Configure
    ) -> None:
        configure(ISOLATION_CHECK_HOURS=0)
        queue_due_checks(up_for(this, minutes=30))
        assert not IsolationCheck.objects.exists()

    def test_one_is_started_at_a_time_on_the_nodes_own_queue(
        self, transactional_db: None, environments: dict[str, Environment], this: Node
    ) -> None:
        for environment in environments.values():
            queue_check(environment, "runc", this)
        start_queued_check(this)
        first = IsolationCheck.objects.queued().order_by("queued_at").first()
        assert first is not None
        assert queued("node:this") == [Delivery("check_isolation", (str(first.pk),))]
        first.start()
        start_queued_check(this)
        assert len(queued("node:this")) == 1

    def test_it_waits_while_a_program_runs_but_no_longer_than_an_hour(
        self, transactional_db: None, python: Environment, this: Node
    ) -> None:
        execution(session(python, this), **UNSTARTED)
        queue_check(python, "runc", this)
        start_queued_check(this)
        assert queued("node:this") == []
        IsolationCheck.objects.update(queued_at=timezone.now() - timedelta(minutes=61))
        start_queued_check(this)
        assert len(queued("node:this")) == 1

    def test_a_worker_carries_it_out(
        self, python: Environment, this: Node, driver: FakeDriver, work: Work
    ) -> None:
        driver.attacks = LEAKS_OF_ONE
        queue_check(python, "runc", this)
        start_queued_check(this)
        work()
        check = IsolationCheck.objects.get()
        assert check.finished_at
        assert check.results.count() == len(OF_ANY_SANDBOX)
        assert check.results.get(attack="environment").outcome == "escaped"

    def test_one_whose_process_is_gone_is_given_up(self, python: Environment, this: Node) -> None:
        check = new_check(python, "runc", this)
        IsolationCheck.objects.update(started_at=timezone.now() - timedelta(minutes=31))
        start_queued_check(this)
        check.refresh_from_db()
        assert check.error == "Its process ended before the check was complete."
        assert not IsolationCheck.objects.current().exists()
        queue_due_checks(up_for(this, minutes=30))
        assert IsolationCheck.objects.queued().filter(environment=python).exists()

    def test_old_ones_are_pruned_but_for_the_last_of_each(
        self, python: Environment, rust: Environment, this: Node
    ) -> None:
        old = KEPT_CHECKS.total_seconds() / 3600 + 1
        finished(python, this, hours_ago=old)
        last = [finished(python, this, hours_ago=1), finished(rust, this, hours_ago=old)]
        assert prune_isolation_checks() == 1
        assert set(IsolationCheck.objects.all()) == set(last)
        assert AttackResult.objects.count() == 2 * len(ATTACKS)


def _image(environments: dict[str, Environment]) -> str:
    revision = environments["python"].current_revision
    assert revision is not None
    return revision.image_id


class TestHealth:
    def test_what_was_never_checked_is_not_held_against_it(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        assert check_health().checks["isolation"] == "ok"

    def test_a_failed_last_check_degrades_health_which_names_it(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this, escaped=("dns", "bpf"))
        health = check_health()
        assert health.status == "degraded"
        held = len(ATTACKS) - 2
        which = f"hostile code may not be held: python in runc on this: 2 escaped, {held} held. "
        assert health.checks["isolation"].startswith(which)

    def test_a_busy_host_degrades_nothing(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this, busy=("dns", "bpf"))
        assert check_health().checks["isolation"] == "ok"

    def test_a_busy_host_hides_no_escape(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this, escaped=("dns",), busy=("bpf",))
        assert "python in runc on this: 1 escaped, 1 not" in check_health().checks["isolation"]

    def test_only_the_last_counts(self, environments: dict[str, Environment], this: Node) -> None:
        finished(environments["python"], this, escaped=("dns",), hours_ago=2)
        finished(environments["python"], this)
        assert check_health().checks["isolation"] == "ok"

    def test_of_a_few_attacks_nothing_follows(
        self, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this, escaped=("dns",), complete=False)
        assert check_health().checks["isolation"] == "ok"

    @pytest.mark.parametrize("change", ["disabled", "node is gone", "another runtime"])
    def test_what_no_session_can_get_is_no_ones_concern(
        self, environments: dict[str, Environment], this: Node, other: Node, change: str
    ) -> None:
        finished(environments["python"], this, escaped=("dns",))
        if change == "disabled":
            Environment.objects.filter(name="python").update(enabled=False)
        elif change == "another runtime":
            Environment.objects.filter(name="python").update(runtime="runsc")
        else:
            Node.objects.filter(pk=this.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
        assert check_health().checks["isolation"] == "ok"


class TestMetrics:
    def scrape(self, client: Client) -> dict[tuple[str, ...], float]:
        response = client.get("/metrics")
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(response.content.decode())
        return {
            (
                sample.name,
                *(f"{key}={value}" for key, value in sorted(sample.labels.items())),
            ): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("code_executor_isolation")
        }

    def test_the_last_check_of_each_is_exported(
        self, python: Environment, this: Node, client: Client
    ) -> None:
        finished(python, this, hours_ago=3)
        last = finished(python, this, escaped=("dns",), hours_ago=1)
        samples = self.scrape(client)
        where = ("environment=python", "node=this")
        prefix = "code_executor_isolation"
        assert last.finished_at is not None
        assert samples == {
            (f"{prefix}_attacks", *where, "outcome=held", "runtime=runc"): len(ATTACKS) - 1,
            (f"{prefix}_attacks", *where, "outcome=escaped", "runtime=runc"): 1,
            (f"{prefix}_attacks", *where, "outcome=inconclusive", "runtime=runc"): 0,
            (f"{prefix}_attacks", *where, "outcome=busy", "runtime=runc"): 0,
            (f"{prefix}_ok", *where, "runtime=runc"): 0,
            (f"{prefix}_last_check_timestamp_seconds", *where, "runtime=runc"): pytest.approx(
                last.finished_at.timestamp(), abs=0.001
            ),
        }

    def test_all_held_is_1(self, python: Environment, this: Node, client: Client) -> None:
        finished(python, this)
        key = ("code_executor_isolation_ok", "environment=python", "node=this", "runtime=runc")
        assert self.scrape(client)[key] == 1

    def test_a_busy_host_is_1_and_counted(
        self, python: Environment, this: Node, client: Client
    ) -> None:
        finished(python, this, busy=("dns", "bpf"))
        samples, where = self.scrape(client), ("environment=python", "node=this")
        assert samples["code_executor_isolation_ok", *where, "runtime=runc"] == 1
        counted = ("code_executor_isolation_attacks", *where, "outcome=busy", "runtime=runc")
        assert samples[counted] == 2

    def test_nothing_checked_is_no_sample(self, db: None, client: Client) -> None:
        assert self.scrape(client) == {}

    def test_nothing_can_be_sent_there(self, db: None, client: Client) -> None:
        assert client.post("/metrics").status_code == 405


class TestConsole:
    MODEL = "sessions_app_isolationcheck"

    def test_the_page_shows_each_attack_failures_first(
        self, admin_client: Client, python: Environment, this: Node
    ) -> None:
        check = finished(python, this, escaped=("dns",))
        html = admin_client.get(page(check)).content.decode()
        network = html[html.index(f"network ({len(choose(groups=['network']))})") :]
        assert network.index("<code>dns</code>") < network.index("<code>interfaces</code>")
        assert "asks for the address of a name" in network
        assert "&lt;b&gt;dns&lt;/b&gt;" in html
        assert "<b>dns</b>" not in html

    def test_the_list_shows_how_each_stands(
        self, admin_client: Client, python: Environment, rust: Environment, this: Node
    ) -> None:
        finished(python, this, escaped=("dns",))
        queue_check(rust, "runc", this)
        html = admin_client.get(reverse(f"admin:{self.MODEL}_changelist")).content.decode()
        assert f"1 escaped, {len(ATTACKS) - 1} held" in html
        assert "queued" in html

    def test_a_busy_host_is_a_warning_on_page_and_list(
        self, admin_client: Client, python: Environment, this: Node
    ) -> None:
        check = finished(python, this, busy=("dns",))
        assert state(check) == ("warning", "host busy: not proven")
        for address in (page(check), reverse(f"admin:{self.MODEL}_changelist")):
            html = admin_client.get(address).content.decode()
            assert "host busy: not proven" in html
            assert f"1 not proven, for the host is busy, {len(ATTACKS) - 1} held" in html
            assert "failed" not in html.partition("host busy: not proven")[2].partition("</tr>")[0]

    def test_a_busy_host_is_a_warning_on_the_dashboard_and_no_alarm(
        self, admin_client: Client, python: Environment, this: Node
    ) -> None:
        finished(python, this, busy=("dns",))
        response = admin_client.get("/admin/")
        badges = [row["badge"] for row in response.context["isolation"]]
        assert ("warning", "host busy: not proven") in badges
        html = response.content.decode()
        assert "the host was busy during the check: python in runc on this." in html
        assert "Hostile code may not be held" not in html

    def test_check_now_queues_the_same_again(
        self, admin_client: Client, python: Environment, this: Node
    ) -> None:
        check = finished(python, this, runtime="runsc")
        act(admin_client, "check_now", [check])
        asked = IsolationCheck.objects.queued().get()
        assert (asked.environment, asked.runtime, asked.node) == (python, "runsc", this)

    def test_who_may_only_look_can_queue_nothing(self, python: Environment, this: Node) -> None:
        check = finished(python, this)
        act(staff("view_isolationcheck"), "check_now", [check])
        assert not IsolationCheck.objects.queued().exists()

    def test_the_dashboard_shows_the_state_of_each_environment(
        self, admin_client: Client, environments: dict[str, Environment], this: Node
    ) -> None:
        finished(environments["python"], this)
        response = admin_client.get("/admin/")
        rows = {row["standing"].environment.name: row for row in response.context["isolation"]}
        assert rows.keys() == environments.keys()
        assert rows["python"]["badge"] == ("success", "held")
        assert rows["node"]["badge"] == ("default", "not checked yet")
        assert "console-alarm" not in response.content.decode()

    def test_a_failure_is_loud(self, admin_client: Client, python: Environment, this: Node) -> None:
        finished(python, this, escaped=("dns", "bpf"))
        html = admin_client.get("/admin/").content.decode()
        assert "Hostile code may not be held" in html
        assert "python in runc on this" in html

    @pytest.mark.parametrize(("hours", "overdue"), [(47, False), (49, True)])
    def test_so_is_a_check_that_is_overdue(
        self,
        admin_client: Client,
        python: Environment,
        this: Node,
        hours: float,
        overdue: bool,
    ) -> None:
        finished(python, this, hours_ago=hours)
        html = admin_client.get("/admin/").content.decode()
        assert (f"check is overdue: python in runc on {this.name}." in html) == overdue

    def test_where_none_are_made_none_is_overdue(
        self, python: Environment, this: Node, configure: Configure
    ) -> None:
        configure(ISOLATION_CHECK_HOURS=0)
        up_for(this, days=30)
        assert not any(standing.overdue for standing in standings())

    def test_who_may_not_see_checks_sees_none(self, python: Environment, this: Node) -> None:
        finished(python, this, escaped=("dns",))
        html = staff("view_node").get("/admin/").content.decode()
        assert "Hostile code" not in html


def test_a_node_that_starts_reports_nothing_about_isolation(
    transactional_db: None, python: Environment, driver: FakeDriver
) -> None:
    node_started()
    assert not IsolationCheck.objects.exists()


def test_one_that_meets_another_of_its_node_waits_for_its_turn(
    transactional_db: None, python: Environment, this: Node, driver: FakeDriver
) -> None:
    check = IsolationCheck.objects.create(node=this, environment=python, runtime="runc")
    driver.fail_next("start", SandboxStartFailed("It did not come up."))
    with being_checked(this):
        check_isolation(str(check.pk))
    assert IsolationCheck.objects.queued().get() == check
    check_isolation(str(check.pk))
    assert IsolationCheck.objects.complete().get().error == "It did not come up."


def test_a_revision_is_recorded_with_a_check(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    image = driver.inspect_image(python.image_reference)
    carry_out(new_check(python, "runc", this), choose(["environment"]))
    check = IsolationCheck.objects.get()
    assert check.revision == record_image(python, image)
    assert check.image_id == image.image_id
