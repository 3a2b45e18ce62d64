"""What an Ollama that we start is told."""

from __future__ import annotations

import pytest

from supervisord_ai.core.policies import BackendSpec, ModelsPolicy
from supervisord_ai.core.serving import engine_environ, engine_name, host_of, is_engine

SPEC = BackendSpec(url="http://127.0.0.1:11500", slots=3, command=("ollama", "serve"))
MODELS = ModelsPolicy(num_ctx=8192, keep_alive_s=1800.0)


def environ(**ours: str) -> dict[str, str]:
    return engine_environ(ours, SPEC, MODELS, home="/var/lib/ollama", user="ollama")


def test_it_is_told_what_the_gateway_assumes() -> None:
    assert environ() == {
        "HOME": "/var/lib/ollama",
        "USER": "ollama",
        "LOGNAME": "ollama",
        "OLLAMA_HOST": "127.0.0.1:11500",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_KEEP_ALIVE": "1800000ms",
        "OLLAMA_NO_CLOUD": "1",
    }


def test_what_it_is_told_is_stronger_than_what_we_were_told() -> None:
    told = environ(OLLAMA_HOST="0.0.0.0", OLLAMA_NUM_PARALLEL="8", OLLAMA_NO_CLOUD="0", OLLAMA_KEEP_ALIVE="-1", HOME="/root")
    assert told == environ()


def test_it_keeps_what_it_needs_to_find_models_and_gpu_and_gets_no_secret_of_ours() -> None:
    needed = {"PATH": "/usr/bin", "OLLAMA_MODELS": "/models", "CUDA_VISIBLE_DEVICES": "0", "LD_LIBRARY_PATH": "/usr/lib/wsl/lib"}
    secret = {"OPENAI_API_KEY": "sk-1", "OLLAMA_API_KEY": "k", "AI_SUPERVISOR_RUN": "tag", "NOTIFY_SOCKET": "/run/x"}
    told = environ(**needed, **secret)
    assert told == {**environ(), **needed}


@pytest.mark.parametrize("keep_alive_s", [0.0, 0.5, 1_000_000.0, 12_345_678.0])
def test_a_keep_alive_is_written_as_a_duration_that_go_reads(keep_alive_s: float) -> None:
    told = engine_environ({}, SPEC, ModelsPolicy(keep_alive_s=keep_alive_s), home="/", user="x")["OLLAMA_KEEP_ALIVE"]
    assert told.removesuffix("ms").isdigit(), "Go reads no exponents"
    assert int(told.removesuffix("ms")) == keep_alive_s * 1000


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost", "localhost:11434"),
        ("http://[::1]:2", "[::1]:2"),
        ("http://127.0.0.1:1/", "127.0.0.1:1"),
        ("http://:7", "127.0.0.1:7"),
    ],
)
def test_an_address_is_said_as_ollama_host_says_it(url: str, host: str) -> None:
    assert host_of(url) == host


def test_an_engine_of_ours_is_told_from_an_agent_by_its_name() -> None:
    assert engine_name("gpu") == "engine-gpu"
    assert (is_engine(engine_name("gpu")), is_engine("engineer-1")) == (True, False)
