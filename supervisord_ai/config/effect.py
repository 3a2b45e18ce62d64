"""Which keys have no effect yet. Each is refused when set away from its default, so that no one believes in it.

An entry is a key (`queue.batch_max`), or one value of a key (`ollama.url=auto`). `class.X` stands for every class, and for the
same key of an agent. Who gives a key its effect takes it off this list in the same commit.
"""

from __future__ import annotations

NOT_IN_EFFECT: tuple[str, ...] = ()


def lacks_effect(key: str, value: object, default: object) -> bool:
    """Tell whether a value asks for something that does not happen yet."""
    if value == default:
        return False
    if key in NOT_IN_EFFECT:
        return True
    asked = value if isinstance(value, tuple) else (value,)
    usual = default if isinstance(default, tuple) else (default,)
    return any(f"{key}={one}" in NOT_IN_EFFECT for one in asked if one not in usual)
