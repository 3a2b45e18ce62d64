"""What people see: within 80 columns, readable without colours, and never obeying an agent's control characters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.cli.screen import WIDTH, Screen, printable, size_of, span_of, table
from supervisord_ai.cli.status import screen
from supervisord_ai.control.chronicle import Occurrence
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.downtime import Downtime
from supervisord_ai.core.effects import Level
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.samples import Gpu, Load, Machine, Sample
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.view import AlertView, HealthView
from tests.fakes.clock import StillClock
from tests.fakes.owner_views import agent_view, backend_view, fleet_view, gateway_view, told


def test_all_is_well_on_one_screen() -> None:
    assert screen(told()).text() == (
        "ai-supervisor 0.1.0   up 2 h 03 m   pid 4711   level 0 normal   good\n"
        "\n"
        "ollama     main ready   1 of 2 slots busy   http://127.0.0.1:11434\n"
        "  RUNS     MODEL        PATH        FOR  TOKENS  PRIO\n"
        "  opus-01  llama3.2:3b  /api/chat  12 s       -     3\n"
        "queue      7 waiting, 1 running\n"
        "  priority 3       5 waiting, the oldest for 1.2 s\n"
        "  priority 5       2 waiting, the oldest for 40 s   a new one waits about 12 s\n"
        "agents     1\n"
        "  opus               1  1 running\n"
        "\n"
        "cache      36% hits of 33   L1 4 entries, 1.0 MB   L2 9 entries, 3.0 MB\n"
        "memory     os - of 3,000, ollama - of 8,000, cache 1 of 1,000, monitoring 44 of\n"
        "           500, agents 12 of 35,200 MB   this daemon 45 MB, 12.3 s CPU\n"
        "identity   proved: by cgroup\n"
        "guarantee  hard: cgroup v2 at /sys/fs/cgroup/ai\n"
        "so far     33 asked, 20 answered, 12 cached, 1 refused, 400 tokens\n"
    )


def test_trouble_is_said_first_and_in_words() -> None:
    agents = [agent_view(f"sonnet-{n:02}", state=AgentState.QUARANTINED, verdict="exit:1", restarts=5) for n in range(12)]
    gateway = gateway_view(backend_view(state="unreachable", detail="connection refused", running=()))
    text = screen(told(fleet=fleet_view(*agents), gateway=gateway)).text()
    assert text.splitlines()[0].endswith("degraded")
    assert text.splitlines()[1].strip() == "backend main is unreachable: connection refused"
    assert text.splitlines()[2].strip() == "12 in quarantine: sonnet-00, sonnet-01, sonnet-02 ..."
    assert "  ... and 4 more" in text


names = st.text(min_size=1, max_size=200)


@given(name=names, detail=names, model=names)
def test_no_text_of_an_agent_or_a_model_breaks_the_screen(name: str, detail: str, model: str) -> None:
    agents = fleet_view(agent_view(name, state=AgentState.BACKOFF, verdict="exit:1", detail=detail))
    running = gateway_view().backends[0].running[0]
    hostile = type(running)(running.id, name, model, detail, 1.0, 3, 2)
    text = screen(told(fleet=agents, gateway=gateway_view(backend_view(running=(hostile,), detail=detail)))).text()
    assert all(len(line) <= WIDTH for line in text.split("\n"))
    assert all(char.isprintable() for char in text.replace("\n", ""))


def test_what_is_cut_shows_that_it_was_cut() -> None:
    page = Screen()
    page.line("x" * 79, ("yyy", "red"), "z")
    assert page.text() == "x" * 79 + "…\n"


def test_a_long_text_goes_on_below_itself_even_without_a_space() -> None:
    page = Screen()
    page.wrapped("why", "a " + "b" * 100, 10)
    first, second, third = page.text().splitlines()
    assert first == "why       a"
    assert second == " " * 10 + "b" * 70
    assert third == " " * 10 + "b" * 30


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[31mb\r\u202e\x9b") == "a\\x1b[31mb\\r\\u202e\\x9b"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (14.2, "14 s"),
        (119, "119 s"),
        (125, "2 m 05 s"),
        (7384, "2 h 03 m"),
        (200_000, "2 d 07 h"),
    ],
)
def test_durations_as_people_say_them(seconds: float | None, words: str) -> None:
    assert span_of(seconds) == words


@pytest.mark.parametrize(("size", "words"), [(None, "-"), (0, "0.0 MB"), (1_500_000, "1.5 MB"), (35_200_000_000, "35,200 MB")])
def test_sizes_as_people_say_them(size: int | None, words: str) -> None:
    assert size_of(size) == words


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table(("NAME", "N"), [("a", 1), ("bbbbbb", 22), (None, 3)], right=(1,)) == [
        "NAME     N",
        "a        1",
        "bbbbbb  22",
        "-        3",
    ]


def test_a_table_that_is_too_wide_leaves_columns_out_and_then_cuts_the_widest() -> None:
    heads, rows = ("NAME", "CLASS", "PID", "WHY"), [("opus-01", "opus", 4711, "it said something long about itself")]
    wide = table(heads, rows, right=(2,), drop=(1,), width=80)
    assert wide[1] == "opus-01  opus   4711  it said something long about itself"
    assert table(heads, rows, right=(2,), drop=(1,), width=50)[1] == "opus-01  4711  it said something long about itself"
    assert table(heads, rows, right=(2,), drop=(1,), width=30)[1] == "opus-01  4711  it said someth…"
    assert max(map(len, table(heads, rows, right=(2,), drop=(1,), width=30))) == 30


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_screen_uses_the_width_it_gets(width: int) -> None:
    why = "last words: " + "x" * 300
    agents = [agent_view(f"sonnet-{n:02}", state=AgentState.QUARANTINED, verdict="exit:1", detail=why) for n in range(12)]
    lines = screen(told(fleet=fleet_view(*agents)), width).text().splitlines()
    assert max(map(len, lines)) == width


def test_what_happened_and_when_nobody_supervised_is_told_with_what_to_type() -> None:
    text = screen(
        told(
            down=Downtime(7000.0, 7008.0, "it was killed or crashed: it wrote no end"),
            happened=(Occurrence("agent.ended", 7, 7380.0, "agent ended: oom:own-cap"),),
            gateway=gateway_view(backend_view(state="unreachable", detail="connection refused")),
        )
    ).text()
    assert "down       for 8.0 s before this start, from" in text
    assert "happened   7x agent ended: oom:own-cap, last 4.0 s ago" in text
    assert "type       curl http://127.0.0.1:11434/api/version   (does main answer? If not:" in text


def test_an_empty_daemon_says_how_to_begin() -> None:
    empty = fleet_view()
    text = screen(told(fleet=type(empty)((), "none", "no agents"))).text()
    assert "none: ai-supervisor agents add NAME --class CLASS -- CMD" in text


def test_what_is_given_up_while_memory_is_short_is_told_and_who_was_stopped() -> None:
    page = told()
    page["memory"]["relief"] = {"step": "shed", "reason": "900 MB available, below 1,000 MB", "since_s": 65.0}
    page["memory"]["shed"] = [f"haiku-{number:02}" for number in range(14)]
    text = screen(page).text()
    assert "relief     no batch starts, the cache" in text
    assert "900 MB available" in text
    assert "shed       14 stopped, they come back when memory does: haiku-00" in text
    assert "and 2 more" in text
    page["memory"]["relief"]["step"], page["memory"]["shed"] = "nothing", []
    assert "relief" not in screen(page).text()
    assert max(map(len, text.splitlines())) <= 80


def test_what_presses_the_machine_and_which_alert_fires_is_said_above_all_else() -> None:
    gpus = (Gpu("RTX 3050", 4_000_000_000, 3_000_000_000, 0.4), Gpu("old card", 2_000_000_000, None, None))
    pressed = Machine(cores=8, runnable=3, total_bytes=48_000_000_000, available_bytes=1_200_000_000, gpus=gpus)
    sample = Sample(0.0, 0.0, pressed, Load())
    ladder = Ladder(LevelsPolicy(), reserve_bytes=2_000_000_000, tell=lambda _event: None, clock=StillClock())
    for _ in range(30):
        ladder.take(sample)
    alerts = (AlertView("slow", "firing", 75.0, "queue.oldest_s > 60", 30.0, {}, False, "look at the queue", "", False, ""),)
    quiet = replace(alerts[0], name="calm", state="quiet")
    text = screen(
        told(health=HealthView(sample, replace(ladder.statistics(), level=Level.MAJOR), alerts=(*alerts, quiet)))
    ).text()
    first, second, *rest = text.splitlines()
    assert "level 2 major" in first
    assert second.startswith("  level 2: ")
    assert "alert      slow for 75 s: queue.oldest_s > 60   look at the queue" in rest
    assert "calm" not in text
    assert "machine    1,200 MB available of 48,000 MB" in rest
    assert "gpu        RTX 3050   3,000 MB of 4,000 MB VRAM   75%" in rest
    assert "gpu        old card   - of 2,000 MB VRAM" in rest


def test_what_was_done_to_an_engine_is_said_with_it() -> None:
    engine = backend_view(way="found at 127.0.0.1:11434", loading="llama3.2:3b", restarted=2, healed=1)
    text = screen(told(gateway=gateway_view(engine))).text()
    assert "  found at 127.0.0.1:11434\n" in text
    assert "  loading llama3.2:3b\n" in text
    assert "  it hung and was restarted: 2 times\n" in text
    assert "  it lost slots, and a model was reloaded to have them back: 1 times\n" in text
