"""What is to be typed about an Ollama that is not as it should be, and what is said of one that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.doctor.engines import DROP_IN, RELOAD, EngineFacts, Intruder, check_engines, version_numbers
from supervisord_ai.core.doctor.finding import Finding, Fix, Severity

WELL = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_NO_CLOUD": "1"}
ENGINE = EngineFacts("main", "http://127.0.0.1:11434", 2, "here", version="0.33.0", models=("llama3.2:3b",), environ=WELL)


def found(**changes: object) -> dict[str, Finding]:
    findings = check_engines((replace(ENGINE, **changes),))  # type: ignore[arg-type]
    return {one.name.removeprefix("ollama.main."): one for one in findings}


def shell(line: str, then: str = "") -> Fix:
    return Fix("a shell", (line,), then)


@pytest.mark.parametrize(
    ("changes", "name", "fixes"),
    [
        (
            {"trouble": "connection refused"},
            "reachable",
            (shell("ollama serve"), Fix("config.toml, if it is elsewhere", ("[[ollama]]", 'url = "http://127.0.0.1:11434"'))),
        ),
        ({"version": "0.4.9"}, "version", (shell("curl -fsSL https://ollama.com/install.sh | sh"),)),
        (
            {"environ": {**WELL, "OLLAMA_NUM_PARALLEL": "1"}},
            "slots",
            (Fix(DROP_IN, ('Environment="OLLAMA_NUM_PARALLEL=2"',), RELOAD),),
        ),
        ({"environ": {"OLLAMA_NUM_PARALLEL": "2"}}, "cloud", (Fix(DROP_IN, ('Environment="OLLAMA_NO_CLOUD=1"',), RELOAD),)),
        (
            {"environ": {}, "is_on_windows": True},
            "cloud",
            (Fix("PowerShell on Windows", ("setx OLLAMA_NO_CLOUD 1",), "quit Ollama in the tray and start it again"),),
        ),
        ({"models": ()}, "models", (shell("ollama pull llama3.2:3b"),)),
        (
            {"light_model": "tinyllama"},
            "light-model",
            (shell("ollama pull tinyllama"), Fix("config.toml, below [levels], to do without", ('light_model = ""',))),
        ),
        (
            {"intruders": (Intruder("node", 1),)},
            "alone",
            (
                shell("sudo ai-supervisor takeover", "who calls localhost:11434 then reaches us"),
                Fix("config.toml, to close it to agents", ("[isolation]", 'mode = "nft"')),
            ),
        ),
    ],
)
def test_who_has_to_do_something_is_told_where_to_type_what(
    changes: dict[str, object], name: str, fixes: tuple[Fix, ...]
) -> None:
    assert found(**changes)[name].fixes == fixes


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({}, "version", "Ollama 0.33.0 at here"),
        ({"version": "", "where": ""}, "version", "Ollama of an unknown version at http://127.0.0.1:11434"),
        ({}, "slots", "OLLAMA_NUM_PARALLEL is 2, `slots` is 2"),
        ({}, "cloud", "OLLAMA_NO_CLOUD is set: nothing leaves this machine"),
        ({}, "models", "1 model"),
        ({"models": ("a", "b")}, "models", "2 models"),
        ({}, "alone", "nobody else has a connection to it now"),
    ],
)
def test_what_is_well_is_said(changes: dict[str, object], name: str, words: str) -> None:
    one = found(**changes)[name]
    assert (one.severity, one.words) == (Severity.GOOD, words)


def test_one_that_we_start_is_there_while_the_daemon_is() -> None:
    assert found(is_ours=True, trouble="no such program")["reachable"].why == "it runs while the daemon does"


@pytest.mark.parametrize(
    ("version", "numbers"), [("0.5.0", (0, 5, 0)), ("0.33.0-rc2", (0, 33, 0)), ("0.5.0-rc1-3-gabc", (0, 5, 0)), ("dev", ())]
)
def test_a_version_is_the_numbers_before_what_follows_them(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers
