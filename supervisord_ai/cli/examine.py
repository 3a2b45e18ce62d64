"""Collects what `doctor` judges: of the files, the machine, Windows and every Ollama, through their doors. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisord_ai.cli.probing import Asker, Probing, examine_engines
from supervisord_ai.config import Config, Files, load
from supervisord_ai.core import locate, places
from supervisord_ai.core.doctor import (
    EngineFacts,
    FilesFacts,
    Finding,
    MachineFacts,
    OurFile,
    Volume,
    WslFacts,
    check_engines,
    check_files,
    check_machine,
    check_wsl,
)
from supervisord_ai.core.doctor.wsl import windows_users
from supervisord_ai.core.memory_plan import parts_bytes
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.policies import BackendSpec, CachePolicy
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.errors import ConfigError
from supervisord_ai.health.back_doors import Connections
from supervisord_ai.host.state_folder import REFUSED_FILE_SYSTEMS, file_system_of
from supervisord_ai.host.tree import Tree

STARTUP = "AppData/Roaming/Microsoft/Windows/Start Menu/Programs/Startup"
GUARANTEE = "guarantee"


@dataclass(frozen=True, slots=True)
class Doors:
    """The outside things that are asked. `status` returns what a running daemon says of itself, None where none runs."""

    tree: Tree
    files: Files
    asker: Asker
    connections: Connections
    status: Callable[[Config | None], dict[str, Any] | None]
    gpu_calls: Callable[[], tuple[tuple[str, bool], ...] | None]
    now_wall: float


@dataclass(frozen=True, slots=True)
class Examined:
    """Everything that was found, by what it is about, in the order in which people read it."""

    sections: tuple[tuple[str, tuple[Finding, ...]], ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(one for _, findings in self.sections for one in findings)


def examine(asked: str | None, around: Surroundings, doors: Doors) -> Examined:
    """Look at everything once. `asked` is the config that was named, or None."""
    path = places.config_path(around, asked)
    config, problems = _config(path, around, doors)
    status = doors.status(config)
    daemon_pid = None if status is None else int(status["pid"])
    kernel = _kernel_facts(config, around, doors.tree)
    engines, skew_s = examine_engines(
        (BackendSpec(url="auto"),) if config is None else config.backends,
        Probing(doors.asker, doors.connections, doors.tree, kernel, frozenset({daemon_pid} if daemon_pid else ())),
        light_model=_light_model(config),
        now_wall=doors.now_wall,
    )
    sections = (
        ("Windows", check_wsl(_wsl_facts(config, around, doors.tree, kernel, engines))),
        ("machine", check_machine(_machine_facts(config, around, doors, status, skew_s))),
        ("Ollama", check_engines(engines)),
        ("files", check_files(_files_facts(path, config, problems, around, doors.tree))),
    )
    return Examined(tuple((name, findings) for name, findings in sections if findings))


def _config(path: str, around: Surroundings, doors: Doors) -> tuple[Config | None, tuple[str, ...] | None]:
    """Return the config, and what is wrong with it; (None, None) where there is none."""
    if doors.tree.found(path) is None:
        return None, None
    try:
        return load(path, doors.files, around), ()
    except ConfigError as exc:
        return None, tuple(str(problem) for problem in exc.problems)


def _light_model(config: Config | None) -> str:
    """Return the model that level 2 would ask for, "" where no class allows it."""
    if config is None or not any(spec.policy.substitute for spec in config.roster.agents.values()):
        return ""
    return config.levels.light_model


def _kernel_facts(config: Config | None, around: Surroundings, tree: Tree) -> locate.Facts:
    listening = () if config is None else config.listen.tcp
    return locate.Facts(
        osrelease=(tree.read("/proc/sys/kernel/osrelease") or "").strip(),
        route=tree.read("/proc/net/route") or "",
        interfaces=tree.read("/proc/net/dev") or "",
        ollama_host=around.env.get("OLLAMA_HOST", ""),
        ours=tuple((host.strip("[]"), int(port)) for host, _, port in (one.rpartition(":") for one in listening)),
    )


# --- Windows ------------------------------------------------------------------------------------------------------------


def _wsl_facts(
    config: Config | None, around: Surroundings, tree: Tree, kernel: locate.Facts, engines: Sequence[EngineFacts]
) -> WslFacts:
    memory = meminfo(tree)
    drive = locate.windows_drive(kernel.osrelease, tree.read("/proc/mounts") or "")
    facts = WslFacts(
        osrelease=kernel.osrelease,
        distribution=around.env.get("WSL_DISTRO_NAME", ""),
        init=(tree.read("/proc/1/comm") or "").strip(),
        wsl_conf=tree.read("/etc/wsl.conf"),
        interfaces=kernel.interfaces,
        has_psi=tree.read("/proc/pressure/memory") is not None,
        has_memory_cgroup="memory" in (tree.read("/sys/fs/cgroup/cgroup.controllers") or "").split(),
        mem_total_bytes=memory.get("MemTotal", 0),
        swap_total_bytes=memory.get("SwapTotal", 0),
        parts_bytes=None if config is None else parts_bytes(config.memory),
        windows_free_bytes=None if drive is None else tree.free_bytes(drive),
        reaches_windows=any(one.is_on_windows for one in engines),
        asks_windows=config is None or any(one.url in {"auto", "windows"} for one in config.backends),
    )
    return facts if drive is None else _seen_on_windows(facts, drive, around, tree)


def _seen_on_windows(facts: WslFacts, drive: str, around: Surroundings, tree: Tree) -> WslFacts:
    """Add what stands in the Windows user's folder, if it is clear which one that is."""
    users = f"{drive}/Users"
    likely = windows_users(tree.names(users), around.env.get("PATH", ""), users)
    user = next((one for one in likely if tree.found(f"{users}/{one}/.wslconfig")), likely[0] if len(likely) == 1 else None)
    if user is None:
        return facts
    startup = f"{users}/{user}/{STARTUP}"
    seen = None
    if tree.found(startup) is not None:
        # A link (.lnk) holds its target in UTF-16.
        seen = {name: (tree.read(f"{startup}/{name}") or "").replace("\0", "") for name in tree.names(startup)}
    return replace(
        facts,
        wslconfig=tree.read(f"{users}/{user}/.wslconfig") or "",
        wslconfig_path=rf"C:\Users\{user}\.wslconfig",
        startup=seen,
        startup_path=rf"C:\Users\{user}\{STARTUP}".replace("/", "\\"),
    )


