"""The completion script of fish: every command and option of the grammar, and nothing that a shell would run."""

from __future__ import annotations

import argparse
import shutil
import subprocess

import pytest

from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.fish import script


def test_every_command_is_offered_below_its_parents() -> None:
    text = script(build_parser())
    assert "complete -c ai-supervisor -n __fish_use_subcommand -a 'status' -d " in text
    assert '-n "__fish_seen_subcommand_from agents; and not __fish_seen_subcommand_from list' in text
    assert '-n "__fish_seen_subcommand_from agents; and __fish_seen_subcommand_from list" -l class -r -F -d' in text
    assert "-l tier -x -a 'all l1 l2 l3'" in text
    assert "check-state" not in text  # in no list


def test_words_of_help_cannot_end_the_quotes() -> None:
    parser = argparse.ArgumentParser(prog="p", add_help=False)
    parser.add_argument("--x", help="it's a \\ thing; rm -rf")
    assert script(parser).splitlines()[-1] == r"complete -c p -n __fish_use_subcommand -l x -r -F -d 'it\'s a \\ thing; rm -rf'"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
def test_fish_reads_it() -> None:
    done = subprocess.run(["fish", "--no-execute"], input=script(build_parser()), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
