"""What a changed config means for the daemon that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.queue_mode import MODES, QueueMode, QueueVerb, admits, starts
from supervisord_ai.core.reload import (
    How,
    NeedsRestart,
    ReloadPlan,
    Settings,
    differing,
    needs_restart,
    plan_reload,
)
from supervisord_ai.core.roster import (
    CLASS_DEFAULTS,
    LIVE_OF_AGENT,
    MB,
    AgentSpec,
    ClassPolicy,
    OverRate,
    Ready,
    Restart,
    Roster,
)

OPUS, SONNET = CLASS_DEFAULTS["opus"], CLASS_DEFAULTS["sonnet"]

# Another value for each field there is: a field that is added has to be added here, and decided about.
OTHER_POLICY: dict[str, Any] = {
    "name": "haiku",
    "memory_bytes": 17 * MB,
    "rate_per_min": 99.0,
    "over_rate": OverRate.REJECT,
    "priority": 9,
    "ceiling": 9,
    "weight": 7.0,
    "critical": not OPUS.critical,
    "substitute": not OPUS.substitute,
    "max_queued": 3,
    "inject": ("openai",),
    "user": "nobody",
    "restart": Restart.NO,
    "ready": Ready.REQUEST,
    "start_s": 11.0,
    "grace_s": 12.0,
    "max_age_s": 3600.0,
}
OTHER_SPEC: dict[str, Any] = {
    "command": ("other",),
    "cwd": "/other",
    "env": (("A", "b"),),
    "env_file": "/env",
    "every_s": 60.0,
    "external": True,
}
LIVE_WORDS = (
    "rate_per_min", "over_rate", "priority", "ceiling", "weight", "max_queued", "critical", "substitute",
    "memory_bytes", "restart", "ready", "start_s", "grace_s", "every_s", "max_age_s",
)  # fmt: skip


def spec(name: str, policy: ClassPolicy = OPUS, **fields: Any) -> AgentSpec:
    return AgentSpec(name, policy, ("run",), **fields)


def settings(*specs: AgentSpec, keys: Mapping[str, str] | None = None, **classes: ClassPolicy) -> Settings:
    return Settings(Roster({one.name: one for one in specs}, CLASS_DEFAULTS | classes), keys or {})


def plan_of(old: AgentSpec, new: AgentSpec) -> ReloadPlan:
    return plan_reload(settings(old), settings(new))


def test_the_same_config_changes_nothing() -> None:
    same = settings(spec("a"), spec("b", SONNET), keys={"queue.deadline": '"240s"'})
    plan = plan_reload(same, same)
    assert not plan.changes_something
    assert plan.refused == ()
    assert plan.settings == same


def test_agents_come_go_and_stay() -> None:
    plan = plan_reload(settings(spec("a"), spec("b")), settings(spec("b"), spec("c")))
    assert (plan.added, plan.changed, plan.removed, plan.refused) == (("c",), (), ("a",), ())
    assert set(plan.settings.roster.agents) == {"b", "c"}


def test_the_tables_know_every_field() -> None:
    assert set(OTHER_POLICY) == {f.name for f in dataclasses.fields(ClassPolicy)}
    assert set(OTHER_SPEC) | {"name", "policy"} == {f.name for f in dataclasses.fields(AgentSpec)}
    assert set(LIVE_WORDS) == LIVE_OF_AGENT


@pytest.mark.parametrize("field", [*OTHER_POLICY, *OTHER_SPEC])
def test_every_field_of_a_spec_is_seen(field: str) -> None:
    old = spec("a")
    if field in OTHER_POLICY:
        new = replace(old, policy=replace(OPUS, **{field: OTHER_POLICY[field]}))
    else:
        new = replace(old, **{field: OTHER_SPEC[field]})
    assert old.digest != new.digest
    assert differing(old, new) == ("class" if field == "name" else field,)
    plan = plan_of(old, new)
    if field in {"user", "external"}:
        assert [one.key for one in plan.refused] == [f"agents.a.{field}"]
        assert plan.settings.roster.agents["a"] == old
        return
    (change,) = plan.changed
    assert change.how is (How.LIVE if field in LIVE_WORDS else How.RESTART)
    assert plan.settings.roster.agents["a"] == new


def test_an_external_agent_comes_changes_and_goes_without_anybody_starting_anew() -> None:
    old = spec("far", external=True)
    assert plan_of(spec("a"), old).refused == ()
    assert plan_reload(settings(), settings(old)).added == ("far",)
    assert plan_reload(settings(old), settings()).removed == ("far",)
    new = replace(old, policy=replace(OPUS, name="other", inject=("openai",), user="somebody"))
    plan = plan_of(old, new)
    assert [one.how for one in plan.changed] == [How.LIVE]
    assert (plan.refused, plan.settings.roster.externals) == ((), {"far": "other"})


@given(st.dictionaries(st.sampled_from(sorted(OTHER_POLICY)), st.booleans()))
def test_an_agent_is_started_again_only_for_what_its_generation_is_made_of(changes: dict[str, bool]) -> None:
    old = spec("a")
    new = replace(old, policy=replace(OPUS, **{name: OTHER_POLICY[name] for name, is_changed in changes.items() if is_changed}))
    fields = set(differing(old, new))
    assert bool(fields) == (old.digest != new.digest)
    assert needs_restart(old, new) == bool(fields - set(LIVE_WORDS))


def test_keys_that_are_read_once_are_refused_by_name_and_stay_as_they_were() -> None:
    old = {"queue.deadline": '"240s"', "memory.agents": '"1GB"', "ollama.main.slots": "2", "models.x.slots": "1"}
    new = {"queue.deadline": '"10s"', "memory.agents": '"2GB"', "ollama.main.slots": "2", "ollama.cpu.slots": "1"}
    plan = plan_reload(settings(spec("a"), keys=old), settings(spec("a"), spec("b"), keys=new))
    assert plan.added == ("b",)  # what can be done is done
    assert plan.keys == ("memory.agents",)
    assert plan.refused == (
        NeedsRestart("models.x.slots", "1 -> nothing"),
        NeedsRestart("ollama.cpu.slots", "nothing -> 1"),
        NeedsRestart("queue.deadline", '"240s" -> "10s"'),
    )
    assert plan.settings.keys == old | {"memory.agents": '"2GB"'}
    # Asked again, it is refused again: the daemon does not take for done what is not.
    again = plan_reload(plan.settings, settings(spec("a"), spec("b"), keys=new))
    assert (again.changes_something, again.refused) == (False, plan.refused)


def test_classes_of_callers_that_are_no_agents_change_live() -> None:
    guest = replace(CLASS_DEFAULTS["guest"], rate_per_min=1.0, weight=0.1)
    plan = plan_reload(settings(spec("a")), settings(spec("a"), guest=guest, haiku=replace(OPUS, name="haiku")))
    assert {one.name: one.fields for one in plan.classes} == {"guest": ("rate_per_min", "weight"), "haiku": ("added",)}
    assert plan.settings.roster.classes["guest"] == guest


def test_an_agent_of_a_user_that_would_blur_who_is_who_is_refused() -> None:
    shared, lone, new = (replace(OPUS, user=user) for user in ("many", "one", "new"))
    old = settings(spec("a", shared), spec("b", shared), spec("c", lone))
    wanted = settings(*old.roster.agents.values(), spec("d", shared), spec("e", lone), spec("f", new), spec("g"))
    plan = plan_reload(old, wanted)
    assert plan.added == ("d", "g")
    assert plan.refused == (
        NeedsRestart("agents.e.user", "user 'one' is one agent's own so far"),
        NeedsRestart("agents.f.user", "user 'new' is not known yet"),
    )


def test_an_agent_whose_user_changes_is_told_from_whom_to_whom() -> None:
    ours, theirs = spec("a"), spec("a", replace(OPUS, user="ann"))
    for old, new, told in ((ours, theirs, "our own -> ann"), (theirs, ours, "ann -> our own")):
        (refused,) = plan_of(old, new).refused
        assert refused.what == f"{told}: by their users agents are known"


def test_a_class_that_a_kept_agent_needs_is_kept() -> None:
    haiku = replace(OPUS, name="haiku")
    old = Settings(Roster({"a": spec("a", haiku)}, CLASS_DEFAULTS | {"haiku": haiku}))
    plan = plan_reload(old, settings(spec("a", replace(OPUS, user="nobody"))))
    assert plan.refused
    assert plan.settings.roster.classes["haiku"] == haiku


def test_each_word_about_the_queue_says_everything() -> None:
    assert MODES.keys() == set(QueueVerb)
    assert {mode: (admits(mode), starts(mode)) for mode in QueueMode} == {
        QueueMode.OPEN: (True, True),
        QueueMode.PAUSED: (True, False),
        QueueMode.DRAINING: (False, True),
    }


def test_a_key_that_left_the_config_is_gone_from_what_holds() -> None:
    old = settings(spec("a"), keys={"queue.deadline": '"100s"', "alerts.slow": "x"})
    plan = plan_reload(old, settings(spec("a")))
    assert plan.keys == ("alerts.slow",)
    assert plan.refused == (NeedsRestart("queue.deadline", '"100s" -> nothing'),)
    assert plan.settings.keys == {"queue.deadline": '"100s"'}


def test_whom_to_tell_is_followed_key_by_key() -> None:
    old = settings(spec("a"), keys={"notify.command": "x", "alerts.slow.above": "1"})
    plan = plan_reload(old, settings(spec("a"), keys={"notify.command": "y", "alerts.slow.above": "2", "alerts.new.for": "z"}))
    assert (plan.keys, plan.refused) == (("alerts.new.for", "alerts.slow.above", "notify.command"), ())
    assert plan.settings.keys == {"notify.command": "y", "alerts.slow.above": "2", "alerts.new.for": "z"}


def test_a_class_that_nobody_is_of_goes_and_is_told() -> None:
    plan = plan_reload(settings(spec("a"), haiku=replace(OPUS, name="haiku")), settings(spec("a")))
    assert [(one.name, one.fields) for one in plan.classes] == [("haiku", ("removed",))]
    assert "haiku" not in plan.settings.roster.classes


def test_a_digest_is_the_same_in_every_version() -> None:
    """An upgrade would otherwise find every agent outdated."""
    policy = ClassPolicy(name="opus", memory_bytes=300_000_000, priority=4)
    one = AgentSpec(name="one", policy=policy, command=("python3", "one.py"), cwd="/opt", env=(("A", "1"),))
    assert (one.digest, one.run_digest) == ("ea81dfd536b1509a", "6e71f0ca67e5299d")
