"""The grammar of the command line. Imports nothing that takes time: every command pays for this file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from supervisord_ai import __version__
from supervisord_ai.cli.kinds import at_once, count, days, last_lines, lines, pin_time, port
from supervisord_ai.cli.screen import WIDTH, columns

_CHOICE = re.compile(r"invalid choice: '(?P<word>.*?)' \(choose from (?P<known>.*)\)$")
_UNRECOGNIZED = "unrecognized arguments: "


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, told how wide the terminal is. It would import shutil to find out, once for every argument there is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(columns() or WIDTH) - 2)


class Parser(argparse.ArgumentParser):
    """argparse that says what was probably meant, and does not guess at shortened options."""

    # What stands behind `--` is somebody else's command, in `words`. A REMAINDER would take our options after a NAME too.
    ends_in_words = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        if match := _CHOICE.search(message):
            known = re.findall(r"'([^']*)'", match["known"])
            message = f"there is no `{match['word']}`{meant(match['word'], known) or ': choose from ' + ', '.join(known)}"
        elif message.startswith(_UNRECOGNIZED):
            word = message.removeprefix(_UNRECOGNIZED).split(maxsplit=1)[0]
            message = f"unknown argument `{word}`{meant(word, self._option_string_actions)}"
        elif message.startswith("the following arguments are required: "):
            message = message.replace("the following arguments are required: ", "this is missing: ")
        self.exit(2, f"{self.prog}: {message}\ntry: {self.prog} --help\n")

    def format_help(self) -> str:
        from supervisord_ai.cli import examples  # noqa: PLC0415 - only who asks for help pays for it

        self.epilog = examples.below(self.prog.partition(" ")[2]) or self.epilog
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self.ends_in_words or "--" not in args:
            return super().parse_known_args(args, namespace)
        at = args.index("--")
        known, extra = super().parse_known_args(args[:at], namespace)
        known.words = args[at + 1 :]
        return known, extra

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, extra = self.parse_known_args(args, namespace)
        if extra:
            # The parser of the command knows its options; the top one, which argparse asks, does not.
            getattr(known, "parser", self).error(_UNRECOGNIZED + " ".join(extra))
        return known


def meant(word: str, known: Any) -> str:
    """Return "; did you mean ...?" where something known is near."""
    import difflib  # noqa: PLC0415 - nobody who types well pays for it

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def build_parser(first: str = "") -> Parser:
    """Return the whole grammar; where the first word is a command, the part of it that has this one: the whole takes 10 ms."""
    parser = Parser(
        prog="ai-supervisor",
        description="Supervises AI agents and is their only door to Ollama.",
        epilog="exit codes: 0 good, 1 degraded or no, 2 usage or bad config, 3 daemon not running, 4 refused by the daemon",
    )
    parser.add_argument("--version", action="version", version=f"ai-supervisor {__version__}")
    # With `prog` said, argparse formats no usage to find it, for which it would import shutil and all that packs files.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog=parser.prog)
    for add in [add for add, names in PARTS if first in names] or [add for add, _ in PARTS]:
        add(commands)
    return parser


def _add_running(commands: Any) -> None:
    run = _command(commands, "run", "run", "start the daemon and the fleet; ends with TERM or ^C", config=True)
    run.add_argument(
        "--accept-smaller-machine", action="store_true", help="run although this machine has less memory than the plan gives away"
    )

    # For tests, the demo and people who look into things: not part of what is promised.
    run.add_argument("--cages", choices=["auto", "v2", "v1", "none"], default="auto", help=argparse.SUPPRESS)
    run.add_argument("--engine-ledger", metavar="FILE", help=argparse.SUPPRESS)
    run.add_argument("--engine-model", metavar="FILE", help=argparse.SUPPRESS)
    run.add_argument("--rehearsal", action="store_true", help=argparse.SUPPRESS)

    trial = _command(commands, "try", "trial", "run one command as an agent, with a throw-away daemon and no config")
    where = trial.add_mutually_exclusive_group()
    where.add_argument("--ollama", metavar="URL", help="the Ollama to use (default: the one that url = \"auto\" finds)")
    where.add_argument("--engine", choices=["embedded"], help="use the embedded engine (ai-supervisor engine install)")
    trial.add_argument("--memory", metavar="SIZE", default="1GB", help="the agent's memory cap (default: 1GB)")
    trial.add_argument("--env", metavar="NAME[=VALUE]", action="append", default=[], help="give the agent this variable too")
    trial.add_argument("--json", action="store_true", help="print the summary as JSON")
    trial.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD ...", help="the command")

    words = "run one command of yours as one of the fleet: its cap, its identity, its verdict; your terminal and its exit code"
    wrapped = _command(commands, "exec", "exec", words, config=True)
    wrapped.add_argument("--name", metavar="NAME", help="who it is: an external agent of the config, or with --class any name")
    wrapped.add_argument("--class", dest="agent_class", metavar="CLASS", help="its class (default: the only one there is)")
    wrapped.ends_in_words = True
    wrapped.set_defaults(words=[])
    wrapped.usage = f"{wrapped.prog} [-h] [--name NAME] [--class CLASS] -- CMD ..."

    demo = _command(commands, "demo", "demo", "131 agents, two slots, a real model: see it work")
    demo.add_argument("--kill", action="store_true", help="kill -9 the daemon after the 100th answer (or KILL=1)")
    demo.add_argument("--storm", action="store_true", help="climb all levels and come back: what is decided when")
    demo.add_argument("--engine", metavar="URL", help="use a real Ollama instead of the embedded engine (or ENGINE=URL)")
    demo.add_argument("--model", metavar="NAME", help="the model to ask (or MODEL=NAME)")
    demo.add_argument("--json", action="store_true", help="print the table as JSON")

    _command(commands, "stop", "stop", "stop the fleet and the daemon", config=True).add_argument(
        "--no-wait", action="store_true", help="do not wait until it is gone"
    )


def _add_looks(commands: Any) -> None:
    status = _command(commands, "status", "status", "show everything on one screen", config=True, json=True)
    status.add_argument("--watch", action="store_true", help="show it anew every second, until ^C")

    health = _command(commands, "health", "health", "say whether all is well: exit code 0, 1 or 3", config=True, json=True)
    health.add_argument("--once", action="store_true", help="check once and exit (the default)")

    events = _command(commands, "events", "events", "what happened, oldest first", config=True, json=True)
    events.add_argument("-n", "--lines", type=lines, default=50, metavar="N", help="the last N (default: 50)")
    events.add_argument("-f", "--follow", action="store_true", help="go on as they happen, until ^C")
    events.add_argument("--since", metavar="WHEN", help="from then on: 10m, 2h, 1d, 07:30, 2026-11-27 07:30")
    events.add_argument("--agent", metavar="AGENT", help="only of this agent")
    events.add_argument("--kind", metavar="KIND", help="only of this kind: agent, agent.ended, breaker, level, owner ...")


def _add_agents(commands: Any) -> None:
    agents = _group(commands, "agents", "list, show, read and add agents")
    listed = _command(agents, "list", "agents", "one line for each agent", config=True, json=True, action="list")
    listed.add_argument("--class", dest="agent_class", metavar="CLASS", help="only this class")
    listed.add_argument("--state", metavar="STATE", help="only agents in this state")
    listed.add_argument("--names", action="store_true", help="their names alone, one a line")
    listed.add_argument("--watch", action="store_true", help="show it anew every second, until ^C")
    show = _command(agents, "show", "agents", "everything about one agent", config=True, json=True, action="show")
    show.add_argument("name", metavar="AGENT")
    logs = _command(agents, "logs", "agents", "what agents wrote", config=True, action="logs")
    logs.add_argument("name", metavar="AGENT", help="its name, or a pattern: 'sonnet-*' shows all of them, line by line")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it writes, until ^C")
    logs.add_argument("-n", "--lines", type=last_lines, default=50, metavar="N", help="the last N lines (default: 50)")

    scale = _command(agents, "scale", "agents", "have more or fewer agents of an entry", config=True, json=True, action="scale")
    scale.add_argument("name", metavar="NAME", help="the entry: its class, or its agents' names as a pattern ('sonnet-*')")
    scale.add_argument("count", metavar="COUNT", type=count, help="how many; the highest numbers go, the lowest come")

    token = _command(agents, "token", "agents", "what an external agent shows to be known", config=True, action="token")
    token.add_argument("name", metavar="NAME")
    token.add_argument("--env", action="store_true", help="all its variables, as NAME=VALUE lines")
    add = _command(agents, "add", "agents", "add an agent to the config", config=True, action="add")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--class", dest="agent_class", metavar="CLASS", required=True, help="its class")
    add.add_argument("--memory", metavar="SIZE", help="its memory cap (default: its class's)")
    add.add_argument("--cwd", metavar="DIR", help="where it runs")
    add.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], help="a variable for it")
    add.add_argument("--env-file", metavar="FILE", help="a file of NAME=VALUE lines for it, readable by its owner alone (0600)")
    add.add_argument("--external", action="store_true", help="it is started by others: it gets an identity and a token")
    add.ends_in_words = True
    add.set_defaults(words=[])
    add.usage = f"{add.prog} [-h] [OPTIONS] NAME --class CLASS -- CMD ..."

    for verb, words in (
        ("start", "start agents that rest"),
        ("stop", "end agents, and leave them down"),
        ("restart", "end agents and start them again"),
        ("release", "let agents out of quarantine"),
    ):
        one = _command(agents, verb, "verbs", words, config=True, json=True, action=verb)
        one.add_argument("name", metavar="AGENT", help="its name, or a pattern: 'sonnet-*'")


def _add_work(commands: Any) -> None:
    queue = _group(commands, "queue", "look at the backlog and rule it")
    listed = _command(queue, "list", "queue", "who runs and who waits, in order", config=True, json=True, action="list")
    listed.add_argument("-n", "--lines", type=lines, default=50, metavar="N", help="of those who wait the first N (default: 50)")
    listed.add_argument("--watch", action="store_true", help="show it anew every second, until ^C")
    for verb, words in (("show", "why one request waits"), ("cancel", "take a request out of the queue, or off its slot")):
        one = _command(queue, verb, "queue", words, config=True, json=True, action=verb)
        one.add_argument("id", metavar="REQUEST", help="its id, as `queue list` shows it")
    _command(queue, "pause", "queue", "start nothing more; callers wait", config=True, json=True, action="pause")
    drain = _command(queue, "drain", "queue", "take in nothing more; work off what waits", config=True, json=True, action="drain")
    drain.add_argument("--wait", action="store_true", help="return when nobody waits and nobody runs")
    _command(queue, "resume", "queue", "end a pause or a drain", config=True, json=True, action="resume")

    _command(commands, "metrics", "metrics", "print what Prometheus would scrape", config=True)
    dashboards = _group(commands, "dashboards", "what Grafana and Prometheus can be given")
    export = _command(dashboards, "export", "dashboards", "write the dashboards and the alert rules into a folder")
    export.add_argument("folder", metavar="DIR", help="made when it is not there")

    models = _group(commands, "models", "the models of every Ollama")
    _command(models, "list", "models", "which are installed", config=True, json=True, action="list")
    _command(models, "loaded", "models", "which are loaded", config=True, json=True, action="loaded")
    for verb, words in (
        ("load", "load a model; returns when it is loaded"),
        ("unload", "let its calls end, then unload it; returns when it is gone"),
        ("pull", "download a model"),
        ("rm", "delete a model from the disk"),
    ):
        one = _command(models, verb, "models", words, config=True, json=True, action=verb)
        one.add_argument("model", metavar="MODEL")
        if verb == "rm":
            one.add_argument("--yes", action="store_true", help="it is meant")

    level = _group(commands, "level", "how much the machine holds back, and why")
    words = "what is pressed, which level holds, what each level changes"
    _command(level, "show", "level", words, config=True, json=True, action="show")
    pin = _command(level, "pin", "level", "hold a level whatever the machine says", config=True, json=True, action="pin")
    pin.add_argument("level", metavar="LEVEL", choices=["0", "1", "2", "3"], help="0 normal, 1 minor, 2 major, 3 critical")
    pin.add_argument("--for", dest="for_s", metavar="TIME", type=pin_time, help="let go by itself after this, such as 10m")
    _command(level, "unpin", "level", "go by what the machine says again", config=True, json=True, action="unpin")

    cache = _group(commands, "cache", "the cache of answers")
    _command(cache, "stats", "cache", "what it holds and was good for", config=True, json=True, action="stats")
    words = "what comes again and again, and what to do"
    analyze = _command(cache, "analyze", "cache", words, config=True, json=True, action="analyze")
    analyze.add_argument("--prompts", action="store_true", help="show the beginnings of the prompts, not only their hashes")
    clear = _command(cache, "clear", "cache", "forget answers", config=True, json=True, action="clear")
    clear.add_argument("--tier", choices=["all", "l1", "l2", "l3"], default="all", help="l1: memory, l2: file, l3: large")

    words = "start outdated agents anew, group by group, each proved before the next; back when too many fail"
    rollout = _command(commands, "rollout", "rollout", words, config=True, json=True)
    rollout.add_argument("pattern", nargs="?", metavar="PATTERN", help="only these: a name, or a pattern such as 'sonnet-*'")
    how = rollout.add_mutually_exclusive_group()
    how.add_argument("--status", action="store_true", help="show where it stands")
    for verb, words in (
        ("pause", "take no further group"),
        ("resume", "go on"),
        ("abort", "take everyone back to what he was before"),
    ):
        how.add_argument(f"--{verb}", dest="verb", action="store_const", const=verb, help=words)
    rollout.add_argument("--no-wait", action="store_true", help="return at once; it goes on without us anyway")

    alerts = _group(commands, "alerts", "what is watched, what fires, who is told")
    _command(alerts, "list", "alerts", "every alert, those that fire first", config=True, json=True, action="list")
    test = _command(alerts, "test", "alerts", "send a test to whom alerts tell", config=True, json=True, action="test")
    test.add_argument("name", nargs="?", metavar="NAME", help="only the way of this alert (default: every way there is)")

    _command(commands, "reload", "reload", "read the config again and do what changed", config=True, json=True, action="reload")


def _add_keeping(commands: Any) -> None:
    words = "look at this machine, its Ollama and our files; say the line that mends what is wrong"
    doctor = _command(commands, "doctor", "doctor", words, config=True, json=True)
    doctor.add_argument("--fix", action="store_true", help="do what concerns our own files: modes, missing folders")
    doctor.add_argument("--all", action="store_true", help="show what is good too")

    words = "measure your Ollama and its models: how fast, and how many slots are worth it"
    bench = _command(commands, "bench", "bench", words, config=True, json=True)
    bench.add_argument("models", nargs="*", metavar="MODEL", help="which models (default: those that are loaded)")
    bench.add_argument("--ollama", metavar="URL", help="which Ollama (default: the config's, else the one that is found)")
    bench.add_argument("--at-once", type=at_once, default=(1, 2), metavar="N,N", help="how many calls at once (default: 1,2)")
    bench.add_argument("--tokens", type=lines, default=100, metavar="N", help="how long each answer is (default: 100)")
    bench.add_argument("--anyway", action="store_true", help="although agents are asking: they wait longer")

    words = "write state and config into one file, while the daemon runs or not"
    backup = _command(commands, "backup", "backup", words, config=True, json=True, action="backup")
    backup.add_argument("file", nargs="?", metavar="FILE", help="where to (default: ai-supervisor-HOST-TIME.tar.zst, here)")
    backup.add_argument("--secrets", action="store_true", help="with the agents' env_files, and what tokens are made with")
    words = "put back what a backup holds; nothing that is there is overwritten"
    restore = _command(commands, "restore", "backup", words, json=True, action="restore")
    restore.add_argument("file", metavar="FILE", help="what `backup` wrote")
    restore.add_argument("--into", metavar="DIR", help="below this folder instead of where it was")


def _add_takeover(commands: Any) -> None:
    words = "move this system's Ollama behind us: whoever calls localhost:11434 needs no change"
    takeover = _command(commands, "takeover", "takeover", words, config=True)
    how = takeover.add_mutually_exclusive_group()
    how.add_argument("--undo", action="store_true", help="move it back")
    how.add_argument("--print", dest="print_lines", action="store_true", help="print what to do by hand, also on Windows")
    takeover.add_argument("--unit", metavar="NAME", default="ollama.service", help="its service (default: ollama.service)")
    takeover.add_argument("--port", metavar="PORT", type=port, default=11436, help="where it is to listen (default: 11436)")
    takeover.add_argument("--yes", action="store_true", help="other machines that use it may lose it")


def _add_installing(commands: Any) -> None:
    words = "make it a service: units, a release of its own, a user for agents, a first config"
    install = _command(commands, "install", "install", words, config=True, json=True, action="install")
    install.add_argument("--now", action="store_true", help="start it too, or restart it: agents stay")
    install.add_argument("--print", dest="print_units", action="store_true", help="print the units and change nothing")
    install.add_argument(
        "--accept-smaller-machine", action="store_true", help="although this machine has less memory than the plan gives away"
    )
    words = "undo it; config, state and logs stay"
    uninstall = _command(commands, "uninstall", "install", words, config=True, action="uninstall")
    words = "change to another release, agents stay; one that cannot go on is taken back"
    upgrade = _command(commands, "upgrade", "upgrade", words, config=True, action="upgrade")
    upgrade.add_argument("what", nargs="?", metavar="VERSION|WHEEL", help="what to change to (default: the newest there is)")
    upgrade.add_argument("--rollback", action="store_true", help="change to the release of before")
    upgrade.add_argument("--old-journal", action="store_true", help="roll back the journal too: what came since is lost")
    for one in (install, uninstall, upgrade):
        one.add_argument("--user", action="store_true", help="as a service of your own systemd, without root")


def _add_check_state(commands: Any) -> None:
    """What `upgrade` asks a release before it is started; without help, it is in no list."""
    check = commands.add_parser("check-state", description="whether this version can go on from a copy of a state")
    check.add_argument("folder", metavar="FOLDER")
    check.add_argument("--config", metavar="FILE")
    check.set_defaults(module="state", action="", parser=check)


def _add_completion(commands: Any) -> None:
    completion = _command(commands, "completion", "completion", "print the completion script of a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"])


def _add_config_and_engine(commands: Any) -> None:
    config = _group(commands, "config", "write, show and check the config")
    init = _command(config, "init", "configs", "write a first config that explains itself", action="init")
    init.add_argument("file", nargs="?", metavar="FILE", help="where (default: the usual place)")
    init.add_argument("--ollama", metavar="URL", help="the Ollama to ask: an address, auto, windows or embedded")
    init.add_argument("--force", action="store_true", help="overwrite a file that is there")
    for name, words in (("show", "every key with its value, defaults included"), ("check", "say everything that is wrong")):
        one = _command(config, name, "configs", words, config=True, json=True, action=name)
        one.add_argument("file", nargs="?", metavar="FILE", help="the config file (as --config)")
        if name == "show":
            one.add_argument("--agents", action="store_true", help="every agent, resolved")

    plan = _command(config, "plan", "reload", "show what a reload would do", config=True, json=True, action="plan")
    plan.add_argument("--exit-code", action="store_true", help="exit 1 when anything would change, as `diff` does")

    words = "memory caps from what agents needed on the last days, as lines to paste"
    suggest = _command(config, "suggest", "caps", words, config=True, json=True, action="suggest")
    suggest.add_argument("--days", type=days, default=7, metavar="N", help="of how many days, today included (default: 7)")

    engine = _group(commands, "engine", "the embedded engine")
    install = _command(engine, "install", "engine", "install the embedded engine and its model", action="install")
    install.add_argument("--dir", metavar="DIR", help="where the model goes (default: beside the engine)")


def _group(commands: Any, name: str, words: str) -> Any:
    parser = commands.add_parser(name, help=words, description=words)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog=parser.prog)


def _command(
    commands: Any, name: str, module: str, words: str, *, config: bool = False, json: bool = False, action: str = ""
) -> Parser:
    """Add one command. `module` carries it out: `supervisord_ai.cli.MODULE.run(args)`."""
    parser: Parser = commands.add_parser(name, help=words, description=words)
    parser.set_defaults(module=module, action=action, parser=parser)
    if config:
        parser.add_argument("--config", metavar="FILE", help="the config (default: AI_SUPERVISOR_CONFIG, else the usual place)")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


PARTS: tuple[tuple[Callable[[Any], None], frozenset[str]], ...] = (  # in the order of --help
    (_add_running, frozenset({"run", "try", "exec", "demo", "stop"})),
    (_add_looks, frozenset({"status", "health", "events"})),
    (_add_agents, frozenset({"agents"})),
    (_add_work, frozenset({"queue", "metrics", "dashboards", "models", "level", "cache", "rollout", "alerts", "reload"})),
    (_add_config_and_engine, frozenset({"config", "engine"})),
    (_add_keeping, frozenset({"doctor", "bench", "backup", "restore"})),
    (_add_takeover, frozenset({"takeover"})),
    (_add_installing, frozenset({"install", "uninstall", "upgrade"})),
    (_add_check_state, frozenset({"check-state"})),
    (_add_completion, frozenset({"completion"})),
)
