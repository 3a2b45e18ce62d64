"""Decides who a caller is from what the kernel says of it. Reads nothing itself and knows no sockets.

On the Unix socket, the first of these that holds:

1. it is in the cgroup of a running agent, or in one below it: that agent, *proved*;
2. it has a user id that only one agent has: that agent, *proved*;
3. it is in the fleet's cgroups, but in no running agent's: nobody (an agent that has ended, or that is just being started);
4. its session is led by an agent's main process, or an ancestor is that process, or its environment carries an agent's tag, in
   this order, since the first cannot be borrowed and the last can be written by anyone: that agent, *tagged*;
5. it carries a tag that no running agent has, or a user id that is the fleet's and not the owner's: nobody;
6. it is the owner's: owner;
7. `[guests] allow` says "group" and it is in the owner's group: guest;
8. nobody.

On TCP there is no process to ask, only a socket: its cgroup (v2) and user id count first, then the token, then the process
that holds the socket where somebody looked for it (as above), then the owner's user id, then `[listen] anonymous`.
Agents of one user can read each other's environment, and the token in it. So where the socket says no cgroup (v1) and the token
names an agent that has one, the process is looked for all the same, and its cgroup outranks the token.

An external agent (a container, an editor: not started by us) has no process that we know. It is whoever shows its token, on TCP
or on the socket, unless the kernel says that it is one of the fleet: its token has generation 0, and so does not end.

Proved says that no other agent can pass for it. An agent that runs as root, or as the daemon's own user, can write the
cgroups, become any user, and read the secret: while one such agent runs, nobody is proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from supervisord_ai.core.events import AgentEnded, AgentStarted, Event

EXTERNAL_GENERATION = 0  # of those we did not start: there is one, and it does not end


class CallerKind(StrEnum):
    """What sort of caller asks."""

    AGENT = "agent"
    OWNER = "owner"
    GUEST = "guest"


class Proof(StrEnum):
    """How sure we are: no other agent can pass for it; this prevents mistakes but not malice; it holds a secret."""

    PROVED = "proved"
    TAGGED = "tagged"
    TOKEN = "token"  # noqa: S105 - a word, not a secret


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is the agent's, or "owner" or "guest"; `generation` is 0 for those two, and for external agents."""

    kind: CallerKind
    name: str
    agent_class: str
    generation: int
    proof: Proof
    uid: int | None


