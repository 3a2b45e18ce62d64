"""`--watch` on a terminal: each page over the one before it, cut to what fits, and nothing of it left at the end."""

from __future__ import annotations

from supervisord_ai.cli.screen import Screen
from supervisord_ai.cli.watch import in_place


def test_a_page_goes_over_the_last_one_without_erasing_the_screen_first() -> None:
    assert in_place("a\nb\n", 24) == "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J"


def test_what_is_taller_than_the_terminal_is_cut_and_that_is_said() -> None:
    shown = in_place("".join(f"{number}\n" for number in range(30)), 10)
    assert shown.count("\n") == 9  # ten lines: one more would scroll
    assert "8\x1b[K\n... and 21 more lines: make the window taller\x1b[K" in shown


def test_colours_are_the_terminals_own_and_end_with_their_words() -> None:
    page = Screen(80)
    page.line(("level 3", "bold red"), " ", ("x\x1b[2J", ""), ("", "red"))
    assert page.coloured() == "\x1b[1;31mlevel 3\x1b[0m x\\x1b[2J\n"
