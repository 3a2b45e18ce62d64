"""The three dashboards for Grafana, made from the tables below: a panel is its title, its unit, its width and what it asks.

    python -m supervisord_ai.control.dashboards supervisord_ai/dashboards

The files are shipped beside `alerts.rules.yml`; a test holds them against this, and every name in them against what is scraped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "dashboards"
RULES = "alerts.rules.yml"
WHOLE_WIDTH = 24
HEIGHTS = {"stat": 4}
HEIGHT = 8

Json = dict[str, Any]
Asked = tuple[str, str]
"""An expression and the legend of its series."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `width` in columns of 24."""

    title: str
    asks: Sequence[Asked]
    unit: str = "short"
    width: int = 12
    kind: str = "timeseries"
    words: str = ""
    is_stacked: bool = False
    most: float | None = None


def stat(title: str, expr: str, unit: str = "short", words: str = "") -> Panel:
    return Panel(title, [(expr, "")], unit, width=4, kind="stat", words=words)


def quantiles(metric: str, by: str = "") -> list[Asked]:
    """Ask for p50, p95 and p99 of a histogram."""
    legend = f"{{{{{by}}}}} " if by else ""
    le = f"le, {by}" if by else "le"
    return [
        (
            f"histogram_quantile({share}, sum by ({le}) (rate({metric}_bucket[$__rate_interval])))",
            f"{legend}p{round(share * 100)}",
        )
        for share in (0.5, 0.95, 0.99)
    ]


OVERVIEW = (
    stat("Level", "max(ai_supervisor_level)", words="0 normal, 1 minor, 2 major, 3 critical"),
    stat("Agents online", 'sum(ai_supervisor_agents{state="running"})'),
    stat("Need a look", "sum(ai_supervisor_agents_attention)"),
    stat("Waiting", "sum(ai_supervisor_queue_requests)"),
    stat("Oldest waits", "max(ai_supervisor_queue_oldest_seconds)", "s"),
    stat("Slots busy", "sum(ai_supervisor_slots_busy) / sum(ai_supervisor_slots)", "percentunit"),
    Panel("Level", [("max(ai_supervisor_level)", "level")], most=3),
    Panel("Pressure", [("ai_supervisor_pressure_ratio", "{{component}}")], words="0 nobody waits, 1 a promise breaks"),
    Panel(
        "Requests by outcome",
        [("sum by (outcome) (rate(ai_supervisor_requests_total[$__rate_interval]))", "{{outcome}}")],
        "reqps",
        is_stacked=True,
    ),
    Panel("Queue by priority", [("ai_supervisor_queue_requests", "priority {{priority}}")], is_stacked=True),
    Panel("Memory of the machine", [("ai_supervisor_machine_memory_available_bytes", "available")], "bytes"),
    Panel(
        "Memory plan and use",
        [("ai_supervisor_memory_plan_bytes", "{{part}} planned"), ("ai_supervisor_memory_used_bytes", "{{part}} used")],
        "bytes",
    ),
    Panel(
        "Slot time by class",
        [("sum by (class) (rate(ai_supervisor_slot_seconds_total[$__rate_interval]))", "{{class}}")],
        words="slots in use on average; each class with work has a tenth at least",
        is_stacked=True,
    ),
    Panel(
        "Slot time saved",
        [("sum by (by) (rate(ai_supervisor_saved_slot_seconds_total[$__rate_interval]))", "{{by}}")],
        words="slots that would be needed more without the cache, and without sharing calls",
        is_stacked=True,
    ),
    Panel("Alerts", [("ai_supervisor_alert_firing", "{{alert}}")], most=1),
    Panel("The daemon itself", [("ai_supervisor_daemon_memory_bytes", "memory")], "bytes"),
)

OLLAMA = (
    stat("Answers", "min(ai_supervisor_backend_up)", words="1 when every Ollama answers"),
    stat("Slots busy", "sum(ai_supervisor_slots_busy)"),
    stat("Models loaded", "count(ai_supervisor_model_loaded)"),
    stat("Tokens", "sum(rate(ai_supervisor_tokens_total[$__rate_interval]))", "cps", "a second"),
    stat(
        "Answered from cache",
        'sum(rate(ai_supervisor_requests_total{outcome="cached"}[$__rate_interval]))'
        " / sum(rate(ai_supervisor_requests_total[$__rate_interval]))",
        "percentunit",
    ),
    stat("Shared calls", "sum(rate(ai_supervisor_requests_coalesced_total[$__rate_interval]))", "reqps"),
    Panel("Wait for a slot", quantiles("ai_supervisor_request_wait_seconds"), "s"),
    Panel("Generation", quantiles("ai_supervisor_request_generation_seconds"), "s"),
    Panel("First token", quantiles("ai_supervisor_request_first_token_seconds"), "s"),
    Panel("Wait for a load", quantiles("ai_supervisor_request_load_seconds"), "s"),
    Panel(
        "Loads of models",
        [
            (
                "sum by (model) (rate(ai_supervisor_model_load_seconds_sum[$__rate_interval]))"
                " / sum by (model) (rate(ai_supervisor_model_load_seconds_count[$__rate_interval]))",
                "{{model}}",
            )
        ],
        "s",
        words="the mean time of a load",
    ),
    Panel("Queue by priority", [("ai_supervisor_queue_requests", "priority {{priority}}")], is_stacked=True),
    Panel("Oldest by priority", [("ai_supervisor_queue_oldest_seconds", "priority {{priority}}")], "s"),
    Panel("Tokens by model", [("sum by (model) (rate(ai_supervisor_tokens_total[$__rate_interval]))", "{{model}}")], "cps"),
    Panel(
        "Cache hits by tier", [("sum by (tier) (rate(ai_supervisor_cache_hits_total[$__rate_interval]))", "{{tier}}")], "reqps"
    ),
    Panel("Cache size by tier", [("ai_supervisor_cache_bytes", "{{tier}}")], "bytes"),
    Panel("Breakers", [('ai_supervisor_breaker_state{state!="closed"}', "{{backend}} {{state}}")], most=1),
    Panel("Loaded models", [("ai_supervisor_model_loaded", "{{backend}} {{model}}")], is_stacked=True),
)

