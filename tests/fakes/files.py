"""Config files that are only in memory. `tests/contract/test_config_files.py` holds them to what the disk does."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from supervisord_ai.errors import HostFault


class MemoryFiles:
    """The door to config files, without a disk."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        self._files = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}

    def read(self, path: str) -> bytes:
        if path not in self._files:
            raise HostFault(f"{path} cannot be read: No such file or directory")
        return self._files[path]

    def matching(self, pattern: str) -> list[str]:
        same_depth = [path for path in self._files if path.count("/") == pattern.count("/")]
        return sorted(path for path in same_depth if fnmatchcase(path, pattern))
