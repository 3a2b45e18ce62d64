"""Reads a config: parse, include, check each key, merge classes into agents, check the whole.

What may stand where: `include` only in the main file; a table such as [queue] once, in any file; [class.X] once for each X;
[[agents]], [[ollama]] and [[alerts]] in any file, in the order of the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from supervisord_ai.config.alerts import read_alerts, read_notify
from supervisord_ai.config.checks import check_backend, check_loops, check_paths, check_tables, check_tcp, check_twice, check_web
from supervisord_ai.config.lines import Path
from supervisord_ai.config.plan import mb, over_budget
from supervisord_ai.config.reading import Document, Entry, Reader, home_of, parse, unknown
from supervisord_ai.config.roster import defaults_of, nobody_is_urgent, read_agents, read_classes
from supervisord_ai.config.schema import (
    LIST_TABLES,
    SINGLE_TABLES,
    TOP_LEVEL,
    ModelsTable,
    ModelTable,
    OllamaTable,
    Table,
)
from supervisord_ai.config.units import shown
from supervisord_ai.config.values import Config, DaemonPolicy, GuestsAllow, ListenPolicy
from supervisord_ai.core import places
from supervisord_ai.core.memory_plan import CapLine, MemoryPolicy, PartsExceedTotal, judge_plan
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.policies import (
    BackendSpec,
    BreakerPolicy,
    CachePolicy,
    LevelsPolicy,
    LimitsPolicy,
    LogsPolicy,
    ModelPolicy,
    ModelsPolicy,
    QueuePolicy,
    RestartPolicy,
    RolloutPolicy,
    StartPolicy,
)
from supervisord_ai.errors import ConfigError, HostFault, Problem

P = TypeVar("P")

WEB_DEFAULT = "127.0.0.1:8787"


class Files(Protocol):
    """The door to the files of a config; the caller opens it."""

    def read(self, path: str) -> bytes:
        """Return the file's bytes.

        Raises:
            HostFault: it cannot be read; the text says why.
        """

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that match a glob pattern, sorted."""


def load(main: str, files: Files, around: Surroundings) -> Config:
    """Return what the config file `main` and its includes say.

    Raises:
        ConfigError: with every problem that could be found.
    """
    loading = _Loading(main, files, around)
    config = loading.run()
    if loading.reader.problems:
        raise ConfigError(_in_order(loading.reader.problems, [d.file for d in loading.documents]))
    return config


def _in_order(problems: list[Problem], files: list[str]) -> tuple[Problem, ...]:
    position = {file: i for i, file in enumerate(files)}
    return tuple(sorted(problems, key=lambda p: (position.get(p.file, len(files)), p.line or 0)))