AGENTS = (
    stat("Running", 'sum(ai_supervisor_agents{state="running"})'),
    stat("Starting", 'sum(ai_supervisor_agents{state="starting"})'),
    stat("Wait to start again", 'sum(ai_supervisor_agents{state="backoff"})'),
    stat("Quarantined", 'sum(ai_supervisor_agents{state="quarantined"})'),
    stat("Failed requests", 'sum(rate(ai_supervisor_requests_total{outcome="failed"}[$__rate_interval]))', "reqps"),
    stat("Past the queue", "sum(ai_supervisor_bypasses)", words="agents that call an Ollama themselves"),
    Panel("Running by class", [('ai_supervisor_agents{state="running"}', "{{class}}")], is_stacked=True),
    Panel("Agents by state", [("sum by (state) (ai_supervisor_agents)", "{{state}}")], is_stacked=True),
    Panel(
        "Restarts by class",
        [("sum by (class) (increase(ai_supervisor_agent_restarts_total[$__rate_interval]))", "{{class}}")],
    ),
    Panel(
        "Ends by verdict",
        [("sum by (verdict) (increase(ai_supervisor_agent_ends_total[$__rate_interval]))", "{{verdict}}")],
    ),
    Panel("Wait by class, p95", [quantiles("ai_supervisor_request_wait_seconds", "class")[1]], "s"),
    Panel("Generation by class, p95", [quantiles("ai_supervisor_request_generation_seconds", "class")[1]], "s"),
    Panel(
        "Refused and failed by class",
        [
            (
                'sum by (class, outcome) (rate(ai_supervisor_requests_total{outcome=~"refused|failed"}[$__rate_interval]))',
                "{{class}} {{outcome}}",
            )
        ],
        "reqps",
    ),
    Panel("Breakers", [("ai_supervisor_breaker_state", "{{backend}} {{state}}")], most=1),
    Panel("Largest agents", [("topk(10, ai_supervisor_agent_memory_bytes)", "{{agent}}")], "bytes"),
    Panel("Memory by class", [("sum by (class) (ai_supervisor_agent_memory_bytes)", "{{class}}")], "bytes", is_stacked=True),
)

DASHBOARDS = {
    "overview": ("ai-supervisor: overview", OVERVIEW),
    "ollama": ("ai-supervisor: Ollama", OLLAMA),
    "agents": ("ai-supervisor: agents", AGENTS),
}


def dashboard(name: str) -> Json:
    """Return one dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"ai-supervisor-{name}",
        "title": title,
        "tags": ["ai-supervisor"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["ai-supervisor"], "title": "ai-supervisor", "asDropdown": False}],
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}]
        },
        "panels": _placed(panels),
    }


def _placed(panels: Sequence[Panel]) -> list[Json]:
    """Put panels side by side, from the top: a row is as high as its first one."""
    placed, x, y, height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WHOLE_WIDTH or (x and height != _height(panel)):
            x, y = 0, y + height
        height = _height(panel)
        placed.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    return placed


def _height(panel: Panel) -> int:
    return HEIGHTS.get(panel.kind, HEIGHT)


def _panel(panel: Panel, number: int, place: Json) -> Json:
    source = {"type": "prometheus", "uid": "${datasource}"}
    custom: Json = {}
    options: Json = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 12 if panel.is_stacked else 0,
            "stacking": {"mode": "normal" if panel.is_stacked else "none"},
            "showPoints": "never",
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    limits: Json = {"min": 0} if panel.most is None else {"min": 0, "max": panel.most}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        **({"description": panel.words} if panel.words else {}),
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, **limits, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expr, "legendFormat": legend or "__auto"}
            for place, (expr, legend) in enumerate(panel.asks)
        ],
    }


def files() -> dict[str, str]:
    """Return the shipped files by name."""
    made = {f"{name}.json": json.dumps(dashboard(name), indent=1, ensure_ascii=False) + "\n" for name in DASHBOARDS}
    return {**made, RULES: (FOLDER / RULES).read_text()}


if __name__ == "__main__":
    for file, text in files().items():
        (Path(sys.argv[1]) / file).write_text(text)
