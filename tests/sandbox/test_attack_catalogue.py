"""The catalogue of attacks, and the judge of what becomes of them."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from codeexec.sandbox.attacks.catalogue import ATTACKS, BY_NAME, Attack, Group, choose
from codeexec.sandbox.attacks.judge import Outcome, judge
from codeexec.sandbox.attacks.poison import planted
from codeexec.sandbox.attacks.subject import PROGRAMS
from codeexec.sandbox.docker.program_image import ATTACK_SOURCES
from codeexec.sandbox.policy import GVISOR
from codeexec.sandbox.types import RunResult, Verdict
from scripts.steps import ROOT
from tests.support.sandboxes import LIMITS, MIB

SERVICES = {
    "hello",
    "tidy",
    "leave-mark",
    "look-around",
    "link-followed",
    "meet-locks",
    "own-share",
}
"""Words of the attack program that are no attacks."""

_TABLE_ROW = re.compile(r'^    \{"([a-z0-9-]+)", \w+\},$', re.MULTILINE)


def result(stdout: bytes = b"held it: refused\n", **changes: object) -> RunResult:
    given: dict[str, object] = {
        "verdict": Verdict.OK,
        "exit_code": 0,
        "signal": None,
        "stdout": stdout,
        "stderr": b"",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "wall_seconds": 0.1,
        "cpu_seconds": 0.1,
        "memory_peak_bytes": MIB,
    }
    return RunResult(**(given | changes))  # type: ignore[arg-type]


def attack(**changes: object) -> Attack:
    given = {"name": "any", "group": Group.ESCAPE, "tries": "tries", "must": "is refused"}
    return Attack(**(given | changes))  # type: ignore[arg-type]


class TestCatalogue:
    def test_there_are_enough_of_each_group(self):
        counts = Counter(each.group for each in ATTACKS)
        assert len(ATTACKS) >= 100
        assert counts.keys() == set(Group)
        assert min(counts.values()) >= 10

    def test_the_documents_state_how_many_there_are(self):
        under_gvisor = [
            each
            for each in ATTACKS
            if each.concerns(runtime=GVISOR, network=False, prestarted=True)
        ]
        isolation = " ".join((ROOT / "docs" / "isolation.md").read_text().split())
        assert (
            f"{len(ATTACKS)} attacks on each enabled environment ({len(under_gvisor)}" in isolation
        )
        assert f"runs {len(ATTACKS)} attacks" in (ROOT / "README.md").read_text()

    def test_names_are_unique(self):
        assert len(BY_NAME) == len(ATTACKS)

    @pytest.mark.parametrize("each", ATTACKS, ids=lambda each: each.name)
    def test_each_describes_what_it_tries_and_what_must_happen(self, each):
        assert re.fullmatch(r"[a-z][a-z0-9-]+", each.name)
        for sentence in (each.tries, each.must, *each.lacks.values()):
            assert len(sentence) >= 5
            assert not sentence.endswith(".")
        assert each.tries != each.must
        assert each.ends

    def test_the_program_knows_each_and_no_other(self):
        known = {
            name
            for path in ATTACK_SOURCES.glob("*.c")
            for name in _TABLE_ROW.findall(path.read_text())
        }
        assert known == BY_NAME.keys() | SERVICES - {"hello", "tidy"}

    def test_no_two_attacks_do_the_same(self):
        assert len({each.tries for each in ATTACKS}) == len(ATTACKS)

    def test_what_is_asked_elsewhere_is_known(self):
        known = SERVICES | BY_NAME.keys() | {""}
        words = [(each.elsewhere, each.afterwards, each.meanwhile) for each in ATTACKS]
        assert {word for of_one in words for word in of_one} <= known

    def test_a_sandbox_may_be_lost_under_gvisor_only(self):
        assert {name for each in ATTACKS for name in each.may_lose} == {"runsc"}

    def test_network_attacks_are_for_sandboxes_without_one(self):
        network = choose(groups=[Group.NETWORK])
        of_runc = {"runtime": "runc", "prestarted": False}
        assert all(each.concerns(network=False, **of_runc) for each in network)
        assert not any(each.concerns(network=True, **of_runc) for each in network)

    def test_what_waits_is_attacked_where_something_waits(self):
        waits = choose(groups=[Group.PRESTART])
        of_runc = {"runtime": "runc", "network": False}
        assert all(each.concerns(prestarted=True, **of_runc) for each in waits)
        assert not any(each.concerns(prestarted=False, **of_runc) for each in waits)

    def test_some_are_chosen_by_name_and_by_group_in_their_order(self):
        chosen = choose(["inodes"], [Group.NETWORK])
        assert [each.name for each in chosen][:2] == ["inodes", "interfaces"]

    def test_an_unknown_name_is_refused_with_it(self):
        with pytest.raises(ValueError, match="There is no attack fork-bum"):
            choose(["fork-bum"])

    @pytest.mark.parametrize("extension", [*PROGRAMS, ".unknown"])
    @pytest.mark.parametrize("name", ["poisoned-workspace", "poisoned-home"])
    def test_every_language_is_poisoned(self, name, extension):
        for path, text in planted(name, extension).items():
            assert text
            assert path.startswith("~/") == (name == "poisoned-home" and path != "attack-left.sh")
            assert len(path) + len(text) < 500  # a fact's line

    def test_other_attacks_plant_nothing(self):
        assert planted("fork-bomb", ".py") == {}


class TestMoreTime:
    def test_only_the_time_differs(self):
        hurried = attack(wall_seconds=2.0)
        assert hurried.with_more_time() == attack(wall_seconds=6.0)


class TestJudge:
    def test_what_was_refused_is_held(self):
        finding = judge(attack(), result(b"held a: refused\nheld b: refused\n"), LIMITS)
        assert (finding.outcome, finding.detail) == (Outcome.HELD, "a: refused\nb: refused")

    def test_one_way_out_counts_more_than_what_was_refused(self):
        output = b"held a: refused\nuntried c: no\nescaped b: it was allowed\n"
        finding = judge(attack(), result(output), LIMITS)
        assert (finding.outcome, finding.detail) == (Outcome.ESCAPED, "b: it was allowed")

    def test_what_was_not_tried_proves_nothing(self):
        finding = judge(attack(), result(b"held a: refused\nuntried b: no /proc\n"), LIMITS)
        assert (finding.outcome, finding.detail) == (Outcome.INCONCLUSIVE, "b: no /proc")

    @pytest.mark.parametrize("output", [b"", b"hello\n", b"held\n", b"heldup: x\n"])
    def test_an_attack_without_output_proves_nothing(self, output):
        assert judge(attack(), result(output), LIMITS).outcome == Outcome.INCONCLUSIVE

    def test_a_way_out_counts_however_the_program_ended(self):
        broken = result(b"escaped b: yes\n", verdict=Verdict.TIME_LIMIT, exit_code=124)
        assert judge(attack(), broken, LIMITS).outcome == Outcome.ESCAPED

    @pytest.mark.parametrize(
        ("verdict", "exit_code"),
        [(Verdict.RUNTIME_ERROR, 139), (Verdict.TIME_LIMIT, 124), (Verdict.MEMORY_LIMIT, 137)],
    )
    def test_another_end_than_expected_proves_nothing(self, verdict, exit_code):
        ended = result(verdict=verdict, exit_code=exit_code)
        finding = judge(attack(), ended, LIMITS)
        assert finding.outcome == Outcome.INCONCLUSIVE
        assert f"ended as {verdict}, exit code {exit_code}" in finding.detail

    def test_where_the_end_is_the_proof_no_output_is_needed(self):
        flood = attack(ends=frozenset({Verdict.OUTPUT_LIMIT}), reports=False)
        ended = result(b"xxx", verdict=Verdict.OUTPUT_LIMIT, exit_code=137, signal="SIGKILL")
        assert judge(flood, ended, LIMITS).outcome == Outcome.HELD
        assert judge(flood, result(b"xxx"), LIMITS).outcome == Outcome.INCONCLUSIVE

    def test_running_out_of_time_proves_nothing_where_memory_must_end_it(self):
        ended = result(b"", verdict=Verdict.TIME_LIMIT, exit_code=124)
        eater = attack(ends=frozenset({Verdict.MEMORY_LIMIT}), killed_in=frozenset({"runsc"}))
        assert judge(eater, ended, LIMITS, runtime="runsc").outcome == Outcome.INCONCLUSIVE
        filler = attack(killed_in=frozenset({"runsc"}))
        assert judge(filler, ended, LIMITS, runtime="runsc").outcome == Outcome.HELD
        assert judge(filler, ended, LIMITS, runtime="runc").outcome == Outcome.INCONCLUSIVE

    def test_a_late_end_is_reported_as_a_busy_host(self):
        late = result(verdict=Verdict.TIME_LIMIT, exit_code=124, wall_seconds=9.0)
        finding = judge(attack(ends=frozenset({Verdict.TIME_LIMIT})), late, LIMITS)
        assert (finding.outcome, finding.detail) == (
            Outcome.BUSY,
            "it was ended 4.0 s too late",
        )

    def test_another_exit_code_than_the_attack_gave_is_no_proof(self):
        forged = attack(ends=frozenset({Verdict.RUNTIME_ERROR}), exit_codes=frozenset({7}))
        true = result(verdict=Verdict.RUNTIME_ERROR, exit_code=7)
        assert judge(forged, true, LIMITS).outcome == Outcome.HELD
        false = result(verdict=Verdict.RUNTIME_ERROR, exit_code=0)
        assert judge(forged, false, LIMITS).outcome == Outcome.INCONCLUSIVE

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"clean": False}, "outlived"),
            ({"wall_seconds": 9.0}, "ran for 9.0 s; 5 s were allowed"),
            ({"cpu_seconds": 9.0}, "processor time"),
            ({"memory_peak_bytes": 200 * MIB}, "200 MiB"),
            ({"stdout": b"held x: y\n" * 100_000}, "bytes of its output"),
        ],
    )
    def test_a_bound_that_did_not_hold_is_a_way_out(self, changes, words):
        finding = judge(attack(), result(**changes), LIMITS)
        assert finding.outcome == Outcome.ESCAPED
        assert words in finding.detail
