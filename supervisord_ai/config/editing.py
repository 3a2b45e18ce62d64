"""Changes single keys of a config file and leaves every other byte of it as its owner wrote it, comments included.

The change is made on the text, then the text is parsed again: unless it says exactly what was meant and nothing else, the file
is left alone and its owner is asked to change it himself. So the editing may be simple; it cannot be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tomli

from supervisord_ai.config.lines import key_lines
from supervisord_ai.config.values import ListenPolicy
from supervisord_ai.config.writing import text as quoted
from supervisord_ai.errors import UsageError

_URL = re.compile(r"""^([^#\n]*?\burl["']?[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""")
_COUNT = re.compile(r"""^([^#\n]*?\bcount["']?[ \t]*=[ \t]*)[0-9_]+""")
_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_TCP = re.compile(rf"""(\btcp["']?[ \t]*=[ \t]*\[)((?:[\s,]|\#[^\n]*|{_STRING})*)\]""")


def with_backend_url(text: str, index: int, url: str) -> str:
    """Return the config with `url` as the address of its backend `index`; one without [[ollama]] gets a table.

    Raises:
        UsageError: it is written in a way that cannot be changed here; says what to write by hand.
    """
    meant = _parsed(text)
    backends = meant.setdefault("ollama", [])
    by_hand = f"in [[ollama]], set url = {quoted(url)}"
    if not isinstance(backends, list):
        raise UsageError(by_hand)
    if not backends:
        backends.append({})
    if not 0 <= index < len(backends) or not isinstance(backends[index], dict):
        raise UsageError(by_hand)
    backends[index]["url"] = url
    where = key_lines(text)
    lines = text.splitlines(keepends=True)
    if ("ollama", index, "url") in where:
        at = where["ollama", index, "url"] - 1
        lines[at] = _URL.sub(lambda found: found[1] + quoted(url), lines[at], count=1)
        changed = "".join(lines)
    elif ("ollama", index) in where:
        changed = _after(lines, where["ollama", index], f"url = {quoted(url)}\n")
    else:
        changed = f"{_ended(text)}\n[[ollama]]\nurl = {quoted(url)}\n"
    return _checked(changed, meant, by_hand)


def with_owner(text: str, owner: str) -> str:
    """Return the config with `owner` as [daemon] owner; one that names an owner is left as it is. Raises: as with_backend_url."""
    meant = _parsed(text)
    daemon = meant.setdefault("daemon", {})
    by_hand = f"in [daemon], set owner = {quoted(owner)}"
    if not isinstance(daemon, dict):
        raise UsageError(by_hand)
    if daemon.get("owner"):
        return text
    daemon["owner"] = owner
    where, line = key_lines(text), f"owner = {quoted(owner)}\n"
    lines = text.splitlines(keepends=True)
    if ("daemon", "owner") in where:
        lines[where["daemon", "owner"] - 1] = line
        changed = "".join(lines)
    else:
        changed = _after(lines, where["daemon",], line) if ("daemon",) in where else f"{_ended(text)}\n[daemon]\n{line}"
    return _checked(changed, meant, by_hand)


def with_folders(text: str, folders: Mapping[str, str]) -> str:
    """Return the config with these values in [daemon], such as `state_dir`. Raises: as with_backend_url."""
    meant = _parsed(text)
    daemon = meant.setdefault("daemon", {})
    by_hand = "in [daemon], set " + ", ".join(f"{key} = {quoted(path)}" for key, path in folders.items())
    if not isinstance(daemon, dict):
        raise UsageError(by_hand)
    for key, path in folders.items():
        daemon[key] = path
        where, line = key_lines(text), f"{key} = {quoted(path)}\n"
        lines = text.splitlines(keepends=True)
        if ("daemon", key) in where:
            lines[where["daemon", key] - 1] = line
            text = "".join(lines)
        else:
            text = _after(lines, where["daemon",], line) if ("daemon",) in where else f"{_ended(text)}\n[daemon]\n{line}"
    return _checked(text, meant, by_hand)


def with_memory(text: str, parts: Mapping[str, str]) -> str:
    """Return the config with these sizes in its [memory], each where it stands already. Raises: as with_backend_url."""
    meant = _parsed(text)
    where = key_lines(text)
    lines = text.splitlines(keepends=True)
    by_hand = "in [memory], set " + ", ".join(f"{key} = {quoted(size)}" for key, size in parts.items())
    for key, size in parts.items():
        if ("memory", key) not in where:
            raise UsageError(by_hand)
        meant["memory"][key] = size
        at = where["memory", key] - 1
        lines[at] = re.sub(_STRING, quoted(size).replace("\\", r"\\"), lines[at], count=1)
    return _checked("".join(lines), meant, by_hand)


def with_agent_count(text: str, index: int, count: int) -> str:
    """Return the config with `count` as the number of agents of its entry `index`. Raises: as with_backend_url."""
    meant = _parsed(text)
    by_hand = f"in [[agents]] number {index + 1}, set count = {count}"
    try:
        meant["agents"][index]["count"] = count
    except (KeyError, IndexError, TypeError) as exc:
        raise UsageError(by_hand) from exc
    where = key_lines(text)
    lines = text.splitlines(keepends=True)
    if ("agents", index, "count") in where:
        at = where["agents", index, "count"] - 1
        lines[at] = _COUNT.sub(lambda found: f"{found[1]}{count}", lines[at], count=1)
        changed = "".join(lines)
    else:
        changed = _after(lines, where["agents", index], f"count = {count}\n")
    return _checked(changed, meant, by_hand)


def with_tcp(text: str, address: str) -> str:
    """Return the config with one more address in [listen] tcp. Raises: as with_backend_url."""
    meant = _parsed(text)
    listen = meant.setdefault("listen", {})
    by_hand = f"in [listen], add {quoted(address)} to tcp"
    if not isinstance(listen, dict):
        raise UsageError(by_hand)
    usual = list(ListenPolicy().tcp)
    known = listen.get("tcp", usual)
    if address in known:
        return text
    where = key_lines(text)
    lines = text.splitlines(keepends=True)
    if ("listen", "tcp") in where:
        listen["tcp"] = [address, *known]
        changed = _at_tcp(lines, where["listen", "tcp"], lambda inner: f"{quoted(address)}{', ' if known else ''}{inner}")
    else:
        listen["tcp"] = [*usual, address]
        line = f"tcp = [{', '.join(map(quoted, listen['tcp']))}]\n"
        changed = _after(lines, where["listen",], line) if ("listen",) in where else f"{_ended(text)}\n[listen]\n{line}"
    return _checked(changed, meant, by_hand)


def without_tcp(text: str, address: str) -> str:
    """Return the config without an address in [listen] tcp; unchanged where it is not there. Raises: as with_backend_url."""
    meant = _parsed(text)
    known = meant.get("listen", {}).get("tcp", [])
    if address not in known:
        return text
    meant["listen"]["tcp"] = [one for one in known if one != address]
    element = re.compile(rf"""(["']){re.escape(address)}\1[ \t]*,?[ \t]*""")
    where = key_lines(text)["listen", "tcp"]
    changed = _at_tcp(text.splitlines(keepends=True), where, lambda inner: element.sub("", inner))
    return _checked(changed, meant, f"in [listen], take {quoted(address)} out of tcp")


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        raise UsageError(f"the config cannot be read: {exc}") from exc


def _at_tcp(lines: list[str], line: int, change: Any) -> str:
    before, rest = "".join(lines[: line - 1]), "".join(lines[line - 1 :])
    return before + _TCP.sub(lambda found: f"{found[1]}{change(found[2])}]", rest, count=1)


def _after(lines: list[str], line: int, new: str) -> str:
    return _ended("".join(lines[:line])) + new + "".join(lines[line:])


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _checked(changed: str, meant: dict[str, Any], by_hand: str) -> str:
    """Return the changed text if it says exactly what was meant."""
    try:
        says = tomli.loads(changed)
    except tomli.TOMLDecodeError:
        says = None
    if says != meant:
        raise UsageError(f"the config is written in a way that is left to its owner: {by_hand}")
    return changed
