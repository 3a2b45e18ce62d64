"""Views of a small fleet and its gateway, as the rooms would show them, for tests of what the owner sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from supervisord_ai.agents.view import AgentView, FleetView
from supervisord_ai.control.report import Moment, Usage, status
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.gateway.accept import AcceptView
from supervisord_ai.gateway.view import (
    BackendView,
    CacheReport,
    CacheView,
    GatewayView,
    PriorityView,
    QueuedView,
    RepeatedView,
    RunningView,
    ShareView,
    SpoolView,
    TierView,
    Totals,
)

MB = 1_000_000


def agent_view(name: str = "opus-01", **changes: object) -> AgentView:
    plain = AgentView(
        name=name,
        agent_class=name.partition("-")[0],
        state=AgentState.RUNNING,
        generation=1,
        pid=4711,
        since_s=1234.5678,
        restarts=0,
        verdict=None,
        detail="",
        memory_bytes=12 * MB,
        peak_bytes=20 * MB,
        cap_bytes=300 * MB,
        guarantee="hard",
        log_path=f"/var/log/ai-supervisor/agents/{name}.log",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def fleet_view(*agents: AgentView) -> FleetView:
    return FleetView(agents or (agent_view(),), "hard", "cgroup v2 at /sys/fs/cgroup/ai")


def backend_view(**changes: object) -> BackendView:
    running = RunningView("r1", "opus-01", "llama3.2:3b", "/api/chat", 12.3456, 3, 1)
    plain = BackendView("main", "http://127.0.0.1:11434", "ready", "", 2, 1, (running,), None, ("llama3.2:3b",))
    return replace(plain, **changes)  # type: ignore[arg-type]


def gateway_view(*backends: BackendView) -> GatewayView:
    return GatewayView(
        backends=backends or (backend_view(),),
        queued=7,
        running=1,
        by_priority=(PriorityView(3, 5, 1.2345), PriorityView(5, 2, 40.0, 12.5)),
        queue=(QueuedView("q1", "sonnet-02", "llama3.2:3b", "/api/generate", 40.0, 5, "all slots are busy"),),
        cache=CacheView(12, 21, 9, TierView(4, MB, 10, 256 * MB), TierView(9, 3 * MB, 2, 1000 * MB)),
        spool=SpoolView(0, 0, 0),
        totals=Totals(asked=33, answered=20, cached=12, refused=1, waited_s=1.23456, generated_s=2.0, tokens=400),
    )


def cache_report(*, with_prompts: bool = False) -> CacheReport:
    line = ShareView("opus", 8, 12, 0, 61.5)
    return CacheReport(
        cache=gateway_view().cache,
        by_class=(line, ShareView("sonnet", 4, 9, 1, 30.0)),
        by_model=(ShareView("llama3.2:3b", 12, 21, 1, 91.5),),
        repeated=(RepeatedView("0123456789ab", "llama3.2:3b", "/api/chat", 7, 60.0, "what is 2+2?" if with_prompts else None),),
        not_shared={"no fixed seed, and the temperature is above 0": 3},
        scope="shared",
        ttl_s=3600.0,
        ttl_factor=2.0,
        allow_stale=True,
        advice="The cache answers 36% of what it may, and saved 92 s of the model's time: leave it as it is.",
    )


def identity_view() -> AcceptView:
    return AcceptView("proved", "by cgroup", running=1, proved=3, tagged=0, by_token=1, refused=0)


def told(**changes: Any) -> Any:
    """Return what `GET /v1/status` says of all this, as a program reads it; `changes` are parts of the moment."""
    parts: dict[str, Any] = {
        "version": "0.1.0",
        "pid": 4711,
        "started_wall": 0.0,
        "now_wall": 7384.0,
        "fleet": fleet_view(),
        "gateway": gateway_view(),
        "identity": identity_view(),
        "memory": MemoryPolicy(),
        "usage": Usage(45_000_000, 12.34),
        **changes,
    }
    return msgspec.to_builtins(status(Moment(**parts)))
