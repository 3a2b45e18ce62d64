"""Who may share a call, and what leaving means. Who starts it and who pays for it: test_scheduler_shared.py."""

from __future__ import annotations

import pytest

from supervisord_ai.core.admission import CacheWish
from supervisord_ai.core.coalesce import Leaving, leaving, shares_as


@pytest.mark.parametrize(
    ("key", "wish", "shared"),
    [
        (b"k", CacheWish(), b"k"),
        (b"k", CacheWish(max_age_s=5.0), b"k"),
        (None, CacheWish(), None),
        (b"k", CacheWish(no_cache=True), None),
        (b"k", CacheWish(no_store=True), None),
    ],
)
def test_who_may_share(key: bytes | None, wish: CacheWish, shared: bytes | None) -> None:
    assert shares_as(key, wish) == shared


@pytest.mark.parametrize(
    ("is_running", "is_load", "others", "means"),
    [
        (False, False, 0, Leaving.OUT),
        (False, False, 3, Leaving.OUT),
        (False, True, 0, Leaving.OUT),
        (True, False, 0, Leaving.CLOSE),
        (True, False, 1, Leaving.OUT),
        (True, True, 0, Leaving.NOTHING),
        (True, True, 1, Leaving.OUT),
    ],
)
def test_what_leaving_means(is_running: bool, is_load: bool, others: int, means: Leaving) -> None:
    assert leaving(is_running=is_running, is_load=is_load, others=others) is means
