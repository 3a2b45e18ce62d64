"""G6: nothing starts after its deadline, what cannot is refused at the door, and what is said of a wait comes true."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import trio

from supervisord_ai.core.policies import QueuePolicy
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import Answered, agent, life, roster_of, wait_until

Clock = trio.abc.Clock
DEADLINE_S = 60.0
TAKES_S = 2.0  # of slot time, in the mean


async def test_at_twice_the_capacity_nothing_starts_late_and_estimates_come_true(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    rng = random.Random(7)
    queue = QueuePolicy(deadline_s=DEADLINE_S)
    answers: list[Answered] = []
    told: dict[str, tuple[float, float]] = {}  # id -> when it was asked, the estimate
    started: dict[str, float] = {}
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(60, 71), queue=queue) as bench:
        gateway = bench.gateway
        names = list(gateway._callers.roster.agents)

        async def ask(name: str, number: int) -> None:
            count = rng.randint(10, 30)
            answers.append(await bench.ask(agent(name), f"[[n={count} delay=0.1]] {number}"))

        async def watch() -> None:
            while True:
                now = trio.current_time()
                view = gateway.statistics()
                for one in view.queue:
                    if one.id not in told and one.waited_s >= 0.0:
                        estimate = (gateway.explain(one.id) or {}).get("estimate_s")
                        if isinstance(estimate, float):
                            told[one.id] = now, estimate
                for backend in view.backends:
                    for run in backend.running:
                        started.setdefault(run.id, now - run.since_s)
                await trio.sleep(0.05)

        await bench.ask(agent(names[0]), "[[n=20 delay=0.1]]")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as callers:
                for number in range(400):  # one every half second: 2 a second, and two slots do 1 a second
                    callers.start_soon(ask, names[number % len(names)], number)
                    await trio.sleep(TAKES_S / 4)
            nursery.cancel_scope.cancel()
        await wait_until(lambda: gateway.statistics().running == 0)

    refused = [answer for answer in answers if answer.status == 503]
    good = [answer for answer in answers if answer.status == 200]
    assert len(refused) + len(good) == 400
    assert double.statistics().peak_running == 2
    # Two slots were busy all the time: about half of what was asked was done, and the rest was told so.
    assert 180 <= len(good) <= 300
    assert all(answer.headers.get("Retry-After") for answer in refused)
    late = [started[key] - at for key, (at, _) in told.items() if key in started and started[key] - at > DEADLINE_S + 0.1]
    assert late == []
    at_the_door = sum("it would start" in answer.body.decode() for answer in refused)
    assert at_the_door > 0.5 * len(refused)  # the others were overtaken by classes that go first
    errors = [
        abs(estimate - (started[key] - at)) / (started[key] - at)
        for key, (at, estimate) in told.items()
        if key in started and started[key] - at > TAKES_S
    ]
    assert len(errors) > 100
    assert statistics.median(errors) < 0.30
    print(f"median error {statistics.median(errors):.1%}, {at_the_door} of {len(refused)} refused at the door")
