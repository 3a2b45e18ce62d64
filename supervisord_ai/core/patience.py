"""Decides how long an upstream call is waited for and whether it may be made again. Knows nothing of connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The numbers of one upstream call.

    `leaver_grace_s`: a call that nobody reads any more is closed just after its next chunk, because a close at another moment
    loses one of Ollama's slots now and then; without a chunk for this long (prompt phase, hang) it is closed all the same.
    `silence_s`: how long a call that brings its answer in one piece may be silent; Ollama gives a load five minutes.
    `first_byte_s`, `stall_s`: the same for a stream, before its first chunk and between two. A prompt may take minutes on a
    CPU; but who waits behind it has a deadline too, and a stream that says nothing holds a slot for nobody.
    `tries`: calls of one request that may reach Ollama and bring back nothing. A request that takes Ollama down with it must
    not be handed to the next one for ever.
    `probe_s`, `probe_max_s`: how often a lost backend is asked whether it is back.
    `glance_s`: how often the connections that are kept to an idle backend are looked at; the end of one asks it at once.
    `small_call_s`: the limit of one metadata call.
    """

    leaver_grace_s: float = 2.0
    silence_s: float = 600.0
    first_byte_s: float = 180.0
    stall_s: float = 120.0
    tries: int = 2
    probe_s: float = 0.5
    probe_max_s: float = 5.0
    small_call_s: float = 10.0
    glance_s: float = 1.0
    refresh_s: float = 15.0  # what is known of a quiet backend; with `small_call_s`, a hung one is noticed within 25 s
    fresh_s: float = 1.0  # how old a model's digest may be when an answer is taken from the cache by it


def may_ask_again(tries: int, patience: Patience) -> bool:
    """Say whether a request may be handed to Ollama once more after `tries` calls that brought nothing back."""
    return tries < patience.tries


def next_probe_s(waited_s: float, patience: Patience) -> float:
    """Return the next pause between two probes: twice the last, within bounds."""
    return min(max(2 * waited_s, patience.probe_s), patience.probe_max_s)
