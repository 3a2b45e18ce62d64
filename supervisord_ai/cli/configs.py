"""`config init`, `config show`, `config check`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

from supervisord_ai.cli.door import surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import load_config, shipped_config
from supervisord_ai.config import Config
from supervisord_ai.config.plan import plan_table
from supervisord_ai.config.writing import as_json, toml_of
from supervisord_ai.core import places
from supervisord_ai.core.memory_plan import cap_lines
from supervisord_ai.errors import ConfigError, HostFault, UsageError


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shipped_config())
    except OSError as exc:
        raise HostFault(f"{path} cannot be written: {exc.strerror}") from exc
    print(f"wrote {path}\nedit its [[agents]], then: ai-supervisor config check {path}")
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
    if args.json:
        caps_bytes = sum(line.total_bytes for line in caps)
        told = {"is_good": True, "problems": [], "agents": len(config.roster.agents), "caps_bytes": caps_bytes}
        print(json.dumps(told, indent=2))
        return Exit.GOOD
    print(f"{config.path} is good: {_agents(config)}, {len(config.backends)} Ollama with {config.backends[0].slots} slots")
    print("\n".join(plan_table(config.memory, caps)))
    return Exit.GOOD


def _agents(config: Config) -> str:
    counts = Counter(spec.policy.name for spec in config.roster.agents.values())
    each = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{len(config.roster.agents)} agents ({each})" if each else "no agents"


