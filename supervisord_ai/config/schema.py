"""Every table and key of a config file: name, type, bounds. What a key means and its default stand in the policies of `core/`.

An attribute is called as in the policy it fills, unit included; its `name=` is what people write. UNSET means: not written.

The annotations are evaluated here, once: as text, msgspec compiles each of them again whenever it is asked for a table's keys.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from supervisord_ai.config.units import Command, Duration, MemoryCap, Rate, Size, SomeSize, SomeTime
from supervisord_ai.config.values import Anonymous, Durability, GuestsAllow
from supervisord_ai.core.memory_plan import Enforce
from supervisord_ai.core.roster import OverRate, Ready, Restart

Unset = UnsetType
Share = Annotated[float, Meta(ge=0, le=1)]
Priority = Annotated[int, Meta(ge=1, le=10)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Factor = Annotated[float, Meta(ge=0, le=10_000)]
Words = list[str]


class Table(Struct, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. Never instantiated: `reading.py` goes through its fields, so that one problem hides no other."""


class DaemonTable(Table):
    runtime_dir: str | Unset = UNSET
    state_dir: str | Unset = UNSET
    log_dir: str | Unset = UNSET
    owner: str | Unset = UNSET
    path: str | Unset = UNSET
    log_level: Literal["debug", "info", "warning", "error"] | Unset = UNSET
    durability: Durability | Unset = UNSET


class ListenTable(Table):
    tcp: Words | Unset = UNSET
    anonymous: Anonymous | Unset = UNSET


class WebTable(Table):
    listen: str | Unset = UNSET


class MemoryTable(Table):
    total_bytes: SomeSize | Unset = field(name="total", default=UNSET)
    os_bytes: Size | Unset = field(name="os", default=UNSET)
    ollama_bytes: Size | Unset = field(name="ollama", default=UNSET)
    cache_bytes: Size | Unset = field(name="cache", default=UNSET)
    monitoring_bytes: Size | Unset = field(name="monitoring", default=UNSET)
    agents_bytes: Size | Unset = field(name="agents", default=UNSET)
    overcommit: Annotated[float, Meta(ge=1, le=100)] | Unset = UNSET
    reserve_bytes: Size | Unset = field(name="reserve", default=UNSET)
    enforce: Enforce | Unset = UNSET


class StartTable(Table):
    batch_size: Count | Unset = UNSET
    batch_delay_s: Duration | Unset = field(name="batch_delay", default=UNSET)


class ClassTable(Table):
    memory_bytes: MemoryCap | Unset = field(name="memory", default=UNSET)
    rate_per_min: Rate | Unset = field(name="rate", default=UNSET)
    over_rate: OverRate | Unset = UNSET
    priority: Priority | Unset = UNSET
    ceiling: Priority | Unset = UNSET
    weight: Annotated[float, Meta(ge=0.01, le=1000)] | Unset = UNSET
    critical: bool | Unset = UNSET
    substitute: bool | Unset = UNSET
    max_queued: Count | Unset = UNSET
    inject: list[Literal["ollama", "openai", "anthropic"]] | Unset = UNSET
    user: str | Unset = UNSET
    restart: Restart | Unset = UNSET
    ready: Ready | Unset = UNSET
    start_s: Duration | Unset = field(name="start", default=UNSET)
    grace_s: Duration | Unset = field(name="grace", default=UNSET)
    max_age_s: Duration | Unset = field(name="max_age", default=UNSET)


class AgentTable(ClassTable):
    name: str | Unset = UNSET
    agent_class: str | Unset = field(name="class", default=UNSET)
    count: Annotated[int, Meta(ge=0, le=10_000)] | Unset = UNSET
    command: Command | Unset = UNSET
    cwd: str | Unset = UNSET
    env: dict[str, str] | Unset = UNSET
    env_file: str | Unset = UNSET
    every_s: SomeTime | Unset = field(name="every", default=UNSET)
    external: bool | Unset = UNSET


class GuestsTable(Table):
    allow: GuestsAllow | Unset = UNSET


class RestartTable(Table):
    base_s: SomeTime | Unset = field(name="base", default=UNSET)
    max_s: SomeTime | Unset = field(name="max", default=UNSET)
    intensity: Count | Unset = UNSET
    window_s: SomeTime | Unset = field(name="window", default=UNSET)


class OllamaTable(Table):
    name: str | Unset = UNSET
    url: str | Unset = UNSET
    slots: Annotated[int, Meta(ge=1, le=1024)] | Unset = UNSET
    connections: Annotated[int, Meta(ge=1, le=4096)] | Unset = UNSET
    device: Literal["gpu", "cpu"] | Unset = UNSET
    command: Words | Unset = UNSET
    restart_command: Words | Unset = UNSET


class ModelTable(Table):
    num_ctx: Annotated[int, Meta(ge=128, le=16_777_216)] | Unset = UNSET
    slots: Annotated[int, Meta(ge=1, le=1024)] | Unset = UNSET


