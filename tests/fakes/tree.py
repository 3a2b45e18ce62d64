"""The files of a system that is only told of: texts by path, with owners and modes where they matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.doctor import Deed, FoundFile
from supervisord_ai.errors import HostFault


@dataclass
class MemoryTree:
    """`texts` are files; a path that ends with `/` is a folder; folders above a file are there too. Modes are 0644 and 0755."""

    texts: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    links: frozenset[str] = frozenset()
    free: Mapping[str, int] = field(default_factory=lambda: {"/": 100_000_000_000})
    uid: int = 0
    mended: list[Deed] = field(default_factory=list)

    def read(self, path: str) -> str | None:
        return None if path.endswith("/") else self.texts.get(path)

    def names(self, path: str) -> tuple[str, ...]:
        folder = path.rstrip("/") + "/"
        below = (one[len(folder) :].strip("/").split("/")[0] for one in self.texts if one.startswith(folder))
        return tuple(sorted({name for name in below if name}))

    def found(self, path: str) -> FoundFile | None:
        is_file = path in self.texts
        if not is_file and f"{path}/" not in self.texts and not self.names(path):
            return None
        mode = self.modes.get(path, 0o644 if is_file else 0o755)
        size = len(self.texts[path].encode()) if is_file else 4096
        return FoundFile(self.owners.get(path, self.uid), mode, path in self.links, size, self.times.get(path, 0.0))

    def free_bytes(self, path: str) -> int | None:
        return self.free[max((point for point in self.free if path.startswith(point)), key=len)]

    def mend(self, deed: Deed) -> None:
        if deed.is_missing == (self.found(deed.path) is not None):
            raise HostFault(f"{deed.path}: {'File exists' if deed.is_missing else 'No such file or directory'}")
        if deed.is_missing:
            self.texts[f"{deed.path}/"] = ""
        self.modes[deed.path] = deed.mode
        self.mended.append(deed)

    # As the files of a config.

    def matching(self, pattern: str) -> list[str]:
        folder, _, ending = pattern.partition("*")
        return sorted(one for one in self.texts if one.startswith(folder) and one.endswith(ending))
