"""Bad configs: each says everything that is wrong with it, at once, where it is, and what to do."""
# ruff: noqa: E501 - lines as a person is shown them

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from supervisord_ai.config import effect, load
from supervisord_ai.config.effect import NOT_IN_EFFECT, lacks_effect
from supervisord_ai.core.places import Surroundings
from supervisord_ai.errors import ConfigError
from tests.fakes.files import MemoryFiles

ROOT = Path(__file__).parent.parent.parent
USER = Surroundings(1000, "/home/ann", {})

AGENT = '[[agents]]\nname = "a"\nclass = "opus"\ncommand = ["true"]\n'


def problems(text: str | bytes, **files: str) -> list[str]:
    """Return the lines a person is shown; [] for a good config."""
    try:
        load("/e/c.toml", MemoryFiles({"/e/c.toml": text, **{f"/e/{name}": other for name, other in files.items()}}), USER)
    except ConfigError as exc:
        return [str(problem) for problem in exc.problems]
    return []


MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    "not TOML": ("[queue\n", ["/e/c.toml:1: is not TOML: Expected ']' at the end of a table declaration"]),
    "not TOML at its end": ('a = "', ["/e/c.toml:1: is not TOML: Unterminated string"]),
    "a key twice": ("[queue]\nmemory_max = 1\nmemory_max = 2\n", ["/e/c.toml:3: is not TOML: Cannot overwrite a value"]),
    "not UTF-8": (b'[daemon]\nowner = "\xff"\n', ["/e/c.toml:2: is not UTF-8 text"]),
    "nested without end": ("a = " + "[" * 5000 + "]" * 5000, ["/e/c.toml: is not TOML that can be read: nested too deeply"]),
    "a number of thousands of digits": (
        "a = " + "1" * 5000,
        [
            "/e/c.toml:1: is not TOML: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
            "use sys.set_int_max_str_digits() to increase the limit"
        ],
    ),
    "numbers beyond all machines": (
        f'[memory]\ntotal = "{"9" * 400}MB"\n[queue]\ndeadline = "{"9" * 400}s"\n[start]\nbatch_size = {"9" * 400}\n',
        [
            f'/e/c.toml:2: memory.total: "{"9" * 37}..." is too large',
            f'/e/c.toml:4: queue.deadline: "{"9" * 37}..." is too long',
            f"/e/c.toml:6: start.batch_size: must be a whole number of at most 1000000, not {'9' * 400}",
        ],
    ),
    "an unknown table": ("[gests]\n", ["/e/c.toml:1: gests: unknown key; did you mean `guests`?"]),
    "a misspelt key": (
        "[queue]\n\nresult_kep = 1\n",
        ["/e/c.toml:3: queue.result_kep: unknown key; did you mean `result_keep`?"],
    ),
    "a key of another table": ("[queue]\nkeep = 1\n", ["/e/c.toml:2: queue.keep: unknown key here; it belongs to [logs]"]),
    "a key before any table": ("durability = 1\n", ["/e/c.toml:1: durability: unknown key here; it belongs to [daemon]"]),
    "a key nothing is near to": (
        "[restart]\nxyz = 1\n",
        ["/e/c.toml:2: restart.xyz: unknown key; known here: base, max, intensity, window"],
    ),
    "numbers without units": (
        '[restart]\nbase = 1\n[limits]\nbody = "64"\n[class.opus]\nrate = 10\n',
        [
            '/e/c.toml:2: restart.base: must be a duration with its unit, such as "100ms", "2s", "10m" or "24h", not 1',
            '/e/c.toml:4: limits.body: must be a size with its unit, such as "300MB" or "300MiB", not "64"',
            '/e/c.toml:6: class.opus.rate: must be a rate, such as "10/min", or "" for no limit, not 10',
        ],
    ),
    "values of the wrong kind": (
        '[listen]\ntcp = "127.0.0.1:1"\n[[ollama]]\nslots = "2"\n[daemon]\nowner = ["ann"]\n[class.opus]\nweight = true\n',
        [
            '/e/c.toml:2: listen.tcp: must be a list, not "127.0.0.1:1"',
            '/e/c.toml:4: ollama[0].slots: must be a whole number, not "2"',
            "/e/c.toml:6: daemon.owner: must be text, not a list",
            "/e/c.toml:8: class.opus.weight: must be a number, not true",
        ],
    ),
    "values out of bounds": (
        "[class.opus]\npriority = 0\n[class.sonnet]\nceiling = 11\n[memory]\novercommit = 0.5\n[start]\nbatch_size = 0\n",
        [
            "/e/c.toml:2: class.opus.priority: must be a whole number of at least 1, not 0",
            "/e/c.toml:4: class.sonnet.ceiling: must be a whole number of at most 10, not 11",
            "/e/c.toml:6: memory.overcommit: must be a number of at least 1, not 0.5",
            "/e/c.toml:8: start.batch_size: must be a whole number of at least 1, not 0",
        ],
    ),
    "words that are none of the choices": (
        '[cache]\nscope = "shard"\n[daemon]\nlog_level = "loud"\n[class.opus]\nrestart = "on_failure"\ninject = ["ollama", "olama"]\n',
        [
            '/e/c.toml:2: cache.scope: must be "shared", "class" or "agent", not "shard"; did you mean `shared`?',
            '/e/c.toml:4: daemon.log_level: must be "debug", "info", "warning" or "error", not "loud"',
            '/e/c.toml:6: class.opus.restart: must be "always", "on-failure" or "no", not "on_failure"; did you mean `on-failure`?',
            '/e/c.toml:7: class.opus.inject[1]: must be "ollama", "openai" or "anthropic", not "olama"; did you mean `ollama`?',
        ],
    ),
    "tables that are no tables": (
        'queue = 3\nclass = 1\nagents = "x"\nmodels = 2\ninclude = "x"\n[daemon]\n',
        [
            "/e/c.toml:1: queue: must be a table, not 3",
            "/e/c.toml:2: class: must be tables: write [class.opus]",
            "/e/c.toml:3: agents: is a list: write [[agents]]",
            "/e/c.toml:4: models: must be a table",
            '/e/c.toml:5: include: must be a list of file names or patterns, such as ["agents.d/*.toml"]',
        ],
    ),
    "a table where a list belongs": ("[agents]\nname = 1\n", ["/e/c.toml:1: agents: is a list: write [[agents]]"]),
    "an agent that is hardly one": (
        "[[agents]]\nenv = { A = 1 }\n",
        [
            "/e/c.toml:1: agents[0].name: is missing",
            "/e/c.toml:1: agents[0].class: is missing",
            "/e/c.toml:1: agents[0].command: is missing",
            "/e/c.toml:2: agents[0].env: must be text throughout",
        ],
    ),
    "classes that are not there": (
        AGENT.replace("opus", "sonet") + AGENT.replace("opus", "owner"),
        [
            "/e/c.toml:3: agents[0].class: there is no [class.sonet]; did you mean `sonnet`?",
            '/e/c.toml:7: agents[1].class: "owner" is not a class of agents; usable are opus, sonnet',
        ],
    ),
    "keys that classes of strangers cannot have": (
        '[class.guest]\nmemory = "1GB"\nuser = "ann"\n',
        [
            "/e/c.toml:2: class.guest.memory: has no meaning for guest: we start none of them",
            "/e/c.toml:3: class.guest.user: has no meaning for guest: we start none of them",
        ],
    ),
    "a priority before its ceiling, said once and not for each of its agents": (
        "[class.opus]\npriority = 1\n" + AGENT,
        [
            "/e/c.toml:2: class.opus.priority: priority 1 comes before ceiling 2, the first it may ask for: "
            "set `ceiling` to 1 or less"
        ],
    ),
    "a priority before its ceiling": (
        "[class.opus]\npriority = 1\n",
        [
            "/e/c.toml:2: class.opus.priority: priority 1 comes before ceiling 2, the first it may ask for: "
            "set `ceiling` to 1 or less"
        ],
    ),
    "one name for two": (
        AGENT + AGENT,
        ['/e/c.toml:6: agents[1].name: "a" is an agent of /e/c.toml:1 already'],
    ),
    "many names for two each": (
        2 * (AGENT.replace('"a"', '"a-{n}"') + "count = 30\n"),
        ['/e/c.toml:7: agents[1].name: "a-1" is an agent of /e/c.toml:1 already'],
    ),
    "one name for many": (
        AGENT + "count = 3\n",
        ['/e/c.toml:2: agents[0].name: has no {n}, so 3 agents would all be "a"'],
    ),
    "templates that are none": (
        AGENT.replace('"true"', '"echo ${HOME}"') + AGENT.replace('"a"', '"b-{name}"') + AGENT.replace('"true"', '"{"'),
        [
            "/e/c.toml:4: agents[0].command: has {HOME}; usable are {n}, {class}, {name} and {n:02}, "
            "and {{ }} stand for braces that are meant",
            "/e/c.toml:6: agents[1].name: has {name}; usable are {n}, {class} and {n:02}, and {{ }} stand for braces that are meant",
            "/e/c.toml:12: agents[2].command: has a brace without its partner (Single '{' encountered in format string): "
            "write {{ or }} for one that is meant",
        ],
    ),
    "names that no file could have": (
        AGENT.replace('"a"', '"../a"') + AGENT.replace('"a"', '"owner"') + '[class."a b"]\n',
        [
            '/e/c.toml:2: agents[0].name: "../a" is not a name: letters, digits, `.`, `_` and `-`, at most 64',
            '/e/c.toml:6: agents[1].name: "owner" is kept for those who are not agents: letters, digits, `.`, `_` and `-`, at most 64',
            '/e/c.toml:9: class."a b": is not a name: letters, digits, `.`, `_` and `-`, at most 64',
        ],
    ),
    "surroundings that cannot be": (
        AGENT + 'cwd = "work"\nenv_file = "~/x"\nenv = { "A-B" = "1", AI_SUPERVISOR_RUN = "mine" }\n',
        [
            '/e/c.toml:5: agents[0].cwd: must be an absolute path, not "work"',
            '/e/c.toml:6: agents[0].env_file: must be an absolute path, not "~/x"',
            '/e/c.toml:7: agents[0].env: "A-B" is not the name of a variable',
            "/e/c.toml:7: agents[0].env: AI_SUPERVISOR_RUN is set by the supervisor: agents are told apart by it",
        ],
    ),
    "commands that run nothing": (
        AGENT.replace('["true"]', "[]") + AGENT.replace('["true"]', '"  "') + AGENT.replace('["true"]', '["a\\u0000b"]'),
        [
            "/e/c.toml:4: agents[0].command: must name a program",
            "/e/c.toml:8: agents[1].command: must not be empty",
            "/e/c.toml:12: agents[2].command: must not contain a NUL character",
        ],
    ),
    "addresses that others could reach": (
        '[listen]\ntcp = ["0.0.0.0:11435", "127.0.0.1", "127.0.0.1:1",\n "127.0.0.1:1", "example.org:1"]\n',
        [
            "/e/c.toml:2: listen.tcp[0]: 0.0.0.0 is not a loopback address: agents on other machines are not served",
            '/e/c.toml:2: listen.tcp[1]: must be an address and a port, such as "127.0.0.1:11435", not "127.0.0.1"',
            '/e/c.toml:3: listen.tcp[3]: "127.0.0.1:1" stands twice',
            "/e/c.toml:3: listen.tcp[4]: example.org is not a loopback address: agents on other machines are not served",
        ],
    ),
    "backends that cannot be called": (
        '[[ollama]]\nurl = "https://x"\nslots = 10\n',
        [
            "/e/c.toml:1: ollama[0].connections: must be more than the 10 slots: probes and metadata use some too",
            "/e/c.toml:2: ollama[0].url: https is not in effect yet: use http://",
        ],
    ),
    "a URL with a path": (
        '[[ollama]]\nurl = "http://h:1/api"\n',
        [
            '/e/c.toml:2: ollama[0].url: must be "http://host:port", "unix:///path", "embedded", "auto" or "windows", '
            'not "http://h:1/api"'
        ],
    ),
    "paths that cannot be": (
        f'[daemon]\nruntime_dir = "run"\nstate_dir = "state"\n[listen]\n[[ollama]]\nurl = "unix://x"\n# {"x" * 200}\n',
        [
            '/e/c.toml:2: daemon.runtime_dir: must be an absolute path, not "run"',
            '/e/c.toml:3: daemon.state_dir: must be an absolute path, not "state"',
            "/e/c.toml:6: ollama[0].url: must have an absolute path: unix:///run/ollama.sock",
        ],
    ),
    "a folder too deep for a socket": (
        f'[daemon]\nruntime_dir = "/{"x" * 100}"\n',
        ["/e/c.toml:2: daemon.runtime_dir: is too long for the sockets in it: at most 94 bytes, not 101"],
    ),
    "keys that contradict each other": (
        '[restart]\nbase = "2m"\n[limits]\nbody = "1GB"\n[cache.l1]\nper_agent = "1GB"\n',
        [
            "/e/c.toml:2: restart.base: is longer than max (60 s)",
            "/e/c.toml:4: limits.body: is larger than ingest, which bounds all bodies together",
            "/e/c.toml:5: cache.l1: per_agent is larger than total",
        ],
    ),
    "parts that exceed the whole": (
        '[memory]\ntotal = "8GB"\n',
        ["/e/c.toml:2: memory.total: the parts add up to 47,700 MB, more than the total of 8,000 MB"],
    ),
    "nobody left at level 3": (
        AGENT.replace("opus", "sonnet"),
        [
            "/e/c.toml: levels.priority_only: at level 3 only priorities up to 3 are admitted, and no agent here may ask for one: "
            "give a class `ceiling = 3`"
        ],
    ),
    "an engine that could not be kept": (
        '[memory]\nollama = "0B"\n[class.engine]\nuser = "ollama"\nmemory = "1GB"\n[[ollama]]\nname = "a/b"\nurl = "auto"\n'
        'command = ["", "serve"]\n' + AGENT.replace('class = "opus"', 'class = "engine"'),
        [
            "/e/c.toml:2: memory.ollama: must be more than 0: it is the cap of what `command` starts",
            "/e/c.toml:5: class.engine.memory: has no meaning for engine: its memory is [memory] ollama, and only its user can be "
            "chosen",
            "/e/c.toml:7: ollama[0].name: is not a name: letters, digits, `.`, `_` and `-`, at most 57",
            '/e/c.toml:8: ollama[0].url: must be the loopback address at which `command` is to listen, such as '
            '"http://127.0.0.1:11434", not "auto"',
            '/e/c.toml:9: ollama[0].command: must begin with a program, such as ["ollama", "serve"]',
            '/e/c.toml:12: agents[0].class: "engine" is not a class of agents; usable are opus, sonnet',
        ],
    ),
    "an engine and an agent of one name": (
        '[[ollama]]\ncommand = ["ollama", "serve"]\n' + AGENT.replace('"a"', '"engine-main"'),
        ['/e/c.toml: agents.name: "engine-main" is the name of the engine of [[ollama]] main'],
    ),
    "a supervisor that would ask itself": (
        '[listen]\ntcp = ["127.0.0.1:11434"]\n[[ollama]]\nurl = "http://localhost"\n',
        ['/e/c.toml:4: ollama[0].url: "http://localhost" is an address of [listen] tcp: the supervisor would ask itself'],
    ),
    "one that would ask itself by default": (
        '[listen]\ntcp = ["127.0.0.1:11434"]\n',
        ['/e/c.toml:2: listen.tcp: "http://127.0.0.1:11434" is an address of [listen] tcp: the supervisor would ask itself'],
    ),
    "one Ollama under two names": (
        '[[ollama]]\n[[ollama]]\nname = "b"\nurl = "http://localhost"\n[[ollama]]\nname = "c"\nurl = "auto"\n'
        '[[ollama]]\nname = "d"\nurl = "auto"\n',
        [
            '/e/c.toml:4: ollama[1].url: is the Ollama of [[ollama]] main: one Ollama given twice would be handed twice its slots',
            '/e/c.toml:10: ollama[3].url: is the Ollama of [[ollama]] c: one Ollama given twice would be handed twice its slots',
        ],
    ),
    "alerts that could never fire": (
        '[[alerts]]\nname = "slow"\nwhen = "queue.oldest > 60"\n'
        '[[alerts]]\nname = "slow queue"\nwhen = "level > 1"\n'
        '[[alerts]]\nname = "lost"\nwhen = "backend.gpu.state != \\"ready\\""\n'
        '[[alerts]]\nname = "queue-slwo"\nfor = "1m"\n[[alerts]]\nwhen = "level > 1"\n'
        '[[alerts]]\nname = "ok"\nwhen = "level >= 2"\nnotify = { url = "slack" }\n'
        '[[alerts]]\nname = "ok"\nwhen = "level >= 2"\n[notify]\ncommand = [""]\n' + AGENT,
        [
            "/e/c.toml:3: alerts[0].when: there is no figure `queue.oldest`; did you mean `queue.oldest_s`?",
            '/e/c.toml:5: alerts[1].name: is not a name: letters, digits, `.`, `_` and `-`, at most 64',
            "/e/c.toml:9: alerts[2].when: there is no [[ollama]] named `gpu`; known are main",
            "/e/c.toml:10: alerts[3].when: is missing, and no built-in alert is called `queue-slwo`; did you mean `queue-slow`?",
            "/e/c.toml:13: alerts[4].name: is missing",
            '/e/c.toml:18: alerts[5].notify.url: must begin with "https://" or "http://", not "slack"',
            '/e/c.toml:20: alerts[6].name: "ok" is the name of another',
            '/e/c.toml:23: notify.command: must begin with a program, such as ["notify-send", "ai"]',
        ],
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_config_is_told_in_full(name: str) -> None:
    text, lines = MALFORMED[name]
    assert problems(text) == lines


def test_there_are_enough_of_them() -> None:
    assert len(MALFORMED) >= 20


def test_the_original_plan_is_refused_with_its_table_and_three_ways_out() -> None:
    text = (ROOT / "config.toml").read_text()
    for key, value in (("agents", "33GB"), ("cache", "2GB"), ("monitoring", "2GB")):
        before, mark, after = text.partition(f'\n{key} = "')
        text = before + mark + value + after[after.index('"') :]
    line = 1 + text.split("\n").index('agents = "33GB"')
    (found,) = problems(text)
    assert found == "\n".join(
        [
            f"/e/c.toml:{line}: memory.agents: the caps of the agents add up to 35,120 MB, their part of the machine is 33,000 MB",
            "                                        MB       MiB",
            "    os                               3,000     2,861",
            "    ollama                           8,000     7,629",
            "    cache                            2,000     1,907",
            "    monitoring                       2,000     1,907",
            "    agents                          33,000    31,471",
            "    left of total 48,000 MB              0         0",
            "",
            "    36 x opus at 300 MB             10,800    10,300",
            "    95 x sonnet at 256 MB           24,320    23,193",
            "    all caps                        35,120    33,493",
            "    OVER the agents' part by         2,120     2,022",
            "",
            "    three ways out:",
            '    1. give the agents more: [memory] agents = "35.2GB", and 2,200 MB less for os, ollama, cache or monitoring '
            "(or a larger total)",
            '    2. make the caps smaller: [class.opus] memory = "281MB", [class.sonnet] memory = "240MB"',
            "    3. say that it is meant: [memory] overcommit = 1.07; if all fill their caps at once, some are killed",
        ]
    )


def test_caps_are_added_up_even_where_an_agent_has_other_problems() -> None:
    found = problems('[memory]\nagents = "1GB"\n[[agents]]\nname = "{n}"\nclass = "opus"\ncount = 4\n')
    assert [line.partition("\n")[0] for line in found] == [
        "/e/c.toml:2: memory.agents: the caps of the agents add up to 1,200 MB, their part of the machine is 1,000 MB",
        "/e/c.toml:3: agents[0].command: is missing",
    ]


# --- several files ------------------------------------------------------------------------------------------------------


def test_a_missing_main_file_is_one_clear_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load("/e/c.toml", MemoryFiles({}), USER)
    assert str(caught.value) == "/e/c.toml: /e/c.toml cannot be read: No such file or directory"


def test_problems_of_all_files_come_together_each_with_its_place() -> None:
    found = problems(
        'include = ["a.toml", "b.toml", "gone.toml", "agents.d/*.toml"]\n[queue]\ndeadline = "1s"\n[class.x]\n[y]\n',
        **{"a.toml": '[queue]\nincludes = []\n[class.x]\n', "b.toml": "[", "agents.d/1.toml": 'include = ["x"]\n' + AGENT + AGENT},
    )
    assert found == [
        "/e/c.toml:1: include[2]: there is no /e/gone.toml",
        "/e/c.toml:5: y: unknown key; known here: include, daemon, listen, web, memory, start, guests, restart, queue, limits, breaker, "
        "cache, levels, gpu, isolation, rollout, logs, retention, notify, class, models, agents, ollama, alerts",
        "/e/a.toml:1: queue: stands in /e/c.toml:2 already",
        "/e/a.toml:3: class.x: stands in /e/c.toml:4 already",
        "/e/agents.d/1.toml:1: include: may stand only in /e/c.toml",
        '/e/agents.d/1.toml:7: agents[1].name: "a" is an agent of /e/agents.d/1.toml:2 already',
        "/e/b.toml:1: is not TOML: Invalid initial character for a key part",
    ]


# --- keys without effect ------------------------------------------------------------------------------------------------


def test_the_keys_without_effect_are_these() -> None:
    # Later work shortens this list. A key that gets longer here is a promise that was broken.
    assert NOT_IN_EFFECT == ()


def test_a_key_without_effect_may_stand_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effect, "NOT_IN_EFFECT", ("gpu.unload_at",))
    assert problems("[gpu]\nunload_at = 0.9\n") == []
    assert problems("[gpu]\nunload_at = 0.5\n") == ["/e/c.toml:2: gpu.unload_at: not in effect yet: leave it at its default"]


