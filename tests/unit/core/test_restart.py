"""What follows an end: when it starts again, when it rests, when it is quarantined."""

from __future__ import annotations

from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.restart import Quarantine, Rest, RestartIn, RestartLedger
from supervisord_ai.core.roster import Restart
from supervisord_ai.core.verdict import Verdict

CRASH = Verdict("crash:SEGV")
FINISHED = Verdict("finished")
POLICY = RestartPolicy(base_s=1.0, max_s=60.0, intensity=5, window_s=60.0)


def ledger(restart: Restart = Restart.ON_FAILURE, policy: RestartPolicy = POLICY) -> RestartLedger:
    return RestartLedger(policy, restart)


def test_the_bound_doubles_and_the_draw_is_full_jitter() -> None:
    patient = RestartPolicy(intensity=99)
    lows, highs = ledger(policy=patient), ledger(policy=patient)
    assert [lows.after(CRASH, ran_s=1, now=t, draw=0.0) for t in range(3)] == [RestartIn(0.0)] * 3
    assert [highs.after(CRASH, ran_s=1, now=t, draw=0.5) for t in range(8)] == [
        RestartIn(s) for s in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
    ]


def test_the_fifth_end_within_a_minute_leads_to_quarantine_with_a_reason() -> None:
    one = ledger()
    for t in range(4):
        assert isinstance(one.after(CRASH, ran_s=1, now=t, draw=0.5), RestartIn)
    assert one.after(CRASH, ran_s=1, now=4, draw=0.5) == Quarantine("5 ends in 60 s, the last: crash:SEGV", 600.0)


def test_five_ends_over_more_than_the_window_are_no_crash_loop() -> None:
    one = ledger()
    for t in range(20):
        assert isinstance(one.after(CRASH, ran_s=14, now=t * 15.1, draw=0.5), RestartIn)


def test_our_stops_never_count() -> None:
    one = ledger()
    for t in range(50):
        assert one.after(Verdict("stopped:restart"), ran_s=0.1, now=t, draw=0.9) == RestartIn(0.0)


def test_a_victim_of_the_machines_shortage_is_not_counted_but_waits() -> None:
    one = ledger()
    for t in range(50):
        assert one.after(Verdict("oom:vm"), ran_s=0.1, now=t, draw=0.5) == RestartIn(15.0)


def test_one_that_has_finished_rests_unless_it_is_started_always() -> None:
    assert ledger(Restart.ON_FAILURE).after(FINISHED, ran_s=1, now=0, draw=0.0) == Rest()
    assert ledger(Restart.ALWAYS).after(FINISHED, ran_s=1, now=0, draw=0.0) == RestartIn(1.0)
    assert ledger(Restart.NO).after(CRASH, ran_s=1, now=0, draw=0.0) == Rest()


def test_a_long_run_makes_the_next_backoff_short_again() -> None:
    one = ledger()
    for t in range(3):
        one.after(CRASH, ran_s=1, now=t, draw=0.5)
    assert one.after(CRASH, ran_s=61, now=100, draw=0.5) == RestartIn(0.5)


def test_a_trial_has_one_chance_and_the_next_one_comes_later() -> None:
    one = ledger()
    one.quarantined("for this test")
    assert one.after(CRASH, ran_s=1, now=700, draw=0.5) == Quarantine("its trial failed: crash:SEGV", 1200.0)
    assert one.after(CRASH, ran_s=1, now=2000, draw=0.5) == Quarantine("its trial failed: crash:SEGV", 2400.0)
    assert one.after(CRASH, ran_s=1, now=5000, draw=0.5) == Quarantine("its trial failed: crash:SEGV", 3600.0)


def test_a_trial_that_runs_for_longer_than_the_window_has_passed() -> None:
    one = ledger()
    one.quarantined("for this test")
    assert isinstance(one.after(CRASH, ran_s=61, now=700, draw=0.5), RestartIn)


def test_the_owners_release_forgets_everything() -> None:
    one = ledger()
    for t in range(5):
        one.after(CRASH, ran_s=1, now=t, draw=0.5)
    one.forgive()
    for t in range(5, 9):
        assert isinstance(one.after(CRASH, ran_s=1, now=t, draw=0.5), RestartIn)
