"""Decides where files are, from who runs and what the environment says. Touches no file.

As root the folders of a system service, as anybody else the XDG folders (XDG Base Directory Specification 0.8). The
command line reads this without the rest of the config, and without what makes dataclasses, so that `status` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

NAME = "ai-supervisor"
LLM_SOCKET = "llm.sock"
CONTROL_SOCKET = "control.sock"

# The unit below which agents live, so that the supervisor's end is not theirs: its name is in this variable of the
# supervisor's environment, and its one process waits in this leaf of its cgroup (see core/units.py).
HOLDER_VARIABLE = "AI_SUPERVISOR_HOLDER"
HOLDER_LEAF = "holder"
SOCKET_NAME = "ai-supervisor"  # of the descriptors that systemd passes


class Surroundings(NamedTuple):
    """Who runs us, and where: the facts that defaults of the config depend on."""

    uid: int
    home: str
    env: Mapping[str, str]


class Places(NamedTuple):
    """The paths that hold where neither config nor environment says otherwise."""

    config: str
    runtime_dir: str
    state_dir: str
    log_dir: str


class InstallPlaces(NamedTuple):
    """Where `install` puts things: the units, the releases (`releases/`, and `current`, a link to one of them), the command."""

    units: str
    prefix: str
    command: str


def install_places(around: Surroundings, *, is_user: bool) -> InstallPlaces:
    """Return the paths of a system's installation, or of a user's own."""
    if not is_user:
        return InstallPlaces("/etc/systemd/system", f"/opt/{NAME}", f"/usr/local/bin/{NAME}")
    return InstallPlaces(
        units=f"{_xdg(around, 'XDG_CONFIG_HOME', '.config')}/systemd/user",
        prefix=f"{_xdg(around, 'XDG_DATA_HOME', '.local/share')}/{NAME}",
        command=f"{around.home}/.local/bin/{NAME}",
    )


def _xdg(around: Surroundings, variable: str, below_home: str) -> str:
    value = around.env.get(variable, "")
    return value if value.startswith("/") else f"{around.home}/{below_home}"  # the specification: a relative path is ignored


def default_places(around: Surroundings) -> Places:
    """Return the paths for whoever runs us. `AI_SUPERVISOR_*` are not read here: they override the config as well."""
    if around.uid == 0:
        return Places(
            config=f"/etc/{NAME}/config.toml",
            runtime_dir=f"/run/{NAME}",
            state_dir=f"/var/lib/{NAME}",
            log_dir=f"/var/log/{NAME}",
        )

    state = f"{_xdg(around, 'XDG_STATE_HOME', '.local/state')}/{NAME}"
    run = around.env.get("XDG_RUNTIME_DIR", "")
    return Places(
        config=f"{_xdg(around, 'XDG_CONFIG_HOME', '.config')}/{NAME}/config.toml",
        # Without a session's own folder, one in /tmp: host makes it 0700 and refuses it when it is somebody else's.
        runtime_dir=f"{run}/{NAME}" if run.startswith("/") else f"/tmp/{NAME}-{around.uid}",  # noqa: S108
        state_dir=state,
        log_dir=f"{state}/log",
    )


def config_path(around: Surroundings, asked: str | None) -> str:
    """Return the config file to read: `--config`, else AI_SUPERVISOR_CONFIG, else the default place."""
    return asked or around.env.get("AI_SUPERVISOR_CONFIG") or default_places(around).config


def runtime_dir(around: Surroundings, configured: str | None) -> str:
    """Return the folder of the sockets: AI_SUPERVISOR_RUNTIME_DIR, else `daemon.runtime_dir`, else the default place."""
    return around.env.get("AI_SUPERVISOR_RUNTIME_DIR") or configured or default_places(around).runtime_dir


def state_dir(around: Surroundings, configured: str | None) -> str:
    """Return the folder of journal and cache: AI_SUPERVISOR_STATE_DIR, else `daemon.state_dir`, else the default place."""
    return around.env.get("AI_SUPERVISOR_STATE_DIR") or configured or default_places(around).state_dir
