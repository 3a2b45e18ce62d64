"""Reads configs from the disk, for every command that needs one whole."""

from __future__ import annotations

import glob
import os
from argparse import Namespace
from pathlib import Path

from supervisord_ai.cli.door import surroundings
from supervisord_ai.config import Config, load
from supervisord_ai.core import places
from supervisord_ai.errors import HostFault, UsageError


class DiskFiles:
    """The files of a config on the disk."""

    def read(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            raise HostFault(f"{path} cannot be read: {exc.strerror}") from exc

    def matching(self, pattern: str) -> list[str]:
        return sorted(path for path in glob.glob(pattern) if os.path.isfile(path))


class Instead:
    """The files of a config with one of them as it would be."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._disk = DiskFiles()

    def read(self, path: str) -> bytes:
        return self._text.encode() if path == self._path else self._disk.read(path)

    def matching(self, pattern: str) -> list[str]:
        return self._disk.matching(pattern)


def load_config(args: Namespace) -> Config:
    """Return the config that the command names, or the usual one.

    Raises:
        ConfigError: everything that is wrong with it.
        UsageError: there is none.
    """
    around = surroundings()
    asked = getattr(args, "file", None) or args.config
    path = places.config_path(around, asked)
    if not os.path.exists(path):
        hint = "" if asked else ": write a first one with `ai-supervisor config init`, or begin with `ai-supervisor try -- CMD`"
        raise UsageError(f"there is no {path}{hint}")
    return load(path, DiskFiles(), around)


def shipped_config() -> bytes:
    """Return the config that explains itself: from the installed package, or from a checkout."""
    here = Path(__file__).parent.parent
    for path in (here / "config" / "shipped.toml", here.parent / "config.toml"):
        if path.is_file():
            return path.read_bytes()
    raise HostFault(f"this installation lacks {here}/config/shipped.toml")


def shipped_unit(name: str) -> str:
    """Return the template of a systemd unit: from the installed package, or from a checkout."""
    here = Path(__file__).parent.parent
    for path in (here / "units" / name, here.parent / "systemd" / name):
        if path.is_file():
            return path.read_text()
    raise HostFault(f"this installation lacks {here}/units/{name}")
