"""Words as Go prints them, for errors that must read as Ollama's own do."""

from __future__ import annotations

_NAMED = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\", 34: '\\"'}


def quote(text: str) -> str:
    """Quote like `%q` (strconv.Quote)."""
    return f'"{"".join(map(_escape, text))}"'


def quote_char(char: str) -> str:
    """Quote like encoding/json's quoteChar, which names the byte that is wrong."""
    if char in "'\"":
        return {"'": "'\\''", '"': "'\"'"}[char]
    return f"'{_escape(char)}'"


def _escape(char: str) -> str:
    code = ord(char)
    if code in _NAMED:
        return _NAMED[code]
    if char.isprintable():
        return char
    if code < 32 or code == 127:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
