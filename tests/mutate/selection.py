"""Which unit tests are asked about which module of core: those of its name, and those named here beside them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "supervisord_ai" / "core"

# Decisions that are told of in the tests of their users, or in tests of several at once.
BESIDE = {
    "admission": ("core/test_rate_changed",),
    "cache_policy": ("gateway/test_cache_keys", "gateway/test_cache_promise", "core/test_degraded"),
    "estimate": ("core/test_small_words",),
    "figures": ("test_figures", "core/test_conditions", "core/test_alerts"),
    "machine": ("core/test_breaker", "core/test_agent_state", "core/test_request_state"),
    "model_name": ("wire/test_as_go_reads", "core/test_model_facts"),
    "placement": ("core/test_scheduler", "core/test_scheduler_backends", "core/test_scheduler_machine"),
    "queue_mode": ("core/test_reload",),
    "rate_limit": ("core/test_admission", "core/test_rate_changed"),
    "roster": ("test_config", "core/test_reload"),
    "samples": ("core/test_pressure", "health/test_ring"),
    "scheduler": ("core/test_waiting", "core/test_wait_cause", "core/test_estimate", "core/test_small_words"),
    "shedding": ("core/test_small_words",),
    "slots": ("core/test_scheduler", "core/test_scheduler_backends", "core/test_scheduler_machine"),
    "verdict": ("core/test_small_words",),
}


def modules() -> list[str]:
    """Return the names of all modules of core that decide anything: `breaker`, `doctor/wsl`."""
    found = (path.relative_to(CORE).with_suffix("").as_posix() for path in sorted(CORE.rglob("*.py")))
    return [name for name in found if not name.endswith("__init__")]


def asked_about(module: str) -> list[str]:
    """Return the paths, seen from the checkout, of the tests that are asked about a module."""
    first = module.partition("/")[0]
    named = sorted((ROOT / "tests" / "unit" / "core").glob(f"test_{first}*.py"))
    return [path.relative_to(ROOT).as_posix() for path in named] + [f"tests/unit/{name}.py" for name in BESIDE.get(module, ())]
