"""What the documents tell people to type exists, and where they point to is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord_ai.cli.commands import build_parser

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|&& |\|\| )(?:sudo )?ai-supervisor (?P<words>[^\n|&>]*)", re.MULTILINE)
_INLINE = re.compile(r"`(?:sudo )?ai-supervisor ([a-z][^`]*)`")
_SHELL = re.compile(r"\$\([^)]*\)")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text()
        found = [match["words"] for block in _BLOCK.findall(text) for match in _COMMAND.finditer(block)] + _INLINE.findall(text)
        for words in dict.fromkeys(found):
            yield page.name, words.partition("  #")[0].partition(" # ")[0].strip()


@pytest.mark.parametrize(("page", "words"), sorted(set(commands())))
def test_every_command_in_a_document_is_one(page: str, words: str) -> None:
    typed = shlex.split(_SHELL.sub("X", words).replace("[PATTERN]", ""))
    code: object = 0
    try:
        build_parser().parse_args(typed)
    except SystemExit as exc:
        code = exc.code
    assert not code, f"{page}: ai-supervisor {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_document_leads_somewhere(page: Path) -> None:
    assert [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []
