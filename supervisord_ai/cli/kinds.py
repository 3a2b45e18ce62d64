"""What may stand where the grammar wants a number or a time: each function reads one word, or says what it should have been."""

from __future__ import annotations

import argparse
import re


def lines(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) <= 10_000:
        raise argparse.ArgumentTypeError(f"{word} is not a number from 1 to 10000")
    return int(word)


def last_lines(word: str) -> int:
    if not (word.isascii() and word.isdecimal()) or int(word[:6]) > 10_000:
        raise argparse.ArgumentTypeError(f"{word} is not a number of lines: 0 to 10000")
    return int(word)


def at_once(word: str) -> tuple[int, ...]:
    numbers = word.split(",")
    if not all(one.isascii() and one.isdecimal() and 1 <= int(one[:3]) <= 64 for one in numbers):
        raise argparse.ArgumentTypeError(f"{word} is not a list of numbers from 1 to 64, such as 1,2,4")
    return tuple(sorted({int(one) for one in numbers}))


def pin_time(word: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", word)
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not 1 <= seconds <= 7 * 86_400:
        raise argparse.ArgumentTypeError(f"{word} is not a time: 30s, 10m or 2h, at most a week")
    return seconds


def count(word: str) -> int:
    if not (word.isascii() and word.isdecimal()) or int(word[:6]) > 10_000:
        raise argparse.ArgumentTypeError(f"{word} is not a number of agents: 0 to 10000")
    return int(word)


def days(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) <= 366:
        raise argparse.ArgumentTypeError(f"{word} is not a number from 1 to 366")
    return int(word)


def port(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) < 65_536:
        raise argparse.ArgumentTypeError(f"{word} is not a port: 1 to 65535")
    return int(word)
