"""Quoting, compared with what strconv.Quote of Go 1.26.8 printed for each of these characters."""

from __future__ import annotations

import pytest

from supervisord_ai.core.go_text import quote, quote_char


@pytest.mark.parametrize(
    ("code", "quoted"),
    [
        (0x00, r'"\x00"'),
        (0x07, r'"\a"'),
        (0x0A, r'"\n"'),
        (0x1B, r'"\x1b"'),
        (0x22, r'"\""'),
        (0x27, r'''"'"'''),
        (0x5C, r'"\\"'),
        (0x7F, r'"\x7f"'),
        (0x85, r'"\u0085"'),
        (0xA0, r'"\u00a0"'),
        (0xAD, r'"\u00ad"'),
        (0xE9, '"é"'),
        (0x200B, r'"\u200b"'),
        (0x2028, r'"\u2028"'),
        (0x3000, r'"\u3000"'),
        (0x6F22, '"漢"'),
        (0xE000, r'"\ue000"'),
        (0xFEFF, r'"\ufeff"'),
        (0x1F600, '"😀"'),
        (0xE0001, r'"\U000e0001"'),
    ],
)
def test_a_character_is_quoted_as_go_quotes_it(code: int, quoted: str) -> None:
    assert quote(chr(code)) == quoted


def test_the_two_quotes_are_quoted_by_the_other_one() -> None:
    assert quote_char("'") == r"'\''"
    assert quote_char('"') == "'\"'"
    assert quote_char("\x1f") == r"'\x1f'"


def test_a_word_is_quoted_as_a_whole_and_a_letter_like_any_other() -> None:
    assert quote("a b") == '"a b"'
    assert [quote_char(char) for char in "X}"] == ["'X'", "'}'"]
