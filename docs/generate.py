"""Writes docs/reference/ from the code: `python -m docs.generate`. A test holds the files against what this would write.

Names, types, bounds, defaults, texts and blame come from the code itself; what a thing means stands once: of keys in
config/meaning.py, of metrics in their help, of the rest in the tables below, which must name exactly what the code has.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from supervisord_ai.cli.exits import Exit
from supervisord_ai.config.effect import NOT_IN_EFFECT
from supervisord_ai.config.load import WEB_DEFAULT
from supervisord_ai.config.meaning import MEANING
from supervisord_ai.config.reading import nested_table
from supervisord_ai.config.schema import (
    LIST_TABLES,
    SINGLE_TABLES,
    AgentTable,
    AlertTable,
    ClassTable,
    ModelsTable,
    ModelTable,
    OllamaTable,
    Table,
)
from supervisord_ai.config.units import Duration, Rate, Size
from supervisord_ai.config.values import Config, DaemonPolicy
from supervisord_ai.config.writing import sections_of, toml_value
from supervisord_ai.control.metrics import _PARTS, PREFIX
from supervisord_ai.core.policies import BackendSpec, ModelPolicy, ModelsPolicy
from supervisord_ai.core.relief import Deed
from supervisord_ai.core.roster import CLASS_DEFAULTS, ClassPolicy
from supervisord_ai.core.verdict import LOST, OOM_OWN_CAP, OOM_RLIMIT, Blame, blame

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent / "reference"
CODE = ROOT / "supervisord_ai"


@cache
def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    made = {"config.md": config(), "errors.md": errors(), "events.md": events(), "metrics.md": metrics(), "verdicts.md": verdicts()}
    note = "<!-- Made by `python -m docs.generate`; change the code, not this file. -->\n"
    return {name: note + text for name, text in made.items()}


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def head(*names: str) -> str:
    return row(*names) + row(*("---" for _ in names))


# --- the config -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str
    kind: str
    default: str


def config_keys() -> list[Key]:
    """Return every key of every table, in the order of the schema."""
    plain = Config(DaemonPolicy("", "", ""), web_listen=WEB_DEFAULT)
    own_defaults: list[tuple[str, type[Table], object]] = [
        *((name, kind, policy) for name, kind, policy in sections_of(plain)),
        ("class.X", ClassTable, ClassPolicy("X")),
        ("models", ModelsTable, ModelsPolicy()),
        ("models.X", ModelTable, ModelPolicy()),
        ("ollama", OllamaTable, BackendSpec()),
        ("agents", AgentTable, None),
        ("alerts", AlertTable, None),
    ]
    assert {name for name, _, _ in own_defaults} >= {*SINGLE_TABLES, *LIST_TABLES}
    found = [Key("include", "list of file names", '`["agents.d/*.toml"]` in the shipped file')]
    for table, kind, policy in own_defaults:
        for field in msgspec.structs.fields(kind):
            is_of_class = kind is AgentTable and field.name in ClassTable.__struct_fields__
            if is_of_class or (nested_table(field.type) is not None and kind is not AlertTable):
                continue
            value = getattr(policy, field.name, None)
            written = None if value is None else toml_value(value, field.type)
            found.append(Key(f"{table}.{field.encode_name}", kind_of(field.type), "" if written in {None, '""'} else f"`{written}`"))
    return found


def kind_of(kind: Any) -> str:
    """Return what may be written for a key."""
    if get_origin(kind) in {Union, types.UnionType}:
        (kind,) = (one for one in get_args(kind) if one is not msgspec.UnsetType)
    if get_origin(kind) is Annotated:
        of, bounds = get_args(kind)
        least, most = bounds.ge, bounds.le
        return f"{'whole number' if of is int else 'number'}, {least:g} to {most:,g}" if most < 1e6 else f"whole number from {least}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {kind_of(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers"
    if get_origin(kind) is dict:
        return "table of texts"
    for of, word in ((StrEnum, ""), (Size, "size"), (Duration, "duration"), (Rate, "rate"), (bool, "true, false"), (Table, "table")):
        if isinstance(kind, type) and issubclass(kind, of):
            return word or ", ".join(f"`{one}`" for one in kind)
    return {str: "text"}.get(kind, "text or list of texts")


def config() -> str:
    text = (
        "# Every key of the config\n\n"
        "Sizes are written `\"300MB\"` (decimal) or `\"300MiB\"` (binary), durations `\"100ms\"`, `\"2s\"`, `\"10m\"`, `\"24h\"`, rates "
        "`\"10/min\"`. An unknown key is an error, and so is a key that has no effect yet and is not at its default.\n"
        "`ai-supervisor config show` prints every key with the value that it has.\n"
    )
    section = ""
    for key in config_keys():
        table = key.name.rpartition(".")[0]
        if table != section:
            section = table
            brackets = f"[[{table}]]" if table in LIST_TABLES else f"[{table}]"
            text += f"\n## {brackets}\n\n"
            if table == "agents":
                text += "Every key of a class may be set here too, for these agents alone.\n\n"
            text += head("key", "what may stand there", "default", "what it does")
        elif not text.endswith("|\n"):
            text += "\n" + head("key", "what may stand there", "default", "what it does")
        effect = " **Has no effect yet.**" if key.name in NOT_IN_EFFECT else ""
        text += row(f"`{key.name.rpartition('.')[2]}`", key.kind, key.default, MEANING[key.name] + effect)
    return text + _class_defaults()


def _class_defaults() -> str:
    """The classes that are always there, as far as they differ from one that its owner names."""
    text = "\n## Classes that are always there\n\n" + head("class", "differs from the defaults above by")
    plain = ClassPolicy("X")
    for name, policy in CLASS_DEFAULTS.items():
        fields = [field for field in msgspec.structs.fields(ClassTable) if getattr(policy, field.name) != getattr(plain, field.name)]
        own = (f"`{field.encode_name} = {toml_value(getattr(policy, field.name), field.type)}`" for field in fields)
        text += row(name, ", ".join(own))
    return text


# --- verdicts --------------------------------------------------------------------------------------------------------------

VERDICTS = {
    "finished": "It ended with 0.",
    "stopped:REASON": "We ended it: `shutdown`, `removed` from the roster, `watchdog` (it promised heartbeats and sent none), "
    "a command of the owner, a rollout, shedding. Only `watchdog` is held against it.",
    "oom:own-cap": "It needed more than its own memory cap.",
    "oom:fleet": "All agents together reached their limit; it was below its own.",
    "oom:vm": "The machine had no memory left; it was below its own cap.",
    "oom:systemd-oomd": "systemd-oomd took it, for the pressure on the machine.",
    "oom:rlimit(likely)": "Without cgroups: it ended with an error, and its last lines speak of memory.",
    "killed:external": "SIGKILL, and neither we nor an OOM killer sent it.",
    "crash:SIGNAL": "A signal ended it: `crash:SEGV`, `crash:ABRT` ...",
    "exit:N": "It ended with this code.",
    "exit:unknown(adopted)": "It was started by an earlier supervisor, and this kernel tells its status to nobody else (6.15 does).",
    "failed:cage": "It could not be given a memory cap, or a copy of it could not be ended. It did not run.",
    "failed:exec": "Its command could not be executed. It did not run.",
    "lost-while-down": "It ran when a supervisor was last here, and nothing of it is left.",
}
_WHOSE = {
    Blame.NOBODY: "nobody's",
    Blame.ITSELF: "its own: it counts towards quarantine",
    Blame.OURS: "ours: nothing is held against it",
    Blame.MACHINE: "the machine's: nothing is held against it",
}


def verdict_words() -> set[str]:
    """Return every verdict that the code can give, with what varies in capitals."""
    found = {LOST, OOM_OWN_CAP, OOM_RLIMIT}
    for name, nodes in (("Verdict", trees("core/verdict.py")), ("SpawnFailed", trees("agents", "host"))):
        for call in calls(nodes, name):
            match call.args[:1]:
                case [ast.Constant(value=str(word))]:
                    found.add(word)
                case [ast.JoinedStr(values=[ast.Constant(value=str(word)), *_])]:
                    found.add(word + {"stopped:": "REASON", "crash:": "SIGNAL", "exit:": "N"}[word])
    return found


def verdicts() -> str:
    text = (
        "# Verdicts: why an agent ended\n\n"
        "Every end of an agent has exactly one, from what we had written down, the kernel's counters and the exit status. "
        "`ai-supervisor agents show NAME` has it with the peak of its memory and its last lines; `agent.ended` events keep it.\n\n"
    ) + head("verdict", "what happened", "whose doing")
    for word, words in VERDICTS.items():
        text += row(f"`{word}`", words, _WHOSE[blame(word.replace("REASON", "shutdown"))])
    return text + (
        "\n`after=gateway` beside a verdict: it gave up within 10 s of a refusal or a cut of ours, so it is not held against it. "
        "A process inside an agent that is killed at the cap while the agent lives on is no verdict, but an `agent.child-killed` event.\n"
    )


# --- events ----------------------------------------------------------------------------------------------------------------

EVENTS = {
    "daemon.started": "The daemon serves; if nobody supervised before, from when to when and why.",
    "daemon.stopped": "The daemon is being stopped, and by what.",
    "agent.started": "A generation of an agent runs.",
    "agent.adopted": "An agent that outlived a supervisor was taken over.",
    "agent.ready": "It is ready, as its class says.",
    "agent.ended": "It ended, with its verdict.",
    "agent.child-killed": "A process inside it was killed at its cap; it lives on.",
    "agent.would-exceed": "It needed more than its cap, which is only observed.",
    "agent.quarantined": "It ended too often and is not started until its trial, or `agents release`.",
    "agent.shed": "It was stopped to give memory back.",
    "agent.restored": "It is started again after that.",
    "backend.STATE": "An Ollama was found (`ready`) or lost (`unreachable`).",
    "backend.restarted": "An Ollama hung and was restarted.",
    "backend.slot-lost": "An Ollama has perhaps lost a slot; the model is unloaded and loaded once.",
    "breaker.STATE": "The breaker of an Ollama is `open`, `half-open` or `closed`.",
    "bypass": "Somebody called an Ollama past the queue.",
    "request.lost": "An accepted request will not be answered, and why.",
    "request.poisoned": "A request ended whoever ran it, twice; it is not tried again.",
    "request.recovered": "So many requests of the supervisor before are back in the queue.",
    "level.changed": "Another level holds, and why.",
    "memory.DEED": "Memory was short and something was done about it, or taken back: ",
    "model.unloaded": "A model was unloaded for want of graphics memory.",
    "model.not-unloaded": "That failed.",
    "model.slow": "A model is much slower than usual.",
    "model.fast-again": "It is as fast as usual again.",
    "model.fell-to-cpu": "A model does not run on the GPU any more; what to do.",
    "model.back-on-gpu": "It does again.",
    "rollout.STATE": "A rollout began, paused, turned back or ended.",
    "alert.CHANGE": "An alert fires (`firing`) or is over.",
    "owner.VERB": "The owner did something over control.sock: `owner.agent.stop`, `owner.queue.pause`, `owner.config.reload` ...",
}
# What varies: the beginning of an f-string in the code, and its word above.
_VARIES = {
    "backend.": "STATE",
    "breaker.": "STATE",
    "memory.": "DEED",
    "rollout.": "STATE",
    "alert.": "CHANGE",
    "owner.": "VERB",
}


def event_kinds() -> set[str]:
    """Return every kind that the code writes, with what varies in capitals; those of the owner are one."""
    found = set()
    nodes = trees("control/chronicle.py", "gateway/vram.py", "health/alerts.py", "rooms.py", "daemon.py")
    found |= {f"owner.{_VARIES['owner.']}" for call in calls(trees("control/verbs.py"), "note") if isinstance(call.args[0], ast.JoinedStr)}
    for call in (*calls(nodes, "_note"), *calls(nodes, "note")):
        for node in possible(call.args[:1], nodes):
            match node:
                case ast.Constant(value=str(kind)):
                    found.add(kind)
                case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
                    found.add(start + _VARIES[start])
    return found


def possible(args: list[ast.expr], nodes: list[ast.AST]) -> Iterator[ast.expr]:
    """Yield what an argument can be: itself, both sides of a choice, or what its variable is set to."""
    for node in args:
        match node:
            case ast.IfExp(body=body, orelse=orelse):
                yield body
                yield orelse
            case ast.Name(id=name):
                for other in nodes:
                    if isinstance(other, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in other.targets):
                        yield from possible([other.value], [])
            case _:
                yield node


def events() -> str:
    deeds = ", ".join(f"`memory.{word}`" for word in relief_words())
    text = (
        "# Events\n\n"
        "`ai-supervisor events` shows them, `--follow` as they happen, `--kind agent` those that begin with it; they are kept for "
        "`retention.events`. `owner.*` is said by the owner, all else is found by the daemon.\n\n"
    ) + head("kind", "what happened")
    for kind, words in EVENTS.items():
        text += row(f"`{kind}`", words + (f"{deeds}." if kind == "memory.DEED" else ""))
    return text


def relief_words() -> list[str]:
    """Return the words of what is done about memory and told as such; agents that are shed have an event each."""
    words = [str(deed.word) for deed in get_args(Deed)]
    return [word for word in words if word not in {"agents-shed", "agent-restored"}]


# --- metrics ---------------------------------------------------------------------------------------------------------------


def metric_rows() -> list[tuple[str, str, str, str]]:
    """Return every family: name, kind, labels, help."""
    found = []
    for function in trees("control/metrics.py"):
        if not isinstance(function, ast.FunctionDef) or function.name in {"_gauge", "_counter", "_histogram"}:
            continue
        lists = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List) and node.value.elts
            and all(isinstance(one, ast.Constant) for one in node.value.elts)
        }
        for kind in ("gauge", "counter", "histogram"):
            for call in calls(list(ast.walk(function)), f"_{kind}"):
                labels = call.args[2] if len(call.args) > 2 else ast.List([])
                names = lists[labels.id] if isinstance(labels, ast.Name) else ast.literal_eval(labels)
                match call.args[:2]:
                    case [ast.Constant(value=str(name)), ast.Constant(value=str(words))]:
                        found.append((name, kind, ", ".join(names), words))
                    case _:  # the one that is made for each part of a request
                        found += [(f"request_{part.value}_seconds", kind, ", ".join(names), words) for part, words in _PARTS.items()]
    return found


def metrics() -> str:
    text = (
        "# Metrics\n\n"
        "`GET /metrics` of control.sock, `ai-supervisor metrics`. Base units; counters end in `_total`, histograms have `_bucket`, "
        "`_sum` and `_count`. A name that was scraped once keeps its meaning; labels have bounded values, and a model that is neither "
        "installed nor in the config is `other`.\n\n"
    ) + head("name", "kind", "labels", "what it says")
    for name, kind, labels, words in metric_rows():
        text += row(f"`{PREFIX}{name}{'_total' if kind == 'counter' else ''}`", kind, labels, words)
    return text


# --- errors ----------------------------------------------------------------------------------------------------------------

EXITS = {
    Exit.GOOD: "All is well.",
    Exit.NO: "Degraded, or the answer is no: something failed that was tried. The line on stderr says what.",
    Exit.USAGE: "The command or the config is wrong, and nothing was done. Every mistake of a config is told at once.",
    Exit.NOT_RUNNING: "No daemon answers. The line on stderr says how to start one.",
    Exit.REFUSED: "The daemon said no, and why.",
    Exit.INTERRUPTED: "^C.",
}
# What a status means when it is ours and not Ollama's, and what a caller or the owner does about it.
STATUSES = {
    204: ("Nothing to say (OPTIONS).", "Nothing."),
    400: ("The request cannot be understood, or asks for what this model or context cannot give.", "Change the request."),
    403: ("It is understood and not allowed: administration by an agent, names that leave the machine, a foreign Host or Origin.",
          "Models are managed by the owner: `ai-supervisor models list`."),
    404: ("There is no such route, request or model. Another agent's request is a 404 too.", "Check the name."),
    405: ("The route has no such method; `Allow` has those it has.", "Change the method."),
    408: ("The request did not come within its time.", "Send it at once."),
    409: ("It cannot be done now; the text says why.", "Do what the text says."),
    411: ("A body without its length.", "Send Content-Length, or chunks."),
    413: ("The body is larger than `limits.body`.", "Send less, or raise it."),
    415: ("The body is packed in a way that is not unpacked here.", "gzip, or plain."),
    422: ("This Idempotency-Key was used with another request; of control.sock: the config is wrong.", "Take a new key."),
    429: ("Over its rate (`over_rate = \"reject\"`), or too many of its requests wait.", "Come back after Retry-After."),
    431: ("The head is larger than `limits.headers`.", "Send less."),
    500: ("A fault of ours.", "The daemon's log has it; please report it."),
    501: ("Ollama has it, and we do not carry it.", "Call Ollama itself."),
    502: ("Ollama cannot be reached, or answered with what is no answer.", "`ai-supervisor status` says which, `doctor` why."),
    503: ("Not now: the deadline cannot be met, level 3, a drained queue, or full.", "Come back after Retry-After."),
    504: ("Its deadline passed while it waited, or Ollama was silent.", "Ask with a later X-AI-Deadline, or asynchronously."),
    505: ("No HTTP/1.", "Speak HTTP/1.1."),
}


def refusals() -> dict[int, set[str]]:
    """Return the texts of our own refusals, by status, as far as they stand in the code; `{}` is what varies."""
    found: dict[int, set[str]] = {}
    for path in sorted(file for room in ("gateway", "serve", "control", "wire", "core") for file in (CODE / room).rglob("*.py")):
        nodes = nodes_of(path)
        assert isinstance(nodes[0], ast.Module)
        constants = {
            node.targets[0].id: node.value.value
            for node in nodes[0].body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant)
        }
        for call in calls(list(nodes), "Refused"):
            if not call.args or not isinstance(call.args[0], ast.Constant):
                continue
            status = int(call.args[0].value)  # type: ignore[arg-type]
            texts = found.setdefault(status, set())
            match call.args[1:2]:
                case [ast.Constant(value=str(text))] if text:
                    texts.add(text)
                case [ast.Name(id=name)] if isinstance(constants.get(name), str):
                    texts.add(str(constants[name]))
                case [ast.JoinedStr() as joined]:
                    texts.add("".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in joined.values))
    return {status: {text for text in texts if text.strip("{}: ")} for status, texts in found.items()}


def errors() -> str:
    text = "# Errors\n\n## Exit codes of every command\n\n" + head("code", "what it means")
    for code, words in EXITS.items():
        text += row(str(int(code)), words)
    text += (
        "\n`exec` ends as its command ended. A traceback is never shown; `AI_SUPERVISOR_TRACEBACK=1` asks for one.\n\n"
        "## HTTP: what is refused by us\n\n"
        "Ollama's own errors pass as they are. Ours have the form of the face that was called (`{\"error\": ...}` for Ollama's), and "
        "`Retry-After` (at most 60) where it makes sense to come back.\n\n"
    ) + head("status", "what it means", "what to do")
    told = refusals()
    for status, (words, deed) in STATUSES.items():
        text += row(str(status), words, deed)
    text += "\n## Their texts\n\n`{}` stands for what varies. Texts that are Ollama's own words are among them.\n"
    for status in sorted(told):
        if told[status]:
            text += f"\n**{status}**\n\n" + "".join(f"- {one}\n" for one in sorted(told[status]))
    return text


# --- the code ----------------------------------------------------------------------------------------------------------------


def trees(*rooms: str) -> list[ast.AST]:
    """Return every node of files, or of all files in folders, of the package."""
    files = [file for room in rooms for file in (sorted((CODE / room).rglob("*.py")) if not room.endswith(".py") else [CODE / room])]
    return [node for file in files for node in nodes_of(file)]


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    """Return every node of a file, the module first."""
    return tuple(ast.walk(ast.parse(file.read_text())))


def calls(nodes: list[ast.AST], name: str) -> list[ast.Call]:
    """Return the calls of a function or a method of this name that have an argument."""
    return [
        node
        for node in nodes
        if isinstance(node, ast.Call)
        and node.args
        and name == (node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None))
    ]


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for page, content in pages().items():
        (HERE / page).write_text(content)
