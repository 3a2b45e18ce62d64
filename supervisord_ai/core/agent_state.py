"""Decides which moves an agent may make between planned, running and ended. Knows nothing of processes."""

from __future__ import annotations

from enum import StrEnum


class AgentState(StrEnum):
    """Where an agent is in its life; the words that `status` shows."""

    PENDING = "pending"  # planned; its batch has not come
    STARTING = "starting"  # being spawned, or spawned and not ready
    RUNNING = "running"  # ready
    STOPPING = "stopping"  # told to end; its processes are not all gone
    BACKOFF = "backoff"  # ended; starts again at a known time
    STOPPED = "stopped"  # ended, or never started, at our word
    FINISHED = "finished"  # ended, and its policy does not start it again
    QUARANTINED = "quarantined"  # ended too often, or cannot be ended