# --- the machine --------------------------------------------------------------------------------------------------------


def _machine_facts(
    config: Config | None, around: Surroundings, doors: Doors, status: dict[str, Any] | None, skew_s: float | None
) -> MachineFacts:
    tree = doors.tree
    memory = meminfo(tree)
    state = places.state_dir(around, None) if config is None else config.daemon.state_dir
    left = tree.found(f"{state}/lock")
    devices = tree.names("/dev")
    return MachineFacts(
        osrelease=(tree.read("/proc/sys/kernel/osrelease") or "").strip(),
        is_root=around.uid == 0,
        cores=len(re.findall(r"^cpu\d+ ", tree.read("/proc/stat") or "", re.MULTILINE)) or 1,
        mem_total_bytes=memory.get("MemTotal", 0),
        swap_total_bytes=memory.get("SwapTotal", 0),
        parts_bytes=None if config is None else parts_bytes(config.memory),
        guarantee=None if status is None else str(status[GUARANTEE]["level"]),
        has_psi=tree.read("/proc/pressure/memory") is not None,
        has_systemd=tree.found("/run/systemd/system") is not None,
        agents=0 if config is None else sum(not spec.external for spec in config.roster.agents.values()),
        open_files=open_files(tree.read(f"/proc/{'self' if status is None else status['pid']}/limits") or ""),
        now_wall=doors.now_wall,
        # The lock file of the state folder has the time of its holder's last sign of life.
        written_wall=None if left is None else left.modified_wall,
        is_synchronised=_is_synchronised(tree),
        skew_s=skew_s,
        volumes=_volumes(config, state, tree),
        gpu_calls=doors.gpu_calls(),
        may_have_gpu=any(name == "dxg" or name.startswith("nvidia") for name in devices),
    )


