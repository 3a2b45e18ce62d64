"""What each caller may have: its class's policy, its place in its rate. By the roster that holds now, which may change."""

from __future__ import annotations

from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.rate_limit import Rate
from supervisord_ai.core.roster import ClassPolicy, Roster
from supervisord_ai.errors import Refused


class Callers:
    """The one writer of the roster as the gateway has it, and of everybody's rate."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._leaving: dict[str, ClassPolicy] = {}
        self._rates: dict[str, tuple[float, Rate]] = {}  # with what it was made for

    def __repr__(self) -> str:
        return f"<Callers {len(self.roster.agents)} agents, {len(self._leaving)} leaving>"

    def follow(self, roster: Roster) -> None:
        """Go by this roster from now on. Whoever is no longer in it is served as before until it has ended."""
        # Nobody tells of the end of an external agent: its token is nobody's at once, and what it asked is served.
        gone = {
            name: spec.policy for name, spec in self.roster.agents.items() if name not in roster.agents and not spec.external
        }
        self._leaving = {name: policy for name, policy in (self._leaving | gone).items() if name not in roster.agents}
        self.roster = roster

    def ended(self, agent: str) -> None:
        """Every process of an agent is gone."""
        if self._leaving.pop(agent, None) is not None:
            self._rates.pop(agent, None)

    def policy(self, caller: Caller) -> ClassPolicy:
        """Return what a caller may have.

        Raises:
            Refused: 403, its agent and its class are in the roster no more.
        """
        policy = self._of_agent(caller.name) if caller.kind is CallerKind.AGENT else None
        policy = policy or self.roster.classes.get(caller.agent_class)
        if policy is None:
            raise Refused(403, f"{caller.name} is not in the roster any more")
        return policy

    def row_policy(self, agent: str, agent_class: str) -> ClassPolicy | None:
        """Return what the asker of a recovered row may have, None when there is no such asker any more."""
        policy = self._of_agent(agent)
        if policy is None and agent in {CallerKind.OWNER, CallerKind.GUEST}:
            policy = self.roster.classes.get(agent_class)
        return policy

    def rate(self, caller: Caller, policy: ClassPolicy, now: float) -> Rate | None:
        """Return the bucket of a caller, None where it has no rate. A changed rate goes on where the old one stood."""
        per_min = policy.rate_per_min
        if per_min is None:
            self._rates.pop(caller.name, None)
            return None
        made_for, rate = self._rates.get(caller.name, (per_min, None))
        if rate is None:
            rate = Rate(per_min)
        elif made_for != per_min:
            rate = rate.changed(per_min, now)
        self._rates[caller.name] = per_min, rate
        return rate

    def _of_agent(self, name: str) -> ClassPolicy | None:
        spec = self.roster.agents.get(name)
        return spec.policy if spec is not None else self._leaving.get(name)
