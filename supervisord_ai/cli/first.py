"""The first config of a machine: the shipped one, which explains itself, made for what this machine has.

Its agents are an example that names a program nobody has, so they are commented out: what is written starts as it is, and
`agents add` adds to it. Its memory plan is for 48 GB; on less it is scaled, so that `run` does not refuse it.
"""

from __future__ import annotations

import re

from supervisord_ai.cli.files import shipped_config
from supervisord_ai.config.editing import with_backend_url, with_memory
from supervisord_ai.core.memory_plan import MemoryPolicy, fitted
from supervisord_ai.core.roster import MB

AGENTS_USER = "ai-agents"
_USER_LINE = re.compile(rf'^# (user = "{AGENTS_USER}".*)$', re.MULTILINE)
_EXAMPLE = re.compile(r"^\[\[agents\]\](?:\n[^\n]+)+", re.MULTILINE)


def first_config(machine_bytes: int, *, has_agents_user: bool = False, url: str | None = None) -> str:
    """Return its text. `has_agents_user`: agents run as the user that `install` makes; `url`: the Ollama to ask."""
    text = _EXAMPLE.sub(lambda found: re.sub(r"^", "# ", found[0], flags=re.MULTILINE), shipped_config().decode())
    plan = fitted(machine_bytes)
    if plan != MemoryPolicy():
        text = with_memory(text, {key: f"{size / 1000 / MB:g}GB" for key, size in sizes(plan).items()})
    if has_agents_user:
        text = _USER_LINE.sub(r"\1", text)
    return text if url is None else with_backend_url(text, 0, url)


def sizes(plan: MemoryPolicy) -> dict[str, int]:
    """Return the keys of [memory] that are sizes."""
    return {
        "total": plan.total_bytes,
        "os": plan.os_bytes,
        "ollama": plan.ollama_bytes,
        "cache": plan.cache_bytes,
        "monitoring": plan.monitoring_bytes,
        "agents": plan.agents_bytes,
        "reserve": plan.reserve_bytes,
    }
