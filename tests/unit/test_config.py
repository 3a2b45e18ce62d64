"""What a good config comes to: defaults, classes, templates, includes, places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.config import Anonymous, Config, Durability, GuestsAllow, load
from supervisord_ai.config.effect import NOT_IN_EFFECT
from supervisord_ai.config.reading import nested_table
from supervisord_ai.config.schema import (
    LIST_TABLES,
    SINGLE_TABLES,
    AgentTable,
    ClassTable,
    ModelsTable,
    ModelTable,
    OllamaTable,
    Table,
)
from supervisord_ai.config.templates import BadTemplate, fill
from supervisord_ai.config.units import Duration, MemoryCap, Rate, Size, Unreadable
from supervisord_ai.config.writing import toml_of
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.policies import BackendSpec, ModelPolicy, ModelsPolicy
from supervisord_ai.core.roster import CLASS_DEFAULTS, MB, AgentSpec, ClassPolicy, Restart
from tests.fakes.files import MemoryFiles

ROOT = Path(__file__).parent.parent.parent
USER = Surroundings(1000, "/home/ann", {"XDG_RUNTIME_DIR": "/run/user/1000"})
SYSTEM = Surroundings(0, "/root", {})

WORKER = """
[[agents]]
name = "worker"
class = "opus"
command = ["true"]
"""


def read(text: str, around: Surroundings = USER, files: Mapping[str, str] | None = None) -> Config:
    others = {f"/etc/{name}": other for name, other in (files or {}).items()}
    return load("/etc/c.toml", MemoryFiles({"/etc/c.toml": text, **others}), around)


def agents(text: str) -> Mapping[str, AgentSpec]:
    return read(text).roster.agents


# --- the whole ----------------------------------------------------------------------------------------------------------


def test_the_shipped_config_is_good_and_has_131_agents() -> None:
    config = read((ROOT / "config.toml").read_text())
    assert len(config.roster.agents) == 131
    names = list(config.roster.agents)
    assert (names[0], names[-1]) == ("opus-01", "sonnet-95")
    assert config.roster.agents["opus-36"].policy.memory_bytes == 300 * MB
    assert config.roster.agents["opus-36"].command == ("/usr/local/bin/agent", "--name", "opus-36", "--class", "opus")


def test_every_key_of_the_shipped_config_has_its_default() -> None:
    # So that what is written there and what happens without it never drift apart.
    shipped, empty = read((ROOT / "config.toml").read_text()), read("")
    for name in Config.__slots__:
        if name != "roster":
            assert getattr(shipped, name) == getattr(empty, name), name
    assert shipped.roster.classes == empty.roster.classes


def test_an_empty_config_is_a_gateway_without_agents() -> None:
    config = read("")
    assert config.roster.agents == {}
    assert config.roster.classes == CLASS_DEFAULTS
    assert config.backends == (BackendSpec(),)
    assert config.listen.tcp == ("127.0.0.1:11435",)
    assert config.web_listen == "127.0.0.1:8787"


def test_two_configs_share_no_roster() -> None:
    assert Config(read("").daemon).roster.agents is not Config(read("").daemon).roster.agents


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem() -> None:
    assert read("\ufeff[queue]\r\ndeadline = \"10s\"\r\n").queue.deadline_s == 10


def test_words_become_what_the_policies_hold() -> None:
    config = read(
        """
        [daemon]
        durability = "process"
        [listen]
        tcp = ["127.0.0.1:0", "[::1]:11435"]
        anonymous = "refuse"
        [guests]
        allow = "none"
        [limits]
        body = "1MiB"
        idle = "90s"
        [cache]
        scope = "agent"
        l1 = { per_agent = "1MB" }
        l2.size = "5MB"
        [models]
        keep_alive = "1h"
        [models."qwen2.5:3b"]
        num_ctx = 8192
        [[ollama]]
        url = "http://10.0.0.7:11434"
        slots = 4
        """
    )
    assert config.daemon.durability is Durability.PROCESS
    assert config.listen.anonymous is Anonymous.REFUSE
    assert config.guests_allow is GuestsAllow.NONE
    assert (config.limits.body_bytes, config.limits.idle_s) == (1 << 20, 90.0)
    assert (config.cache.scope, config.cache.l1_per_agent_bytes, config.cache.l2_bytes) == ("agent", MB, 5 * MB)
    assert config.models == ModelsPolicy(keep_alive_s=3600.0, each=(("qwen2.5:3b", ModelPolicy(num_ctx=8192)),))
    assert config.backends == (BackendSpec(url="http://10.0.0.7:11434", slots=4),)
    assert type(config.limits.body_bytes) is int
    assert type(config.limits.idle_s) is float


# --- classes and agents -------------------------------------------------------------------------------------------------


def test_a_class_of_ones_own_starts_from_plain_defaults() -> None:
    config = read('[class.night]\nmemory = "64MiB"\nrate = "30/h"\npriority = 9\nceiling = 3\n')
    assert config.roster.classes["night"] == ClassPolicy("night", memory_bytes=64 << 20, rate_per_min=0.5, priority=9, ceiling=3)


def test_a_class_that_is_always_there_changes_only_what_is_written() -> None:
    opus = read("[class.opus]\nweight = 4\n").roster.classes["opus"]
    assert opus.weight == 4.0
    assert opus.memory_bytes == 300 * MB


def test_an_agent_overrides_keys_of_its_class() -> None:
    spec = agents(WORKER + 'memory = "1GB"\nrestart = "always"\n')["worker"]
    assert spec.policy.name == "opus"
    assert spec.policy.memory_bytes == 1000 * MB
    assert spec.policy.restart is Restart.ALWAYS
    assert spec.policy.priority == 3


def test_templates_are_filled_in_every_text_of_an_agent() -> None:
    found = agents(
        """
        [[agents]]
        name = "{class}-{n:03}"
        class = "opus"
        count = 2
        command = ["run", "{name}", "{n}", "{{n}}"]
        cwd = "/srv/{name}"
        env = { ID = "{n:2}", "FULL" = "{class}/{name}" }
        env_file = "/etc/agents/{name}.env"
        """
    )
    assert list(found) == ["opus-001", "opus-002"]
    second = found["opus-002"]
    assert second.command == ("run", "opus-002", "2", "{n}")
    assert second.cwd == "/srv/opus-002"
    assert second.env == (("ID", " 2"), ("FULL", "opus/opus-002"))
    assert second.env_file == "/etc/agents/opus-002.env"


def test_a_shell_line_becomes_an_argv() -> None:
    spec = agents('[[agents]]\nname = "a"\nclass = "opus"\ncommand = "exec ./run > /dev/null"\n')["a"]
    assert spec.command == ("/bin/sh", "-c", "exec ./run > /dev/null")


def test_count_zero_leaves_an_entry_out() -> None:
    assert agents(WORKER + "count = 0\n") == {}


def test_the_digest_changes_with_any_key_and_with_nothing_else() -> None:
    one, same = agents(WORKER)["worker"], agents("# a comment\n" + WORKER)["worker"]
    other = agents(WORKER + 'grace = "6s"\n')["worker"]
    assert one.digest == same.digest != other.digest


def test_daemon_path_is_the_path_of_all_who_set_none() -> None:
    own = '[[agents]]\nname = "own"\nclass = "opus"\ncommand = ["true"]\nenv = { PATH = "/mine" }\n'
    found = agents('[daemon]\npath = "/opt/bin:/usr/bin"\n' + WORKER + own)
    assert dict(found["worker"].env)["PATH"] == "/opt/bin:/usr/bin"
    assert dict(found["own"].env)["PATH"] == "/mine"


# --- files and places ---------------------------------------------------------------------------------------------------


def test_includes_add_agents_in_the_order_of_their_names() -> None:
    extra = WORKER.replace("worker", "{}").format
    files = {"agents.d/b.toml": extra("b"), "agents.d/a.toml": extra("a"), "other.toml": '[class.night]\nmemory = "9MB"\n'}
    config = read('include = ["agents.d/*.toml", "other.toml"]\n' + WORKER, files=files)
    assert list(config.roster.agents) == ["worker", "a", "b"]
    assert config.roster.classes["night"].memory_bytes == 9 * MB


def test_a_pattern_that_finds_nothing_or_the_file_itself_is_no_problem() -> None:
    assert len(read('include = ["agents.d/*.toml", "*.toml"]\n' + WORKER).roster.agents) == 1


def test_places_of_a_system_service() -> None:
    daemon = read("", SYSTEM).daemon
    assert (daemon.runtime_dir, daemon.state_dir) == ("/run/ai-supervisor", "/var/lib/ai-supervisor")
    assert daemon.log_dir == "/var/log/ai-supervisor"


def test_places_of_a_person() -> None:
    daemon = read("").daemon
    assert (daemon.runtime_dir, daemon.state_dir) == ("/run/user/1000/ai-supervisor", "/home/ann/.local/state/ai-supervisor")
    assert daemon.log_dir == "/home/ann/.local/state/ai-supervisor/log"
    without_session = read("", Surroundings(1000, "/home/ann", {})).daemon
    assert without_session.runtime_dir == "/tmp/ai-supervisor-1000"


def test_logs_go_where_the_state_goes_unless_told_otherwise() -> None:
    moved = read('[daemon]\nstate_dir = "/srv/x"\n', SYSTEM).daemon
    assert moved.log_dir == "/srv/x/log"
    assert read('[daemon]\nstate_dir = "/srv/x"\nlog_dir = "/srv/l"\n').daemon.log_dir == "/srv/l"


def test_the_environment_overrides_the_file() -> None:
    env = {"AI_SUPERVISOR_RUNTIME_DIR": "/r", "AI_SUPERVISOR_STATE_DIR": "/s"}
    daemon = read('[daemon]\nruntime_dir = "/x"\nstate_dir = "/y"\n', Surroundings(0, "/root", env)).daemon
    assert (daemon.runtime_dir, daemon.state_dir) == ("/r", "/s")


def test_a_config_beside_us_does_not_include_itself() -> None:
    files = MemoryFiles({"c.toml": 'include = ["*.toml"]\n' + WORKER, "d.toml": WORKER.replace("worker", "other")})
    assert list(load("c.toml", files, USER).roster.agents) == ["worker", "other"]


# --- what is shown can be read again ------------------------------------------------------------------------------------


def test_what_config_show_prints_is_the_same_config() -> None:
    text = (ROOT / "config.toml").read_text() + (
        '\n[[agents]]\nname = "x"\nclass = "opus"\ncommand = "echo {{}} $HOME"\nmemory = "1MB"\nenv = { A = "{{b}}" }\n'
        'user = "ann"\nrate = "7/h"\ngrace = "1.5s"\n[models."a:b"]\nnum_ctx = 512\n[class.guest]\nweight = 0.25\n'
    )
    config = read(text.replace('agents = "35.2GB"', 'agents = "33540MiB"'))
    again = read(toml_of(config, with_agents=True))
    assert again == config


# --- the schema and the policies are one --------------------------------------------------------------------------------


def attributes(kind: type[Table]) -> set[str]:
    found = set()
    for field in msgspec.structs.fields(kind):
        nested = nested_table(field.type)
        found |= attributes(nested) if nested else {field.name}
    return found


APART = {"web": {"listen"}, "gpu": {"unload_at"}, "isolation": {"mode"}, "retention": {"events_s"}, "guests": {"allow"}}


@pytest.mark.parametrize("name", sorted(set(SINGLE_TABLES) - set(APART)))
def test_every_key_fills_a_field_of_its_policy_and_every_field_has_a_key(name: str) -> None:
    policy = getattr(read(""), name)
    assert attributes(SINGLE_TABLES[name]) == set(type(policy).__slots__)


def test_the_tables_apart_have_just_the_keys_that_config_has() -> None:
    assert {name: attributes(SINGLE_TABLES[name]) for name in APART} == APART


def test_the_tables_that_come_often_fill_their_policies() -> None:
    assert attributes(ClassTable) == set(ClassPolicy.__slots__) - {"name"}
    assert attributes(OllamaTable) == set(BackendSpec.__slots__)
    assert attributes(ModelsTable) == set(ModelsPolicy.__slots__) - {"each"}
    assert attributes(ModelTable) == set(ModelPolicy.__slots__)
    own = attributes(AgentTable) - attributes(ClassTable)
    assert own == (set(AgentSpec.__slots__) - {"policy"}) | {"agent_class", "count"}


def keys(kind: type[Table], section: str) -> set[str]:
    found = set()
    for field in msgspec.structs.fields(kind):
        nested = nested_table(field.type)
        found |= keys(nested, f"{section}.{field.encode_name}") if nested else {f"{section}.{field.encode_name}"}
    return found


def test_every_entry_of_the_list_without_effect_is_a_key() -> None:
    known = {key for name, kind in {**SINGLE_TABLES, **LIST_TABLES}.items() for key in keys(kind, name)}
    known |= keys(ClassTable, "class.X") | keys(ModelTable, "models.X") | keys(ModelsTable, "models") | {"alerts"}
    assert {entry.partition("=")[0] for entry in NOT_IN_EFFECT} <= known


# --- units --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "size_bytes"),
    [("300MB", 300_000_000), ("300MiB", 300 << 20), ("0.5GB", 500_000_000), ("35.2GB", 35_200_000_000), ("1 kb", 1000)],
)
def test_sizes(raw: str, size_bytes: int) -> None:
    assert Size.read(raw) == size_bytes


@pytest.mark.parametrize("raw", ["300", 300, "", "MB", "-1MB", "1e3MB", "1MBs", "5M", True, None, "9999PB", "2000TB", ["1MB"]])
def test_what_is_no_size(raw: object) -> None:
    with pytest.raises(Unreadable):
        Size.read(raw)


@pytest.mark.parametrize(("raw", "seconds"), [("100ms", 0.1), ("2s", 2), ("10m", 600), ("1.5h", 5400), ("30d", 2_592_000)])
def test_durations(raw: str, seconds: float) -> None:
    assert Duration.read(raw) == pytest.approx(seconds)


@pytest.mark.parametrize("raw", ["5", 5, "5M", "1h30m", "-1s", "1000d", None])
def test_what_is_no_duration(raw: object) -> None:
    with pytest.raises(Unreadable):
        Duration.read(raw)


@pytest.mark.parametrize(("raw", "per_min"), [("10/min", 10), ("1/s", 60), ("30/h", 0.5), ("", None)])
def test_rates(raw: str, per_min: float | None) -> None:
    assert Rate.read(raw).per_min == per_min


@pytest.mark.parametrize("raw", ["10", 10, "0/min", "10/year", "-1/min", None])
def test_what_is_no_rate(raw: object) -> None:
    with pytest.raises(Unreadable):
        Rate.read(raw)


def test_a_cap_below_a_megabyte_starts_nothing() -> None:
    with pytest.raises(Unreadable, match="too small"):
        MemoryCap.read("300KB")


# --- templates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{", "}", "{x}", "{name!r}", "{name:>9}", "{n:x}", "{n:0}{m}", "{n.real}", "{n[0]}", "{}", "{0}", "{n:{n}}"]
)
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(BadTemplate):
        fill(text, n=1, agent_class="c", name="a")


def test_a_name_cannot_be_made_of_itself() -> None:
    with pytest.raises(BadTemplate, match=r"usable are \{n\}, \{class\}"):
        fill("{name}", n=1, agent_class="c", name=None)


@given(text=st.text(), n=st.integers(1, 10_000))
def test_text_with_its_braces_doubled_comes_out_as_it_was(text: str, n: int) -> None:
    assert fill(text.replace("{", "{{").replace("}", "}}"), n=n, agent_class="c", name="a") == text


