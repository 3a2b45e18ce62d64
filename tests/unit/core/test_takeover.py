"""What a move is, written into the drop-in and read from it; what is printed for those who do it by hand."""

from __future__ import annotations

import re
import tomllib

import pytest

from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.takeover import Move, UnitFacts, drop_in, lines_by_hand, plan, read_drop_in
from supervisord_ai.errors import UsageError

MOVE = Move("/etc/ai-supervisor/config.toml", "127.0.0.1:11434", 11436, 1, "auto")


def test_the_drop_in_tells_the_whole_move() -> None:
    assert read_drop_in(drop_in(MOVE)) == MOVE
    assert drop_in(MOVE).endswith('\n[Service]\nEnvironment="OLLAMA_HOST=127.0.0.1:11436"\n')


@pytest.mark.parametrize("line", drop_in(MOVE).splitlines()[1:5] + drop_in(MOVE).splitlines()[6:])
def test_a_drop_in_that_lacks_a_line_is_not_ours(line: str) -> None:
    assert read_drop_in(drop_in(MOVE).replace(line + "\n", "")) is None


def test_of_several_backends_the_one_at_the_old_address_is_changed_and_one_we_keep_never() -> None:
    backends = [
        BackendSpec(name="a", url="http://127.0.0.1:11434", command=("ollama", "serve")),
        BackendSpec(name="b", url="http://10.0.0.1:11434"),
        BackendSpec(name="c", url="http://localhost"),
    ]
    move = plan("ollama.service", UnitFacts(True, True, {}), config="/c", backends=backends, port=1, may_close=False)
    assert (move.backend, move.address, move.new_url) == (2, "127.0.0.1:11434", "http://127.0.0.1:1")


def test_a_service_that_does_not_run_is_not_moved() -> None:
    with pytest.raises(UsageError, match="does not run: start it first"):
        plan("ollama.service", UnitFacts(True, False, {}), config="/c", backends=[], port=1, may_close=False)


def test_every_config_that_is_printed_can_be_read() -> None:
    configs = re.findall(r"^\[\[ollama\]\]\n(?:.+\n)+", lines_by_hand(11440), re.MULTILINE)
    assert len(configs) == 3
    urls = [tomllib.loads(config.replace("#", "\n#"))["ollama"][0]["url"] for config in configs]
    assert urls == ["http://127.0.0.1:11440", "windows", "http://127.0.0.1:11440"]
    for words in ("setx OLLAMA_HOST", "networkingMode=mirrored", "New-NetFirewallRule", "daemon-reload"):
        assert words in lines_by_hand()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (UnitFacts(), "systemd knows no ollama.service"),
        (UnitFacts(True, True, {"OLLAMA_HOST": "192.168.1.5:11434"}), "not this machine's loopback: we serve no other"),
        (UnitFacts(True, True, {"OLLAMA_HOST": "0.0.0.0:11434"}), "other machines may use it and would lose it. --yes says"),
        (UnitFacts(True, True, {"OLLAMA_HOST": "[::]:11434"}), "other machines may use it and would lose it. --yes says"),
        (UnitFacts(True, True, {"OLLAMA_HOST": "127.0.0.1:11436"}), "listens at port 11436 already: name another with --port"),
        (UnitFacts(True, True), 'no [[ollama]] of /c is the Ollama at port 11434: set url = "http://127.0.0.1:11434" first'),
    ],
)
def test_what_cannot_be_moved_is_told_with_what_to_do_instead(facts: UnitFacts, words: str) -> None:
    backends = [BackendSpec(name="far", url="http://10.0.0.1:11434")]
    with pytest.raises(UsageError, match=re.escape(words)):
        plan("ollama.service", facts, config="/c", backends=backends, port=11436, may_close=False)


def test_an_ollama_that_is_searched_for_is_the_one_at_its_usual_port_and_others_may_lose_it_where_that_is_meant() -> None:
    facts = UnitFacts(True, True, {"OLLAMA_HOST": "0.0.0.0"})
    move = plan("o", facts, config="/c", backends=[BackendSpec(name="main", url="auto")], port=11436, may_close=True)
    assert (move.backend, move.old_url, move.new_url) == (0, "http://127.0.0.1:11434", "http://127.0.0.1:11436")


def test_the_loopback_is_known_by_all_of_its_names() -> None:
    facts = UnitFacts(True, True, {"OLLAMA_HOST": "localhost:11500"})
    for host in ("127.0.0.1", "localhost", "[::1]"):
        backends = [BackendSpec(name="main", url=f"http://{host}:11500")]
        move = plan("o", facts, config="/c", backends=backends, port=11436, may_close=False)
        assert (move.backend, move.address) == (0, "127.0.0.1:11500")
