"""One verdict for every end: the table of causes, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.verdict import Blame, Evidence, ExitStatus, Verdict, blame, decide

CAP = 100_000_000
KILLED = ExitStatus(signal=9)


def word(status: ExitStatus, **known: object) -> str:
    return decide(Evidence(status, cap_bytes=CAP, **known)).word  # type: ignore[arg-type]


def test_what_we_wrote_down_before_we_signalled_comes_first() -> None:
    assert word(ExitStatus(signal=15), intent="shutdown") == "stopped:shutdown"
    assert word(ExitStatus(signal=11), intent="owner") == "stopped:owner"
    assert word(KILLED, intent="shutdown", was_killed_by_us=True, oom_kills=1) == "stopped:shutdown"


def test_a_stop_that_needed_a_kill_says_so() -> None:
    verdict = decide(Evidence(KILLED, intent="shutdown", was_killed_by_us=True))
    assert verdict == Verdict("stopped:shutdown", "did not end within its grace and was killed")


def test_an_oom_kill_during_a_stop_is_noted() -> None:
    assert "OOM killer" in decide(Evidence(KILLED, intent="shutdown", oom_kills=1)).detail


def test_one_that_we_ended_for_its_cap_is_out_of_memory_and_not_stopped() -> None:
    verdict = decide(Evidence(ExitStatus(signal=15), intent="own-cap", peak_bytes=120_000_000, cap_bytes=CAP))
    assert verdict == Verdict("oom:own-cap", "seen over its cap and ended by us; peak 120 MB of 100 MB")


def test_a_kill_at_its_own_limit_is_its_own_cap() -> None:
    assert word(KILLED, oom_kills=1, own_limit_hits=1, peak_bytes=CAP) == "oom:own-cap"


def test_v1_does_not_say_whose_limit_it_was_so_the_peak_decides() -> None:
    assert word(KILLED, oom_kills=1, peak_bytes=CAP) == "oom:own-cap"
    assert word(KILLED, oom_kills=1, peak_bytes=CAP - 1_000_000) == "oom:own-cap"
    assert word(KILLED, oom_kills=1, peak_bytes=CAP // 2) == "oom:vm"


def test_a_victim_of_another_shortage_is_not_blamed() -> None:
    assert word(KILLED, oom_kills=1, own_limit_hits=0, peak_bytes=CAP) == "oom:vm"


def test_a_victim_of_the_limit_of_all_together_is_not_blamed_either() -> None:
    verdict = decide(Evidence(KILLED, oom_kills=1, own_limit_hits=0, fleet_limit_hits=2, peak_bytes=CAP // 2, cap_bytes=CAP))
    assert verdict.word == "oom:fleet"
    assert verdict.detail == "the limit of all agents together was reached, below its own cap; peak 50 MB of 100 MB"
    assert word(KILLED, oom_kills=1, own_limit_hits=1, fleet_limit_hits=2) == "oom:own-cap"
    assert word(ExitStatus(code=1), fleet_limit_hits=2) == "exit:1"
    assert word(KILLED, fleet_limit_hits=2) == "killed:external"


def test_systemd_oomd_says_whom_it_took() -> None:
    assert word(KILLED, oomd_kills=1) == "oom:systemd-oomd"
    assert word(ExitStatus(code=1), oomd_kills=1) == "exit:1"
    assert word(KILLED, oomd_kills=1, intent="owner") == "stopped:owner"


def test_where_nobody_tells_the_status_the_counters_do() -> None:
    assert word(ExitStatus(), oom_kills=1, own_limit_hits=1) == "oom:own-cap"
    assert word(ExitStatus(), oom_kills=1, own_limit_hits=0, fleet_limit_hits=1) == "oom:fleet"
    assert word(ExitStatus(), oomd_kills=1) == "oom:systemd-oomd"
    assert word(ExitStatus()) == "exit:unknown(adopted)"


def test_a_shell_that_lost_its_child_to_the_cap_ended_of_the_cap() -> None:
    verdict = decide(Evidence(ExitStatus(code=137), oom_kills=1, peak_bytes=CAP, cap_bytes=CAP))
    assert verdict == Verdict("oom:own-cap", "peak 100 MB of 100 MB; a child of it was killed and it ended with that")


def test_137_as_an_exit_code_alone_is_an_exit_code() -> None:
    assert word(ExitStatus(code=137)) == "exit:137"
    assert word(ExitStatus(code=143)) == "exit:143"


def test_a_kill_that_nobody_counted_came_from_outside() -> None:
    assert word(KILLED) == "killed:external"


def test_a_crash_names_its_signal_and_its_core() -> None:
    assert decide(Evidence(ExitStatus(signal=11, core_dumped=True))) == Verdict("crash:SEGV", "core dumped")
    assert word(ExitStatus(signal=6)) == "crash:ABRT"
    assert word(ExitStatus(signal=40)) == "crash:40"


def test_an_end_by_itself_is_finished_or_its_code() -> None:
    assert word(ExitStatus(code=0)) == "finished"
    lines = ("a", "boom ", "")
    assert decide(Evidence(ExitStatus(code=3), last_lines=lines)) == Verdict("exit:3", "last line: boom", lines)


def test_a_child_killed_below_a_living_agent_is_told_and_changes_nothing() -> None:
    assert decide(Evidence(ExitStatus(code=0), oom_kills=2, peak_bytes=CAP)) == Verdict(
        "finished", "a child of it was killed at the cap"
    )
    assert word(ExitStatus(code=1), oom_kills=1, peak_bytes=CAP) == "exit:1"


@pytest.mark.parametrize("line", ["MemoryError", "terminate called after throwing an instance of 'std::bad_alloc'"])
def test_a_limit_on_each_process_is_only_likely_the_reason(line: str) -> None:
    assert word(ExitStatus(code=1), is_capped_by_rlimit=True, last_lines=(line,)) == "oom:rlimit(likely)"
    assert word(ExitStatus(code=1), is_capped_by_rlimit=False, last_lines=(line,)) == "exit:1"
    assert word(ExitStatus(code=0), is_capped_by_rlimit=True, last_lines=(line,)) == "finished"


def test_a_program_that_was_never_executed_did_not_exit() -> None:
    assert word(ExitStatus(code=127, never_ran=True)) == "failed:exec"
    assert word(ExitStatus(code=127)) == "exit:127"


def test_a_status_that_nobody_could_read_is_unknown_and_never_zero() -> None:
    assert word(ExitStatus()) == "exit:unknown(adopted)"


def test_blame_falls_where_it_belongs() -> None:
    assert blame("finished") is Blame.NOBODY
    assert blame("stopped:shutdown") is Blame.OURS
    assert blame("lost-while-down") is Blame.OURS
    assert blame("oom:vm") is Blame.MACHINE
    for own in ("oom:own-cap", "oom:rlimit(likely)", "crash:SEGV", "exit:1", "killed:external", "failed:cage", "failed:exec"):
        assert blame(own) is Blame.ITSELF


statuses = st.one_of(
    st.builds(ExitStatus, code=st.integers(0, 255)), st.builds(ExitStatus, signal=st.integers(1, 64)), st.just(ExitStatus())
)


@given(
    statuses, st.none() | st.just("owner"), st.integers(0, 3), st.none() | st.integers(0, 3), st.none() | st.integers(0, 2 * CAP)
)
def test_every_end_has_exactly_one_verdict_and_an_intent_is_never_overruled(
    status: ExitStatus, intent: str | None, kills: int, hits: int | None, peak: int | None
) -> None:
    verdict = decide(Evidence(status, intent, oom_kills=kills, own_limit_hits=hits, peak_bytes=peak, cap_bytes=CAP))
    assert verdict.word
    assert (verdict.word == "stopped:owner") == (intent is not None)


def test_an_end_soon_after_a_refusal_of_ours_is_put_down_to_it() -> None:
    verdict = decide(Evidence(ExitStatus(code=1), refused_s=0.3))
    assert (verdict.word, verdict.is_after_gateway) == ("exit:1", True)
    assert verdict.detail == "after=gateway: 0.3 s before, the gateway refused it or cut its answer"
    assert decide(Evidence(ExitStatus(signal=6), refused_s=10.0)).is_after_gateway
    assert not decide(Evidence(ExitStatus(code=1), refused_s=10.1)).is_after_gateway
    assert not decide(Evidence(ExitStatus(code=1))).is_after_gateway


def test_what_no_refusal_explains_is_not_put_down_to_it() -> None:
    for evidence in (
        Evidence(ExitStatus(code=0), refused_s=0.1),
        Evidence(KILLED, refused_s=0.1),
        Evidence(KILLED, oom_kills=1, refused_s=0.1),
        Evidence(ExitStatus(code=127, never_ran=True), refused_s=0.1),
        Evidence(ExitStatus(signal=15), intent="own-cap", refused_s=0.1),
        Evidence(ExitStatus(signal=15), intent="owner", refused_s=0.1),
    ):
        assert not decide(evidence).is_after_gateway, evidence


PEAK = {"peak_bytes": 120_000_500, "cap_bytes": CAP}
SAID = ("first", "  the end  ", " ")


@pytest.mark.parametrize(
    ("status", "known", "verdict", "detail"),
    [
        (ExitStatus(signal=15), {"intent": "owner"}, "stopped:owner", "ended by SIGTERM"),
        (ExitStatus(signal=40), {"intent": "owner"}, "stopped:owner", "ended by SIG40"),
        (ExitStatus(code=3), {"intent": "owner"}, "stopped:owner", "exit 3"),
        (ExitStatus(), {"intent": "owner"}, "stopped:owner", ""),
        (
            ExitStatus(code=0),
            {"intent": "owner", "oom_kills": 1},
            "stopped:owner",
            "exit 0; the OOM killer took part of it meanwhile",
        ),
        (
            ExitStatus(code=127, never_ran=True),
            {"last_lines": SAID},
            "failed:exec",
            "the program could not be executed; last line: the end",
        ),
        (KILLED, {"oom_kills": 1, **PEAK}, "oom:own-cap", "peak 120 MB of 100 MB"),
        (
            ExitStatus(code=137),
            {"oom_kills": 1, **PEAK},
            "oom:own-cap",
            "peak 120 MB of 100 MB; a child of it was killed and it ended with that",
        ),
        (
            KILLED,
            {"oom_kills": 1, "own_limit_hits": 0, **PEAK},
            "oom:vm",
            "an OOM killer took it below its own cap; peak 120 MB of 100 MB",
        ),
        (
            KILLED,
            {"oomd_kills": 1, "cap_bytes": CAP},
            "oom:systemd-oomd",
            "systemd-oomd took it, for the pressure on the machine; cap 100 MB",
        ),
        (KILLED, {}, "killed:external", "SIGKILL from outside"),
        (ExitStatus(signal=11, core_dumped=True), {}, "crash:SEGV", "core dumped"),
        (
            ExitStatus(signal=11),
            {"oom_kills": 1, "last_lines": SAID},
            "crash:SEGV",
            "a child of it was killed at the cap; last line: the end",
        ),
        (ExitStatus(), {}, "exit:unknown(adopted)", "it was not our child, so the kernel keeps its status from us"),
        (ExitStatus(code=0), {"oom_kills": 1}, "finished", "a child of it was killed at the cap"),
        (
            ExitStatus(code=1),
            {"is_capped_by_rlimit": True, "last_lines": ("MemoryError",), **PEAK},
            "oom:rlimit(likely)",
            "peak 120 MB of 100 MB; last line: MemoryError",
        ),
        (
            ExitStatus(code=1),
            {"oom_kills": 1, "last_lines": SAID},
            "exit:1",
            "a child of it was killed at the cap; last line: the end",
        ),
        (ExitStatus(code=1), {"last_lines": ("x" * 300,)}, "exit:1", f"last line: {'x' * 200}"),
    ],
)
def test_the_sentence_behind_a_verdict_says_what_is_known_and_nothing_else(
    status: ExitStatus, known: dict[str, object], verdict: str, detail: str
) -> None:
    found = decide(Evidence(status, **known))  # type: ignore[arg-type]
    assert (found.word, found.detail) == (verdict, detail)


def test_a_verdict_carries_the_peak_and_what_was_said_last() -> None:
    found = decide(Evidence(KILLED, peak_bytes=5, last_lines=SAID))
    assert (found.peak_bytes, found.last_lines) == (5, SAID)


def test_an_end_after_a_refusal_keeps_what_else_is_known_of_it() -> None:
    found = decide(Evidence(ExitStatus(signal=6), last_lines=SAID, refused_s=1.26))
    words = "last line: the end; after=gateway: 1.3 s before, the gateway refused it or cut its answer"
    assert (found.detail, found.is_after_gateway) == (words, True)


def test_where_the_kernel_does_not_say_whose_limit_it_was_the_last_fiftieth_is_its_own() -> None:
    assert word(KILLED, oom_kills=1, peak_bytes=98_000_000) == "oom:own-cap"
    assert word(KILLED, oom_kills=1, peak_bytes=97_999_999) == "oom:vm"
