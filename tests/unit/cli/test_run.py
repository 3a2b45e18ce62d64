"""What `run` settles before a daemon starts: who agents run as."""

from __future__ import annotations

import os
import pwd

from supervisord_ai.cli.run import check_users
from supervisord_ai.config import Config, load
from supervisord_ai.core.places import Surroundings
from tests.fakes.files import MemoryFiles

ME = pwd.getpwuid(os.geteuid()).pw_name
AGENTS = '[[agents]]\nname = "{n}"\nclass = "opus"\ncount = 3\ncommand = ["true"]\n'


def config(text: str) -> Config:
    return load("/c.toml", MemoryFiles({"/c.toml": text}), Surroundings(os.geteuid(), "/root", {}))


def told(text: str, uid: int) -> list[str]:
    return [str(problem) for problem in check_users(config(text), uid)]


def test_root_must_say_who_agents_run_as_once_for_each_class() -> None:
    assert told(AGENTS, 0) == [
        '/c.toml: class.opus.user: running as root, it needs user = "..." (someone who is not root); '
        'user = "root" says that root is meant'
    ]
    assert told('[class.opus]\nuser = "root"\n' + AGENTS, 0) == []
    assert told('[class.opus]\nuser = "nobody"\n' + AGENTS, 0) == []


def test_a_class_without_agents_needs_no_user() -> None:
    assert told("[class.opus]\n", 0) == []


def test_a_user_must_exist() -> None:
    text = AGENTS + 'user = "nobody-at-all"\n'
    assert told(text, 0) == ["/c.toml: class.opus.user: there is no user 'nobody-at-all' on this machine"]


def test_only_root_starts_agents_as_somebody_else() -> None:
    other = pwd.getpwnam("nobody").pw_uid + 1
    assert told(AGENTS, 1000) == []
    assert told(AGENTS + 'user = "nobody"\n', other) == ["/c.toml: class.opus.user: only root can start agents as 'nobody'"]
    assert told(AGENTS + f'user = "{ME}"\n', os.geteuid()) == []
