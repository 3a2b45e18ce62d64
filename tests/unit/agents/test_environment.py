"""What an agent finds in its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisord_ai.agents.environment import environment, read_env_file
from supervisord_ai.core.roster import AgentSpec, ClassPolicy
from supervisord_ai.errors import SpawnFailed
from supervisord_ai.host.launch import Account

ME = Account("me", 1000, 1000, "/home/me")


def spec(**known: object) -> AgentSpec:
    return AgentSpec("one", ClassPolicy("opus"), ("true",), **known)  # type: ignore[arg-type]


def test_it_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "x")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert environment(spec(), ME, {}, "tag") == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/home/me",
        "USER": "me",
        "LOGNAME": "me",
        "LANG": "de_DE.UTF-8",
        "TZ": "Europe/Berlin",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "no_proxy": "localhost,127.0.0.1,::1",
        "AI_SUPERVISOR_RUN": "tag",
    }


def test_what_the_roster_sets_is_never_overwritten_but_the_tag(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("B=file\nC=file\n")
    file.chmod(0o600)
    given = {"A": "given", "B": "given", "C": "given", "AI_SUPERVISOR_RUN": "given"}
    roster = (("C", "roster"), ("HOME", "/mine"), ("AI_SUPERVISOR_RUN", "x"))
    env = environment(spec(env=roster, env_file=str(file)), ME, given, "tag")
    assert (env["A"], env["B"], env["C"], env["HOME"]) == ("given", "file", "roster", "/mine")
    assert env["AI_SUPERVISOR_RUN"] == "tag"


def test_an_env_file_has_names_values_comments_and_quotes(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\n\nexport A=1\nB = kept as it is\nC='quoted # text'\nD=\"\"\nE=a=b\n")
    file.chmod(0o600)
    with pytest.raises(SpawnFailed, match=":4: not NAME=VALUE"):
        read_env_file(file)
    file.write_text(file.read_text().replace("B = kept as it is\n", ""))
    assert read_env_file(file) == {"A": "1", "C": "quoted # text", "D": "", "E": "a=b"}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_an_env_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "env"
    file.write_text("KEY=very-secret\n")
    file.chmod(mode)
    with pytest.raises(SpawnFailed, match="chmod 600") as caught:
        read_env_file(file)
    assert "very-secret" not in str(caught.value)


def test_an_env_file_that_is_not_there_or_not_text_is_said_by_name_and_shows_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpawnFailed, match="nowhere: No such file"):
        read_env_file(tmp_path / "nowhere")
    file = tmp_path / "env"
    file.write_bytes(b"SECRET\xff\xfe")
    file.chmod(0o600)
    with pytest.raises(SpawnFailed, match="not UTF-8") as caught:
        read_env_file(file)
    assert "SECRET" not in str(caught.value)
    file.write_text("very-secret line\n")
    with pytest.raises(SpawnFailed, match=":1: not NAME=VALUE") as caught:
        read_env_file(file)
    assert "very-secret" not in str(caught.value)
