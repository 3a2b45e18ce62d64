"""Single keys of a config changed in its text: exactly that, everything else as it was, or left to its owner."""

from __future__ import annotations

import tomllib

import pytest

from supervisord_ai.config.editing import with_backend_url, with_folders, with_owner, with_tcp, without_tcp
from supervisord_ai.errors import UsageError

NEW = "http://127.0.0.1:11436"
ADDRESS = "127.0.0.1:11434"


@pytest.mark.parametrize(
    ("text", "index", "after"),
    [
        ('[[ollama]]\nurl = "auto"  # mine\nslots = 2\n', 0, f'[[ollama]]\nurl = "{NEW}"  # mine\nslots = 2\n'),
        ("[[ollama]]\n  url='auto'\n", 0, f'[[ollama]]\n  url="{NEW}"\n'),
        ('[[ollama]]\n"url" = "a\\"b"\n', 0, f'[[ollama]]\n"url" = "{NEW}"\n'),
        ("[[ollama]] # the first\nslots = 2\n", 0, f'[[ollama]] # the first\nurl = "{NEW}"\nslots = 2\n'),
        ('[[ollama]]\nurl = "a"\n[[ollama]]\nurl = "b"\n', 1, f'[[ollama]]\nurl = "a"\n[[ollama]]\nurl = "{NEW}"\n'),
        ("# nothing", 0, f'# nothing\n\n[[ollama]]\nurl = "{NEW}"\n'),
        ("", 0, f'\n[[ollama]]\nurl = "{NEW}"\n'),
        ("[[ollama]]", 0, f'[[ollama]]\nurl = "{NEW}"\n'),
        ('ollama = [{ name = "x", url = "auto" }]\n', 0, f'ollama = [{{ name = "x", url = "{NEW}" }}]\n'),
    ],
)
def test_the_address_of_a_backend(text: str, index: int, after: str) -> None:
    assert with_backend_url(text, index, NEW) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ('[listen]\ntcp = ["127.0.0.1:11435"] # x\n', f'[listen]\ntcp = ["{ADDRESS}", "127.0.0.1:11435"] # x\n'),
        (
            '[listen]\ntcp = [\n  "127.0.0.1:11435",  # one\n  # none\n]\nanonymous = "guest"\n',
            f'[listen]\ntcp = ["{ADDRESS}", \n  "127.0.0.1:11435",  # one\n  # none\n]\nanonymous = "guest"\n',
        ),
        ("[listen]\ntcp = []\n", f'[listen]\ntcp = ["{ADDRESS}"]\n'),
        ("listen.tcp = ['127.0.0.1:1']\n", f"listen.tcp = [\"{ADDRESS}\", '127.0.0.1:1']\n"),
        ('[listen]\nanonymous = "guest"\n', f'[listen]\ntcp = ["127.0.0.1:11435", "{ADDRESS}"]\nanonymous = "guest"\n'),
        ("[queue]\n", f'[queue]\n\n[listen]\ntcp = ["127.0.0.1:11435", "{ADDRESS}"]\n'),
        (f'[listen]\ntcp = ["{ADDRESS}"]\n', f'[listen]\ntcp = ["{ADDRESS}"]\n'),
    ],
)
def test_one_more_address_to_listen_at_and_back(text: str, after: str) -> None:
    changed = with_tcp(text, ADDRESS)
    assert changed == after
    back = tomllib.loads(without_tcp(changed, ADDRESS))
    assert ADDRESS not in back["listen"]["tcp"]
    assert without_tcp(without_tcp(changed, ADDRESS), ADDRESS) == without_tcp(changed, ADDRESS)


@pytest.mark.parametrize(
    "text",
    [
        '[[ollama]]\n"u\\u0072l" = "auto"\n',
        '[[ollama]]\nurl = """auto"""\n',
        'ollama = [{ name = "url = \'x\'", url = "auto" }]\n',
        "ollama = 3\n",
    ],
)
def test_what_is_written_in_another_way_is_left_to_its_owner(text: str) -> None:
    with pytest.raises(UsageError, match="set url"):
        with_backend_url(text, 0, NEW)


@pytest.mark.parametrize("text", ['[listen]\n"t\\u0063p" = ["127.0.0.1:1"]\n', "listen = 3\n"])
def test_a_list_that_is_written_in_another_way_too(text: str) -> None:
    with pytest.raises(UsageError, match="add"):
        with_tcp(text, ADDRESS)


def test_a_backend_that_is_not_there_and_a_text_that_is_no_toml() -> None:
    with pytest.raises(UsageError, match="set url"):
        with_backend_url("[[ollama]]\n", 1, NEW)
    with pytest.raises(UsageError, match="cannot be read"):
        with_tcp("[", ADDRESS)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("[daemon] # mine\npath = \"/bin\"\n", "[daemon] # mine\nowner = \"ada\"\npath = \"/bin\"\n"),
        ("[daemon]\nowner = \"\"  # nobody yet\n", "[daemon]\nowner = \"ada\"\n"),
        ("# nothing\n", "# nothing\n\n[daemon]\nowner = \"ada\"\n"),
        ("[daemon]\nowner = \"bob\"\n", "[daemon]\nowner = \"bob\"\n"),
    ],
)
def test_the_owner_is_written_where_none_is_named(text: str, after: str) -> None:
    assert with_owner(text, "ada") == after


def test_an_owner_that_cannot_be_written_is_said() -> None:
    with pytest.raises(UsageError, match=r"in \[daemon\], set owner = \"ada\""):
        with_owner("daemon = { path = \"/bin\" }\n", "ada")


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", '\n[daemon]\nstate_dir = "/s"\nlog_dir = "/l"\n'),
        ('[daemon]\nowner = "ann"\n', '[daemon]\nlog_dir = "/l"\nstate_dir = "/s"\nowner = "ann"\n'),
        ('[daemon]\nstate_dir = "/old" # mine\n', '[daemon]\nlog_dir = "/l"\nstate_dir = "/s"\n'),
    ],
)
def test_the_folders_of_a_daemon(text: str, after: str) -> None:
    changed = with_folders(text, {"state_dir": "/s", "log_dir": "/l"})
    assert tomllib.loads(changed) == tomllib.loads(after)
    assert "ann" not in text or 'owner = "ann"\n' in changed


def test_a_long_value_is_written_whole() -> None:
    url = f"http://{'a' * 60}.example:11434"
    assert url in with_backend_url("", 0, url)
    assert f"/{'b' * 80}" in with_folders("", {"state_dir": f"/{'b' * 80}"})