class _Loading:
    """One reading of one config."""

    def __init__(self, main: str, files: Files, around: Surroundings) -> None:
        self.main = main
        self.files = files
        self.around = around
        self.reader = Reader()
        self.documents: list[Document] = []
        self.singles: dict[str, Entry] = {}
        self.classes: dict[str, Entry] = {}
        self.lists: dict[str, list[Entry]] = {name: [] for name in LIST_TABLES}

    def run(self) -> Config:
        self._open(self.main, None)
        for document in list(self.documents):
            self._include(document)
        for document in self.documents:
            self._sort(document)
        return self._config()

    # --- files ----------------------------------------------------------------------------------------------------------

    def _open(self, path: str, asked_by: tuple[Document, int] | None) -> None:
        try:
            parsed = parse(path, self.files.read(path))
        except HostFault as exc:
            if asked_by is None:
                self.reader.problems.append(Problem(path, None, "", str(exc)))
            else:
                self.reader.problem(asked_by[0], ("include", asked_by[1]), str(exc))
            return
        if isinstance(parsed, Problem):
            self.reader.problems.append(parsed)
        else:
            self.documents.append(parsed)

    def _include(self, document: Document) -> None:
        asked = document.raw.get("include", [])
        if not isinstance(asked, list) or not all(isinstance(pattern, str) for pattern in asked):
            self.reader.problem(document, ("include",), 'must be a list of file names or patterns, such as ["agents.d/*.toml"]')
            return
        folder = self.main[: self.main.rfind("/") + 1]
        opened = {self.main}
        for index, pattern in enumerate(asked):
            path = pattern if pattern.startswith("/") else folder + pattern
            found = self.files.matching(path)
            if not found and not set(pattern) & set("*?["):
                self.reader.problem(document, ("include", index), f"there is no {path}")
            for file in found:
                if file not in opened:
                    opened.add(file)
                    self._open(file, (document, index))

    # --- tables ---------------------------------------------------------------------------------------------------------

    def _sort(self, document: Document) -> None:
        """Put each table of a file where it belongs."""
        for key, raw in document.raw.items():
            path: Path = (key,)
            if key in SINGLE_TABLES or key == "models":
                self._once(self.singles, key, Entry(document, path, raw))
            elif key == "class":
                self._sort_classes(document, raw)
            elif key in LIST_TABLES:
                if not isinstance(raw, list):
                    self.reader.problem(document, path, f"is a list: write [[{key}]]")
                    continue
                self.lists[key] += [Entry(document, (key, index), one) for index, one in enumerate(raw)]
            elif key == "include":
                if document.file != self.main:
                    self.reader.problem(document, path, f"may stand only in {self.main}")
            else:
                self.reader.problem(document, path, unknown(key, TOP_LEVEL, home_of(key, Table)))

    def _sort_classes(self, document: Document, raw: object) -> None:
        if not isinstance(raw, dict):
            self.reader.problem(document, ("class",), "must be tables: write [class.opus]")
            return
        for name, one in raw.items():
            self._once(self.classes, name, Entry(document, ("class", name), one))

    def _once(self, known: dict[str, Entry], name: str, entry: Entry) -> None:
        first = known.setdefault(name, entry)
        if first is not entry:
            where = f"{first.document.file}:{first.document.line(first.path)}"
            self.reader.problem(entry.document, entry.path, f"stands in {where} already")

    def _policy(self, name: str, default: P) -> P:
        """Return a policy with what its table says."""
        values = self._values(name, defaults_of(default))
        return dataclasses.replace(default, **values)  # type: ignore[type-var]

    def _values(self, name: str, defaults: dict[str, object]) -> dict[str, Any]:
        entry = self.singles.get(name)
        if entry is None:
            return {}
        return self.reader.table(SINGLE_TABLES[name], entry, defaults, name)

    # --- the whole ------------------------------------------------------------------------------------------------------

    def _config(self) -> Config:
        levels = self._policy("levels", LevelsPolicy())
        memory = self._memory()
        listen = self._policy("listen", ListenPolicy())
        daemon = self._daemon()
        classes = read_classes(self.reader, list(self.classes.values()))
        read = read_agents(self.reader, self.lists["agents"], classes, daemon.path)
        backends = self._backends()
        names = [backend.name for backend in backends]
        config = Config(
            daemon=daemon,
            path=self.main,
            listen=listen,
            web_listen=self._web(listen),
            memory=memory,
            start=self._policy("start", StartPolicy()),
            restart=self._policy("restart", RestartPolicy()),
            queue=self._policy("queue", QueuePolicy()),
            limits=self._policy("limits", LimitsPolicy()),
            breaker=self._policy("breaker", BreakerPolicy()),
            cache=self._policy("cache", CachePolicy()),
            levels=levels,
            models=self._models(),
            logs=self._policy("logs", LogsPolicy()),
            rollout=self._policy("rollout", RolloutPolicy()),
            gpu_unload_at=self._values("gpu", {"unload_at": 0.90}).get("unload_at", 0.90),
            isolation_mode=self._values("isolation", {"mode": "none"}).get("mode", "none"),
            retention_events_s=self._values("retention", {"events_s": 30 * 86_400.0}).get("events_s", 30 * 86_400.0),
            guests_allow=self._values("guests", {"allow": GuestsAllow.OWNER}).get("allow", GuestsAllow.OWNER),
            backends=backends,
            alerts=read_alerts(self.reader, self.lists["alerts"], names),
            notify=read_notify(self.reader, self.singles.get("notify")),
            roster=read.roster,
        )
        for table, name, what in check_tables(config):
            self._problem_at(table, name, what)
        for index, what in check_tcp(listen):
            self._problem_at("listen", "tcp", what, index)
        for index, what in check_loops(listen, config.backends):
            if self.lists["ollama"]:
                entry = self.lists["ollama"][index]
                self.reader.problem(entry.document, (*entry.path, "url"), what)
            else:
                self._problem_at("listen", "tcp", what)
        self._judge_memory(memory, read.caps)
        if read.is_whole and (unserved := nobody_is_urgent(read.roster, levels)):
            self._problem_at("levels", "priority_only", unserved)
        return config

    def _memory(self) -> MemoryPolicy:
        """A reserve that nobody wrote is for 48 GB; a smaller machine gets the same part, or it were short from its start."""
        policy = self._policy("memory", MemoryPolicy())
        entry, usual = self.singles.get("memory"), MemoryPolicy()
        if entry is not None and isinstance(entry.raw, dict) and "reserve" in entry.raw:
            return policy
        reserve_bytes = min(usual.reserve_bytes, policy.total_bytes * usual.reserve_bytes // usual.total_bytes)
        return dataclasses.replace(policy, reserve_bytes=reserve_bytes)

    def _daemon(self) -> DaemonPolicy:
        normal = places.default_places(self.around)
        values = self._values("daemon", {})
        runtime = places.runtime_dir(self.around, values.get("runtime_dir"))
        state = places.state_dir(self.around, values.get("state_dir"))
        # Whoever moves the state (a second daemon, a test, `try`) does not expect logs among those of the first.
        log = values.get("log_dir") or (normal.log_dir if state == normal.state_dir else f"{state}/log")
        for name, what in check_paths(runtime, state, values.get("log_dir", "/")):
            self._problem_at("daemon", name, what)
        return DaemonPolicy(**{**values, "runtime_dir": runtime, "state_dir": state, "log_dir": log})

    def _web(self, listen: ListenPolicy) -> str:
        where: str = self._values("web", {"listen": WEB_DEFAULT}).get("listen", WEB_DEFAULT)
        if where and (what := check_web(where, listen)):
            self._problem_at("web", "listen", what)
        return where

    def _models(self) -> ModelsPolicy:
        entry = self.singles.get("models")
        if entry is None:
            return ModelsPolicy()
        if not isinstance(entry.raw, dict):
            self.reader.problem(entry.document, entry.path, "must be a table")
            return ModelsPolicy()
        own = {key: value for key, value in entry.raw.items() if not isinstance(value, dict)}
        values = self.reader.table(ModelsTable, Entry(entry.document, entry.path, own), defaults_of(ModelsPolicy()), "models")
        each = {
            model: self.reader.table(ModelTable, entry.under(model, raw), defaults_of(ModelPolicy()), "models.X")
            for model, raw in entry.raw.items()
            if isinstance(raw, dict)
        }
        return ModelsPolicy(**values, each=tuple((model, ModelPolicy(**own)) for model, own in each.items()))

    def _backends(self) -> tuple[BackendSpec, ...]:
        backends: list[BackendSpec] = []
        for entry in self.lists["ollama"]:
            values = self.reader.table(OllamaTable, entry, defaults_of(BackendSpec()), "ollama")
            backend = BackendSpec(**values)
            if any(backend.name == other.name for other in backends):
                self.reader.problem(entry.document, (*entry.path, "name"), f"{shown(backend.name)} is the name of another")
            for key, what in (*check_backend(backend), *check_twice(backend, backends)):
                self.reader.problem(entry.document, (*entry.path, key), what)
            backends.append(backend)
        return tuple(backends) or (BackendSpec(),)

    def _judge_memory(self, memory: MemoryPolicy, caps: Sequence[CapLine]) -> None:
        for wrong in judge_plan(memory, caps):
            if isinstance(wrong, PartsExceedTotal):
                given, total = mb(wrong.parts_bytes), mb(wrong.total_bytes)
                self._problem_at("memory", "total", f"the parts add up to {given} MB, more than the total of {total} MB")
            else:
                self._problem_at("memory", "agents", over_budget(memory, caps, wrong))

    def _problem_at(self, table: str, key: str, what: str, *index: int) -> None:
        """Report about a key that may not have been written: then where its table is, or just the main file."""
        entry = self.singles.get(table)
        if entry is not None:
            self.reader.problem(entry.document, (table, key, *index), what)
        elif self.documents:
            self.reader.problems.append(Problem(self.main, None, f"{table}.{key}", what))