class ModelsTable(Table):
    num_ctx: Annotated[int, Meta(ge=128, le=16_777_216)] | Unset = UNSET
    keep_alive_s: Duration | Unset = field(name="keep_alive", default=UNSET)


class QueueTable(Table):
    deadline_s: SomeTime | Unset = field(name="deadline", default=UNSET)
    async_deadline_s: SomeTime | Unset = field(name="async_deadline", default=UNSET)
    async_max: Annotated[int, Meta(ge=0, le=10_000_000)] | Unset = UNSET
    memory_max: Count | Unset = UNSET
    batch_max: Count | Unset = UNSET
    batch_window_s: Duration | Unset = field(name="batch_window", default=UNSET)
    result_keep_s: Duration | Unset = field(name="result_keep", default=UNSET)
    orphan_grace_s: Duration | Unset = field(name="orphan_grace", default=UNSET)


class LimitsTable(Table):
    body_bytes: SomeSize | Unset = field(name="body", default=UNSET)
    ingest_bytes: SomeSize | Unset = field(name="ingest", default=UNSET)
    headers_bytes: SomeSize | Unset = field(name="headers", default=UNSET)
    spool_bytes: SomeSize | Unset = field(name="spool", default=UNSET)
    spool_disk_bytes: Size | Unset = field(name="spool_disk", default=UNSET)
    idle_s: SomeTime | Unset = field(name="idle", default=UNSET)


class BreakerTable(Table):
    failures: Count | Unset = UNSET
    window_s: SomeTime | Unset = field(name="window", default=UNSET)
    cool_down_s: SomeTime | Unset = field(name="cool_down", default=UNSET)


class L1Table(Table):
    l1_per_agent_bytes: Size | Unset = field(name="per_agent", default=UNSET)
    l1_total_bytes: Size | Unset = field(name="total", default=UNSET)


class L2Table(Table):
    l2_bytes: Size | Unset = field(name="size", default=UNSET)


class L3Table(Table):
    l3_bytes: Size | Unset = field(name="size", default=UNSET)
    l3_min_entry_bytes: Size | Unset = field(name="min_entry", default=UNSET)


class CacheTable(Table):
    ttl_s: Duration | Unset = field(name="ttl", default=UNSET)
    scope: Literal["shared", "class", "agent"] | Unset = UNSET
    l1: L1Table | Unset = UNSET
    l2: L2Table | Unset = UNSET
    l3: L3Table | Unset = UNSET


class LevelsTable(Table):
    enter: tuple[Share, Share, Share] | Unset = UNSET
    leave_below: Share | Unset = UNSET
    dwell_s: Duration | Unset = field(name="dwell", default=UNSET)
    num_predict: Annotated[int, Meta(ge=0, le=1_000_000)] | Unset = UNSET
    ttl_factor: tuple[Factor, Factor, Factor, Factor] | Unset = UNSET
    light_model: str | Unset = UNSET
    priority_only: Priority | Unset = UNSET
    stale: bool | Unset = UNSET
    pause_starts: bool | Unset = UNSET
    shadow: bool | Unset = UNSET


class GpuTable(Table):
    unload_at: Share | Unset = UNSET


class IsolationTable(Table):
    mode: Literal["none", "nft"] | Unset = UNSET


class RolloutTable(Table):
    group_size: Count | Unset = UNSET
    min_ready_s: Duration | Unset = field(name="min_ready", default=UNSET)
    max_failures: Annotated[int, Meta(ge=0, le=1_000_000)] | Unset = UNSET


class LogsTable(Table):
    max_size_bytes: SomeSize | Unset = field(name="max_size", default=UNSET)
    keep: Annotated[int, Meta(ge=0, le=1000)] | Unset = UNSET


class RetentionTable(Table):
    events_s: Duration | Unset = field(name="events", default=UNSET)


class NotifyTable(Table):
    command: Words | Unset = UNSET
    url: str | Unset = UNSET


class AlertTable(Table):
    name: str | Unset = UNSET
    when: str | Unset = UNSET
    for_s: Duration | Unset = field(name="for", default=UNSET)
    notify: NotifyTable | Unset = UNSET


# The tables that may stand once, in one file. [class.X], [models] and the [[lists]] have their own rules (load.py).
SINGLE_TABLES: dict[str, type[Table]] = {
    "daemon": DaemonTable,
    "listen": ListenTable,
    "web": WebTable,
    "memory": MemoryTable,
    "start": StartTable,
    "guests": GuestsTable,
    "restart": RestartTable,
    "queue": QueueTable,
    "limits": LimitsTable,
    "breaker": BreakerTable,
    "cache": CacheTable,
    "levels": LevelsTable,
    "gpu": GpuTable,
    "isolation": IsolationTable,
    "rollout": RolloutTable,
    "logs": LogsTable,
    "retention": RetentionTable,
    "notify": NotifyTable,
}
LIST_TABLES: dict[str, type[Table]] = {"agents": AgentTable, "ollama": OllamaTable, "alerts": AlertTable}
TOP_LEVEL = ("include", *SINGLE_TABLES, "class", "models", *LIST_TABLES)
