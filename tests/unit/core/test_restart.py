"""What follows an end: when it starts again, when it rests, when it is quarantined."""

from __future__ import annotations

from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.restart import Quarantine, Rest, RestartIn, RestartLedger, RunAgainIn
from supervisord_ai.core.roster import Restart
from supervisord_ai.core.verdict import Verdict

CRASH = Verdict("crash:SEGV")
FINISHED = Verdict("finished")
POLICY = RestartPolicy(base_s=1.0, max_s=60.0, intensity=5, window_s=60.0)


GAVE_UP = Verdict("exit:1", is_after_gateway=True)


def ledger(
    restart: Restart = Restart.ON_FAILURE, policy: RestartPolicy = POLICY, every_s: float | None = None
) -> RestartLedger:
    return RestartLedger(policy, restart, every_s)


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


def test_an_end_just_a_window_ago_counts_still() -> None:
    for last_at, follows in ((60.0, Quarantine), (60.1, RestartIn)):
        one = ledger()
        for at in (0.0, 15.0, 30.0, 45.0):
            one.after(CRASH, ran_s=14, now=at, draw=0.5)
        assert isinstance(one.after(CRASH, ran_s=14, now=last_at, draw=0.5), follows)


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


# --- ends after a refusal of ours ---


def test_one_that_gives_up_because_we_refused_it_waits_longer_each_time_and_is_never_quarantined() -> None:
    one = ledger()
    delays = [one.after(GAVE_UP, ran_s=0.1, now=t, draw=0.5) for t in range(50)]
    assert delays[:7] == [RestartIn(s) for s in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)]
    assert set(delays[6:]) == {RestartIn(30.0)}
    assert not one.ends


def test_crashes_between_refusals_still_count() -> None:
    one = ledger()
    for t in range(4):
        assert isinstance(one.after(CRASH, ran_s=1, now=2 * t, draw=0.5), RestartIn)
        assert isinstance(one.after(GAVE_UP, ran_s=1, now=2 * t + 1, draw=0.5), RestartIn)
    assert isinstance(one.after(CRASH, ran_s=1, now=8, draw=0.5), Quarantine)


def test_a_trial_that_was_refused_by_us_has_not_failed() -> None:
    one = ledger()
    one.quarantined("for this test")
    assert isinstance(one.after(GAVE_UP, ran_s=1, now=700, draw=0.5), RestartIn)
    assert one.after(CRASH, ran_s=1, now=800, draw=0.5) == Quarantine("its trial failed: crash:SEGV", 1200.0)


def test_one_that_is_not_to_be_restarted_rests_whoever_is_to_blame() -> None:
    assert ledger(Restart.NO).after(GAVE_UP, ran_s=1, now=0, draw=0.5) == Rest()
    assert ledger(Restart.NO).after(Verdict("oom:vm"), ran_s=1, now=0, draw=0.5) == Rest()


def test_years_of_failing_overflow_nothing() -> None:
    one = ledger()
    for t in range(3000):
        assert one.after(GAVE_UP, ran_s=0, now=t, draw=0.5) in {RestartIn(0.5 * 2**n) for n in range(6)} | {RestartIn(30.0)}
    for _ in range(3000):
        one.quarantined("again")
    assert one.quarantined("again").trial_in_s == 3600.0


# --- periodic jobs ---


def test_a_periodic_job_is_run_again_a_period_after_its_last_start() -> None:
    one = ledger(every_s=600)
    assert one.after(FINISHED, ran_s=30, now=30, draw=0.5) == RunAgainIn(570.0)
    assert one.after(FINISHED, ran_s=700, now=1300, draw=0.5) == RunAgainIn(0.0)
    assert ledger(Restart.NO, every_s=600).after(FINISHED, ran_s=30, now=30, draw=0.5) == RunAgainIn(570.0)


def test_a_periodic_job_that_fails_backs_off_and_never_runs_more_often_than_its_period() -> None:
    for restart in Restart:
        one = ledger(restart, every_s=10)
        waits = [one.after(CRASH, ran_s=2, now=t * 100.0, draw=0.5) for t in range(8)]
        assert waits == [RestartIn(s) for s in (8.0, 8.0, 8.0, 8.0, 8.0, 16.0, 30.0, 30.0)]
    assert ledger(every_s=600).after(Verdict("oom:vm"), ran_s=1, now=1, draw=0.5) == RestartIn(599.0)


def test_a_periodic_job_that_fails_every_second_is_quarantined_like_anybody() -> None:
    one = ledger(every_s=1)
    for t in range(4):
        assert isinstance(one.after(CRASH, ran_s=0.1, now=t, draw=0.5), RestartIn)
    assert isinstance(one.after(CRASH, ran_s=0.1, now=4, draw=0.5), Quarantine)


def test_a_good_run_out_of_quarantine_is_a_passed_trial() -> None:
    one = ledger(every_s=600)
    one.quarantined("for this test")
    assert one.after(FINISHED, ran_s=1, now=700, draw=0.5) == RunAgainIn(599.0)
    assert isinstance(one.after(CRASH, ran_s=1, now=1400, draw=0.5), RestartIn)


def test_what_an_earlier_supervisor_counted_counts() -> None:
    one = ledger()
    one.restore((0.0, 1.0, 2.0), in_a_row=3, trials=0)
    assert one.after(CRASH, ran_s=1, now=3, draw=0.5) == RestartIn(4.0)
    assert isinstance(one.after(CRASH, ran_s=1, now=4, draw=0.5), Quarantine)
    trial = ledger()
    trial.restore((), in_a_row=0, trials=1)
    assert trial.after(CRASH, ran_s=1, now=4, draw=0.5) == Quarantine("its trial failed: crash:SEGV", 1200.0)


def test_a_run_of_just_the_window_is_no_long_run() -> None:
    one = ledger()
    one.quarantined("for this test")
    assert isinstance(one.after(CRASH, ran_s=60, now=700, draw=0.5), Quarantine)