def meminfo(tree: Tree) -> dict[str, int]:
    """Return the lines of /proc/meminfo, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", tree.read("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(count) * 1024 for name, count in found}


def open_files(limits: str) -> int | None:
    """Return the hard limit of open files from /proc/PID/limits, None where there is none."""
    found = re.search(r"^Max open files\s+\S+\s+(\d+)", limits, re.MULTILINE)
    return None if found is None else int(found[1])


def _is_synchronised(tree: Tree) -> bool | None:
    """timesyncd leaves a file when it has set the clock; others leave nothing that can be read without asking them."""
    if tree.found("/run/systemd/timesync") is None:
        return None
    return tree.found("/run/systemd/timesync/synchronized") is not None


def _volumes(config: Config | None, state: str, tree: Tree) -> tuple[Volume, ...]:
    free_bytes = tree.free_bytes(state)
    if free_bytes is None:
        return ()
    cache = CachePolicy() if config is None else config.cache
    used = sum(_bytes_of(tree, f"{state}/cache/{name}") for name in tree.names(f"{state}/cache"))
    may_grow = max(0, cache.l2_bytes - _bytes_of(tree, f"{state}/cache.db")) + max(0, cache.l3_bytes - used)
    return (Volume(state, free_bytes, may_grow),)


def _bytes_of(tree: Tree, path: str) -> int:
    found = tree.found(path)
    return 0 if found is None else found.bytes


# --- files --------------------------------------------------------------------------------------------------------------


def _files_facts(
    path: str, config: Config | None, problems: tuple[str, ...] | None, around: Surroundings, tree: Tree
) -> FilesFacts:
    state = places.state_dir(around, None) if config is None else config.daemon.state_dir
    kind = file_system_of(state, tree.read("/proc/self/mountinfo") or "")
    return FilesFacts(
        uid=around.uid,
        files=tuple(_our_files(path, config, state, around, tree)),
        state_dir=state,
        state_file_system=kind,
        is_strange=kind in REFUSED_FILE_SYSTEMS,
        config=None if problems is None else path,
        config_place=path,
        problems=problems or (),
    )


def _our_files(path: str, config: Config | None, state: str, around: Surroundings, tree: Tree) -> Iterator[OurFile]:
    def file(where: str, what: str, mode: int, *, is_secret: bool = False, is_wanted: bool = False) -> OurFile:
        return OurFile(where, what, mode, tree.found(where), is_secret, is_wanted)

    runtime = places.runtime_dir(around, None) if config is None else config.daemon.runtime_dir
    logs = places.default_places(around).log_dir if config is None else config.daemon.log_dir
    # The folders of the daemon let its agents through, and nobody write.
    yield file(path, "config file", 0o644)
    yield file(f"{path.rpartition('/')[0]}/agents.d", "folder of more agents", 0o755, is_wanted=tree.found(path) is not None)
    yield file(runtime, "folder of the sockets", 0o755)
    yield file(state, "state folder", 0o700, is_secret=True)
    yield file(f"{state}/secret", "secret", 0o600, is_secret=True)
    yield file(f"{state}/journal.db", "journal", 0o600, is_secret=True)
    yield file(f"{state}/cache.db", "cache file", 0o600, is_secret=True)
    yield file(logs, "log folder", 0o755)
    for env_file, spec in _env_files(config).items():
        found = file(env_file, f"env_file of {spec.name}", 0o600, is_secret=True)
        if found.found is not None:
            yield found


def _env_files(config: Config | None) -> dict[str, AgentSpec]:
    if config is None:
        return {}
    return {spec.env_file: spec for spec in config.roster.agents.values() if spec.env_file is not None}
