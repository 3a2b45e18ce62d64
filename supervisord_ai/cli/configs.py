"""`config init`, `config show`, `config check`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

from supervisord_ai.cli.door import surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import Instead, load_config
from supervisord_ai.cli.first import AGENTS_USER, first_config
from supervisord_ai.cli.lacking import notes_on
from supervisord_ai.config import Config, load
from supervisord_ai.config.plan import mb, plan_table
from supervisord_ai.config.writing import as_json, toml_of
from supervisord_ai.core import places
from supervisord_ai.core.memory_plan import cap_lines
from supervisord_ai.errors import ConfigError, HostFault, UsageError
from supervisord_ai.host.memory import machine_memory
from supervisord_ai.host.users import SystemUsers


def run(args: Namespace) -> int:
    match args.action:
        case "init":
            return _init(args)
        case "show":
            return _show(args)
        case _:
            return _check(args)


def _init(args: Namespace) -> int:
    path = Path(args.file or places.config_path(surroundings(), None))
    if path.exists() and not args.force:
        raise UsageError(f"{path} is there already: --force overwrites it")
    machine = machine_memory().total_bytes
    text = first_config(machine, has_agents_user=os.geteuid() == 0 and SystemUsers().exists(AGENTS_USER), url=args.ollama)
    try:
        load(str(path), Instead(str(path), text), surroundings())
    except ConfigError as exc:  # of a file that nobody has written yet: only --ollama can be wrong
        raise UsageError(f"--ollama {exc.problems[0].what}") from exc
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as exc:
        raise HostFault(f"{path} cannot be written: {exc.strerror}") from exc
    print(f"wrote {path}, with a memory plan for the {mb(machine)} MB of this machine and no agents yet")
    named = "" if args.file is None else f" --config {shlex.quote(args.file)}"
    print(f"next: ai-supervisor agents add NAME --class opus{named} -- CMD, then: ai-supervisor run{named}")
    return Exit.GOOD


def _show(args: Namespace) -> int:
    config = load_config(args)
    if args.json:
        print(json.dumps(as_json(config), indent=2))
    else:
        sys.stdout.write(toml_of(config, with_agents=args.agents))
    return Exit.GOOD


def _check(args: Namespace) -> int:
    try:
        config = load_config(args)
    except ConfigError as exc:
        if not args.json:
            raise
        problems = [{"file": p.file, "line": p.line, "key": p.key, "what": p.what} for p in exc.problems]
        print(json.dumps({"is_good": False, "problems": problems}, indent=2))
        return Exit.USAGE
    caps = cap_lines(config.roster.agents.values())
    notes = list(notes_on(config, machine_memory().total_bytes))
    if args.json:
        caps_bytes = sum(line.total_bytes for line in caps)
        told = {
            "is_good": True,
            "problems": [],
            "notes": notes,
            "agents": len(config.roster.agents),
            "caps_bytes": caps_bytes,
        }
        print(json.dumps(told, indent=2))
        return Exit.GOOD
    print(f"{config.path} is good: {_agents(config)}, {len(config.backends)} Ollama with {config.backends[0].slots} slots")
    print("\n".join(plan_table(config.memory, caps)))
    for note in notes:
        print(f"note: {note}")
    return Exit.GOOD


def _agents(config: Config) -> str:
    counts = Counter(spec.policy.name for spec in config.roster.agents.values())
    each = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{len(config.roster.agents)} agents ({each})" if each else "no agents"