def test_the_page_is_for_this_machine() -> None:
    assert problems('[web]\nlisten = "[::1]:8788"\n') == []
    assert problems('[web]\nlisten = "0.0.0.0:8787"\n') == [
        "/e/c.toml:2: web.listen: 0.0.0.0 is not a loopback address: the page is for this machine, and a tunnel brings it to another"
    ]
    assert problems('[web]\nlisten = "8787"\n') == [
        '/e/c.toml:2: web.listen: must be an address and a port, such as "127.0.0.1:8787", not "8787"'
    ]
    assert problems('[web]\nlisten = "127.0.0.1:11435"\n') == [
        '/e/c.toml:2: web.listen: "127.0.0.1:11435" is an address of [listen] tcp'
    ]


def test_one_value_of_a_key_may_lack_effect_while_others_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effect, "NOT_IN_EFFECT", ("class.X.ready=notify",))
    assert lacks_effect("class.X.ready", "notify", "alive")
    assert not lacks_effect("class.X.ready", "request", "alive")


# --- whatever the file holds --------------------------------------------------------------------------------------------


def test_every_key_with_every_odd_value_ends_in_a_problem_or_a_config() -> None:
    odd = ["true", "-1", "nan", "inf", "1e400", '""', '"\\u0000"', "[]", "{}", "[[]]", "1979-05-27", '"x"', "99999999999999999999"]
    shipped = tomli.loads((ROOT / "config.toml").read_text())
    tables = [(name, table) for name, table in shipped.items() if isinstance(table, dict) and name != "class"]
    for name, table in tables:
        for key in table:
            for value in odd:
                problems(f"[{name}]\n{key} = {value}\n")
    for key in ("name", "class", "count", "command", "cwd", "env", "env_file", "every", "external", "memory", "inject", "user"):
        for value in odd:
            problems(f"[[agents]]\n{key} = {value}\n")
            problems(f"[class.x]\n{key} = {value}\n")
    for value in odd:
        problems(f"agents = {value}\n")
        problems(f"agents = [{value}]\n")
        problems(f"class.x = {value}\n")
        problems(f"models.x = {value}\n")
        problems(f"include = [{value}]\n")
        problems(f"alerts = [{value}]\n")
        problems(f"ollama = [{value}]\n")
