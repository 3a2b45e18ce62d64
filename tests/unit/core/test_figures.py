"""What is said of a figure that there is none of."""

from __future__ import annotations

from supervisord_ai.core.figures import nearest


def test_a_near_name_is_offered_and_where_none_is_near_all_are() -> None:
    known = ("queue.queued", "queue.oldest_s")
    assert nearest("queue.qeued", known) == "; did you mean `queue.queued`?"
    assert nearest("zzz", known) == "; known are queue.queued, queue.oldest_s"
