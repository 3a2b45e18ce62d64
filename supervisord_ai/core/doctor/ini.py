"""Reads /etc/wsl.conf and .wslconfig as WSL does: the case of keys does not count, `#` begins a comment, the last one wins.

Source: src/shared/configfile of microsoft/WSL. Not configparser: it refuses what WSL reads, such as a key that stands twice.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*(\d+)\s*([kmgt]?)b?\s*", re.IGNORECASE)
_TRUE = frozenset({"true", "1"})


class Ini:
    """One file; None is a file that is not there."""

    def __init__(self, text: str | None) -> None:
        self._values: dict[str, str] = {}
        section = ""
        for raw in (text or "").splitlines():
            line = raw.partition("#")[0].strip()
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1].strip().lower()
            elif "=" in line:
                key, _, value = line.partition("=")
                self._values[f"{section}.{key.strip().lower()}"] = value.strip().strip('"')

    def text(self, *names: str) -> str | None:
        """Return the value of the first of these keys that is there (`section.key`)."""
        return next((found for name in names if (found := self._values.get(name.lower())) is not None), None)

    def number(self, name: str) -> int | None:
        """Return a whole number, None where there is none."""
        found = self.text(name) or ""
        return int(found) if re.fullmatch(r"-?\d+", found) else None

    def is_true(self, name: str) -> bool | None:
        found = self.text(name)
        return None if found is None else found.lower() in _TRUE

    def bytes(self, name: str) -> int | None:
        """Return a size such as 48GB (WSL counts binary), None where there is none."""
        found = _SIZE.fullmatch(self.text(name) or "")
        return None if found is None else int(found[1]) << (10 * " kmgt".index(found[2].lower() or " "))
