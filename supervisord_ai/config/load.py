"""Reads a config: parse, include, check each key, merge classes into agents, check the whole."""

from __future__ import annotations

from typing import Protocol

from supervisord_ai.config.values import Config
from supervisord_ai.core.places import Surroundings


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
    raise NotImplementedError
