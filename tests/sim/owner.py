"""What the owner does at control.sock, over a connection in memory: reloads, rolls out, and whatever else he may say.

A rollout has every sonnet start again as another program, group by group: as one that is as good as the last, or as one that
crashes 3 s after its start. Then the rollout must go back by itself, and nobody beyond the first group ever ran it (S6).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from tests.sim.asks import EMBEDDER, MODEL, OTHER_MODEL
from tests.sim.line import CutShort, call
from tests.sim.machine import BAD

if TYPE_CHECKING:
    from tests.sim.world import World

LOOKS_EVERY_S = 5.0
GROUP, MAY_FAIL = 10, 1  # `rollout.group_size`, `rollout.max_failures`
FOR_A_WHILE_S = 20.0
LASTS_S = 1500.0  # the longest of them: eight groups, with the calls in flight of each, and a life or two of the daemon between
PATTERN = "sonnet-*"


class Owner:
    """Says what the owner says, waiting for a daemon that hears it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_rolling = False
        self.paused_in = -1, 0.0  # the life whose queue is paused, and since when
        self._held: set[str] = set()  # who ran before the reload: what the rollout keeps from the bad program
        self._tried: set[str] = set()  # who of them ran it since the rollout of it began

    async def say(self, method: str, path: str) -> tuple[int, Any]:
        """Say one thing; 0 where the daemon ended before it answered."""
        life = await self._world.up()
        try:
            answer = await call(life.connect_owner(), (method, path), [])
        except CutShort:
            return 0, {}
        told = json.loads(answer.body) if answer.body else {}
        if answer.status >= 500 and answer.status not in {502, 503, 504}:
            self._world.broken("bug", f"{method} {path} was answered {answer.status} {told}")
        return answer.status, told

    async def has_a_say(self, which: float) -> None:
        """Say one of his verbs, and take it back after a while where that is his to do."""
        world = self._world
        verbs = (self._stop_some, self._restart_some, self._pause, self._pin, self._cancel, self._clear, self._unload)
        verb = verbs[min(int(which * len(verbs)), len(verbs) - 1)]
        world.tell(f"the owner: {verb.__name__.strip('_')}")
        world.counts[f"owner: {verb.__name__.strip('_')}"] += 1
        await verb()

    async def _stop_some(self) -> None:
        world = self._world
        lives = world.lives
        names = [name for name in self._some(3) if (await self.say("POST", f"/v1/agents/{name}/stop"))[0] == 200]
        await trio.sleep(FOR_A_WHILE_S)
        run = [name for name in names if world.process_of(name) is not None]
        if run and world.lives == lives:
            world.broken("S4", f"{run} were stopped by their owner {FOR_A_WHILE_S:.0f} s ago, and run")
        for name in names:
            while (await self.say("POST", f"/v1/agents/{name}/start"))[0] == 0:
                pass

    async def _restart_some(self) -> None:
        for name in self._some(5):
            await self.say("POST", f"/v1/agents/{name}/restart")

    async def _pause(self) -> None:
        """Nothing starts until it is resumed."""
        if (await self.say("POST", "/v1/queue/pause"))[0] == 200:
            self.paused_in = self._world.lives, trio.current_time()
            await trio.sleep(FOR_A_WHILE_S / 2)
        self.paused_in = -1, 0.0
        while (await self.say("POST", "/v1/queue/resume"))[0] == 0:
            pass

    async def _pin(self) -> None:
        await self.say("POST", f"/v1/level/pin?level={self._world.rng.randrange(4)}&for_s={4 * FOR_A_WHILE_S:.0f}")

    async def _cancel(self) -> None:
        """Take out some that wait: whoever asked them is told so."""
        world = self._world
        _, told = await self.say("GET", "/v1/queue")
        for one in (told.get("waiting") or [])[:3]:
            for asked in world.open.values():
                if asked.agent == one["agent"]:
                    asked.harmed = asked.harmed or "its owner cancelled it"
            await self.say("POST", f"/v1/queue/{one['id']}/cancel")
            world.counts["cancelled by the owner"] += 1

    async def _clear(self) -> None:
        await self.say("POST", "/v1/cache/clear?tier=all")

    async def _unload(self) -> None:
        """Nobody is the worse for it: calls end first, and whoever asks for it again has it loaded."""
        await self.say("POST", f"/v1/models/{self._world.rng.choice((MODEL, OTHER_MODEL, EMBEDDER))}/unload")

    def _some(self, count: int) -> list[str]:
        """Whom he has in mind. What ends them from now on is his word, whatever was about to."""
        names = sorted(self._world.agents)
        chosen = self._world.rng.sample(names, min(count, len(names)))
        self._world.watch.forget_verdicts(chosen)
        return chosen

    # --- rollouts ------------------------------------------------------------------------------------------------------

    def began(self, name: str, program: str) -> None:
        """An agent begins to run. The bad program ends by itself, and that is its own doing."""
        if program != BAD:
            return
        self._world.watch.ends_by_itself(name)
        if name in self._held:
            self._tried.add(name)
        if len(self._tried) > GROUP + MAY_FAIL:  # after a death of ours the first group may be another by so many
            self._world.broken("S6", f"{len(self._tried)} agents ran what crashed in the first {GROUP}: {sorted(self._tried)}")

    async def roll_out(self, program: str) -> None:
        """Write another program for the sonnets, reload, and roll it out; see it through, or back."""
        world = self._world
        if self.is_rolling or program == world.program:
            return
        self.is_rolling = True
        before, began_in = world.program, world.lives
        try:
            world.program = program
            self._tried.clear()
            self._held.clear()
            alive = {process.launch.env["AI_SUPERVISOR_AGENT"] for process in world.processes.alive}
            status, _ = await self.say("POST", "/v1/reload")
            if status == 200 and began_in == world.lives:
                status, told = await self.say("POST", f"/v1/rollout?pattern={PATTERN}")
                if status == 200 and told["begun"]:
                    self._held = alive & set(told["begun"])
                    world.counts["rollouts"] += 1
                    state = await self._see_through()
                    world.tell(f"the rollout of {program} is {state}")
                    world.counts[f"rollouts that were {state}"] += 1
                    if program == BAD and state == "done":
                        world.broken("S6", "a rollout of what crashes is done")
            if program == BAD or status != 200:
                await self._put_back(before)
        finally:
            self.is_rolling = False
            self._held.clear()

    async def _see_through(self) -> str:
        """Look now and then until it is over; go on with one that a death of ours has paused."""
        world = self._world
        give_up_at, told = trio.current_time() + LASTS_S, dict[str, Any]()
        while trio.current_time() < give_up_at:
            world.stir(LOOKS_EVERY_S, LOOKS_EVERY_S)
            await trio.sleep(LOOKS_EVERY_S)
            status, told = await self.say("GET", "/v1/rollout")
            if status != 200:
                continue
            if len(told["in_hand"]) > GROUP:
                world.broken("S6", f"{len(told['in_hand'])} agents are down or not proved at once: {told['in_hand']}")
            match told["state"]:
                case "paused":
                    await self.say("POST", "/v1/rollout/resume")
                case "running" | "rolling back":
                    pass
                case state:
                    self._judge_over(told)
                    return str(state)
        world.broken("S6", f"a rollout was not over within {LASTS_S:.0f} s: {told}")
        return "endless"

    def _judge_over(self, told: Mapping[str, Any]) -> None:
        """Whoever is rolled runs what was rolled out; whoever was put back does not."""
        world = self._world
        programs = {process.launch.env["AI_SUPERVISOR_AGENT"]: process.launch.argv[0] for process in world.processes.alive}
        for one in told["agents"]:
            runs = programs.get(one["name"])
            if one["step"] == "rolled" and runs not in {None, world.program}:
                world.broken("S6", f"{one['name']} is said to be rolled to {world.program}, and runs {runs}")
            if one["step"] in {"returned", "waiting"} and runs == BAD:
                world.broken("S6", f"{one['name']} is {one['step']}, and runs {runs}")

    async def _put_back(self, program: str) -> None:
        """The config says again what it said before."""
        self._world.program = program
        while (await self.say("POST", "/v1/reload"))[0] == 0:
            pass
        await self.say("POST", f"/v1/agents/{PATTERN}/release")  # who had no past to be held to fell again and again
