"""The L2 cache: answers of deterministic calls in a file of their own."""

from __future__ import annotations

from supervisord_ai.store.rows import Answer, CacheMeta


class CacheFile:
    """Answers by key, within a byte cap. Losing it loses time, nothing else."""

    def get(self, key: bytes, now_wall: float) -> Answer | None:
        """Return the stored answer unless it has expired. Never writes."""
        raise NotImplementedError

    def put(self, key: bytes, answer: Answer, meta: CacheMeta) -> None:
        """Store with the next commit."""
        raise NotImplementedError