@dataclass(frozen=True, slots=True)
class Stranger:
    """Nobody who may call. `may_be_starting`: it belongs to the fleet, and its agent may be announced at any moment."""

    why: str
    may_be_starting: bool = False


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What the kernel says of the process at the other end of a Unix socket.

    `cgroups` has every line of /proc/PID/cgroup as "controllers:path" ("" as controllers is cgroup v2). `session` is its
    session id, `run_tag` the AI_SUPERVISOR_RUN of its environment at exec, `ancestors` the (pid, start ticks) of its
    parents, nearest first. `pidfd_matches` is False when the process that connected has ended, or may have: then nothing
    read from /proc is its own, and only uid and gid count. `pid` is 0 for a process of a foreign pid namespace, which
    therefore is no descendant of ours.
    """

    pid: int
    uid: int
    gid: int
    start_ticks: int | None = None
    cgroups: tuple[str, ...] = ()
    session: int | None = None
    run_tag: str | None = None
    ancestors: tuple[tuple[int, int], ...] = ()
    pidfd_matches: bool = True
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpFacts:
    """What the kernel says of the socket at the other end of a loopback connection; None where it says nothing.

    `cgroup_id` is the cgroup v2 the socket was made in (the inode number of its folder), `inode` the socket's own.
    """

    uid: int | None = None
    inode: int | None = None
    cgroup_id: int | None = None


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """Who may call without being an agent, and by what the fleet is known.

    `guests` is `[guests] allow` (owner, group, none), `anonymous` is `[listen] anonymous` (guest, refuse). `fleet_uids` are
    the users of the classes. `fleet_cgroup` is the group above all agents' as /proc/PID/cgroup shows it. `inherited_tag` is
    the tag of an agent of another supervisor in which this daemon itself runs: everyone around has it.
    """

    owner_uid: int
    owner_gid: int
    daemon_uid: int
    guests: str = "owner"
    anonymous: str = "guest"
    fleet_uids: frozenset[int] = frozenset()
    fleet_cgroup: str | None = None
    inherited_tag: str | None = None


class Register:
    """The agents that run now, and the decision who is one of them."""

    def __init__(self, policy: IdentityPolicy, externals: Mapping[str, str] | None = None) -> None:
        """`externals` are the external agents and their classes."""
        self._policy = policy
        self._externals = dict(externals or {})
        self._running: dict[str, AgentStarted] = {}
        self._by_cgroup: dict[str, AgentStarted] = {}
        self._by_own_uid: dict[int, AgentStarted] = {}
        self._by_pid: dict[int, AgentStarted] = {}
        self._by_tag: dict[str, AgentStarted] = {}

    def follow(self, externals: Mapping[str, str]) -> None:
        """Have these external agents from now on; the token of any other is nobody's."""
        self._externals = dict(externals)

    def tell(self, event: Event) -> None:
        """Note a start or an end; an end of an older generation than the one that runs changes nothing."""
        if isinstance(event, AgentStarted):
            self._remove(event.agent)
            self._running[event.agent] = event
            if event.cgroup is not None:
                self._by_cgroup[event.cgroup] = event
            if event.own_uid:
                self._by_own_uid[event.uid] = event
            self._by_pid[event.pid] = event
            self._by_tag[event.run_tag] = event
        elif isinstance(event, AgentEnded):
            known = self._running.get(event.agent)
            if known is not None and known.generation == event.generation:
                self._remove(event.agent)

    def _remove(self, agent: str) -> None:
        known = self._running.pop(agent, None)
        if known is None:
            return
        for table, key in ((self._by_cgroup, known.cgroup), (self._by_tag, known.run_tag)):
            if key is not None and table.get(key) is known:
                del table[key]
        for numbers, number in ((self._by_own_uid, known.uid), (self._by_pid, known.pid)):
            if numbers.get(number) is known:
                del numbers[number]

    @property
    def running(self) -> tuple[AgentStarted, ...]:
        return tuple(self._running.values())

    def agent(self, name: str) -> AgentStarted | None:
        """Return the generation of an agent that runs now."""
        return self._running.get(name)

    @property
    def has_externals(self) -> bool:
        return bool(self._externals)

    def claimed(self, agent: str, generation: int) -> Caller | None:
        """Return whom a genuine token names: the generation that runs now, or an external agent; None for a past one."""
        if generation == EXTERNAL_GENERATION and agent in self._externals:
            return Caller(CallerKind.AGENT, agent, self._externals[agent], generation, Proof.TOKEN, None)
        known = self._running.get(agent)
        return self._caller(known, Proof.TOKEN, None) if known is not None and known.generation == generation else None

    @property
    def almighty(self) -> AgentStarted | None:
        """Return an agent that could pass for any other, because it runs as root or as the daemon's own user."""
        mighty = {0, self._policy.daemon_uid}
        return next((agent for agent in self._running.values() if agent.uid in mighty), None)

    # --- who is it ------------------------------------------------------------------------------------------------------

    def on_unix(self, facts: PeerFacts) -> Caller | Stranger:
        """Decide who connected on the Unix socket; the numbers are those of the module's docstring."""
        agent = self._by_kernel(facts)
        if agent is not None:  # 1, 2
            return self._caller(agent, Proof.TAGGED if self.almighty is not None else Proof.PROVED, facts.uid)
        if self._is_in_fleet_cgroup(facts):  # 3
            return Stranger("this process belongs to an agent that is not running", may_be_starting=True)
        agent = self._by_tags(facts)
        if agent is not None:  # 4
            return self._caller(agent, Proof.TAGGED, facts.uid)
        if self._has_tag(facts):  # 5
            return Stranger("this process was started by an agent that is not running", may_be_starting=True)
        if facts.uid in self._policy.fleet_uids and not self._is_owner(facts.uid):
            return Stranger("this process has an agent's user but is no running agent's", may_be_starting=True)
        if not facts.pidfd_matches and facts.pid != 0:
            return Stranger("the process that connected has ended")
        return self._outside(facts.uid, {facts.gid, *facts.groups})  # 6, 7, 8

    def on_tcp(
        self, facts: TcpFacts, *, cgroup: str | None, claimed: Caller | None, holder: PeerFacts | None
    ) -> Caller | Stranger:
        """Decide who asks on TCP.

        `cgroup` is the path that belongs to `facts.cgroup_id`, where known; `claimed` whom a valid token names; `holder` the
        process that holds the socket, where somebody looked (`wants_holder`).
        """
        by_kernel = self._by_cgroup.get(cgroup) if cgroup is not None else None
        if by_kernel is None and facts.uid is not None:
            by_kernel = self._by_own_uid.get(facts.uid)
        if by_kernel is not None:
            return self._caller(by_kernel, Proof.TAGGED if self.almighty is not None else Proof.PROVED, facts.uid)
        if claimed is not None:
            return self._shown(facts, claimed, holder)
        if holder is not None:
            found = self.on_unix(holder)
            if isinstance(found, Caller) or found.may_be_starting:
                return found
        elif self.wants_holder(facts):
            return Stranger("a process of the fleet's user must show its agent's token here")
        if facts.uid is not None and self._is_owner(facts.uid) and self._policy.guests != "none":
            return self._owner(facts.uid)
        if self._policy.anonymous == "guest":
            return self._guest(facts.uid)
        return Stranger("a token is needed here ([listen] anonymous = \"refuse\")")

    def _shown(self, facts: TcpFacts, claimed: Caller, holder: PeerFacts | None) -> Caller | Stranger:
        """Whoever shows a valid token is the agent it names, unless the process is another's."""
        if not self.wants_holder(facts, claimed):
            return replace(claimed, uid=facts.uid)
        if holder is None:
            return Stranger("the process that shows this token cannot be found")
        if self._by_kernel(holder) is not None or self._is_in_fleet_cgroup(holder):
            return self.on_unix(holder)
        return replace(claimed, uid=facts.uid)

    def wants_holder(self, facts: TcpFacts, claimed: Caller | None = None) -> bool:
        """Say whether what the socket and the token say does not decide, so that the process must be looked for.

        A user id alone cannot tell an agent from its owner, nor, with a token, an agent from a sibling that has read it.
        """
        is_of_fleets_user = facts.uid is not None and (
            facts.uid in self._policy.fleet_uids or any(agent.uid == facts.uid for agent in self._running.values())
        )
        if claimed is None or not is_of_fleets_user:
            return is_of_fleets_user
        named = self._running.get(claimed.name)  # None: an external agent, which has no process that we know
        return facts.inode is not None and (named is None or named.cgroup is not None)

    def is_of_fleet(self, facts: PeerFacts) -> bool:
        """Say whether a process is an agent, comes from one, or may: it gets nothing that is the owner's."""
        return (
            self._by_kernel(facts) is not None
            or self._is_in_fleet_cgroup(facts)
            or self._by_tags(facts) is not None
            or self._has_tag(facts)
            or (facts.uid in self._policy.fleet_uids and not self._is_owner(facts.uid))
        )

    def may_control(self, facts: PeerFacts) -> bool:
        """Say whether this process may use the owner's socket: the owner, the daemon's user or root, and nobody of the fleet."""
        if not facts.pidfd_matches and facts.pid != 0:
            return False
        return (self._is_owner(facts.uid) or facts.uid == self._policy.daemon_uid) and not self.is_of_fleet(facts)

    # --- the single questions -------------------------------------------------------------------------------------------

    def _by_kernel(self, facts: PeerFacts) -> AgentStarted | None:
        if facts.pidfd_matches:
            for path in _paths(facts):
                found = self._in_or_below(path)
                if found is not None:
                    return found
        return self._by_own_uid.get(facts.uid)

    def _in_or_below(self, path: str) -> AgentStarted | None:
        while path not in {"", "/"}:
            found = self._by_cgroup.get(path)
            if found is not None:
                return found
            path = path.rpartition("/")[0]
        return None

    def _is_in_fleet_cgroup(self, facts: PeerFacts) -> bool:
        fleet = self._policy.fleet_cgroup
        if fleet is None or not facts.pidfd_matches:
            return False
        return any(path == fleet or path.startswith(fleet + "/") for path in _paths(facts))

    def _by_tags(self, facts: PeerFacts) -> AgentStarted | None:
        if not facts.pidfd_matches:
            return None
        # A session's number is not given to another process while one process is left in that session.
        if facts.session is not None and facts.session in self._by_pid:
            return self._by_pid[facts.session]
        for pid, start_ticks in ((facts.pid, facts.start_ticks), *facts.ancestors):
            agent = self._by_pid.get(pid)
            if agent is not None and agent.start_ticks == start_ticks:
                return agent
        return self._by_tag.get(facts.run_tag) if facts.run_tag is not None else None

    def _has_tag(self, facts: PeerFacts) -> bool:
        return facts.pidfd_matches and facts.run_tag is not None and facts.run_tag != self._policy.inherited_tag

    def _is_owner(self, uid: int) -> bool:
        # Root could take whatever we refused it.
        return uid in {self._policy.owner_uid, 0}

    # --- the answers ----------------------------------------------------------------------------------------------------

    def _outside(self, uid: int, groups: set[int]) -> Caller | Stranger:
        if self._policy.guests == "none":
            return Stranger('only agents may call here ([guests] allow = "none")')
        if self._is_owner(uid):
            return self._owner(uid)
        if self._policy.guests == "group" and self._policy.owner_gid in groups:
            return self._guest(uid)
        return Stranger(f"user {uid} is no agent and not the owner ([guests] allow says who may call)")

    @staticmethod
    def _caller(agent: AgentStarted, proof: Proof, uid: int | None) -> Caller:
        return Caller(CallerKind.AGENT, agent.agent, agent.agent_class, agent.generation, proof, uid)

    def _owner(self, uid: int) -> Caller:
        is_shared = uid in self._policy.fleet_uids or any(agent.uid == uid for agent in self._running.values())
        return Caller(CallerKind.OWNER, "owner", "owner", 0, Proof.TAGGED if is_shared else Proof.PROVED, uid)

    @staticmethod
    def _guest(uid: int | None) -> Caller:
        return Caller(CallerKind.GUEST, "guest", "guest", 0, Proof.TAGGED, uid)


def _paths(facts: PeerFacts) -> list[str]:
    return [line.partition(":")[2] for line in facts.cgroups]
