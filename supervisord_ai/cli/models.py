"""`models`: which models there are and which are loaded; load, unload, pull and delete them."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import columns, has_colours, printable, size_of, table
from supervisord_ai.errors import Denied, UsageError

DOES = {"load": "loading", "unload": "unloading, once its calls have ended,", "rm": "deleting"}
DONE = {"load": "is loaded", "unload": "is unloaded", "rm": "is deleted"}


def run(args: Namespace) -> int:
    door = open_door(args)
    match args.action:
        case "list" | "loaded":
            return _list(args, door)
        case "pull":
            return _pull(args, door)
        case _:
            return _tell(args, door)


def _list(args: Namespace, door: Door) -> int:
    told = door.get("/v1/models")
    models = [one for one in told["models"] if args.action == "list" or one["loaded_bytes"] is not None]
    if args.json:
        print(json.dumps({**told, "models": models}, indent=2))
    elif told["unreachable"] and not models and args.action == "list":
        pass  # nobody knows what is installed
    elif models:
        heads = ("MODEL", "BACKEND", "SIZE", "FAMILY", "QUANTIZATION", "LOADED", "IN VRAM")
        print("\n".join(table(heads, [_row(one) for one in models], right=(2, 5, 6), drop=(3, 1, 4), width=columns())))
    else:
        print("no model is loaded" if args.action == "loaded" else "no model is installed: ai-supervisor models pull NAME")
    for words in told["unreachable"]:
        print(f"not asked: {printable(words)}", file=sys.stderr)
    return Exit.NO if told["unreachable"] else Exit.GOOD


def _row(one: Any) -> tuple[object, ...]:
    sizes = (size_of(one["loaded_bytes"]), size_of(one["vram_bytes"]))
    return (one["name"], one["backend"], size_of(one["size_bytes"]), one["family"] or "-", one["quantization"] or "-", *sizes)


def _tell(args: Namespace, door: Door) -> int:
    if args.action == "rm" and not args.yes:
        raise UsageError(f"this deletes {args.model} from the disk: say --yes")
    with working(f"{DOES[args.action]} {args.model}"):
        told = door.post(f"/v1/models/{quote(args.model, safe='')}/{args.action}", within_s=None)
    print(json.dumps(told, indent=2) if args.json else f"{printable(args.model)} {DONE[args.action]}")
    return Exit.GOOD


def _pull(args: Namespace, door: Door) -> int:
    """Show Ollama's progress: one line that changes on a terminal, a line for each step into a pipe."""
    last = ""
    for line in door.lines(f"/v1/models/{quote(args.model, safe='')}/pull"):
        if "error" in line:
            raise Denied(str(line["error"]))
        if args.json:
            print(json.dumps(line), flush=True)
            continue
        words = progress(line)
        if has_colours():
            sys.stdout.write(f"\r\x1b[K{words[:79]}")
            sys.stdout.flush()
        elif str(line.get("status")) != last:
            print(words, flush=True)
        last = str(line.get("status"))
    if has_colours() and not args.json:
        print()
    if last != "success" and not args.json:
        raise Denied(f"Ollama ended without success, after: {printable(last) or 'nothing'}")
    return Exit.GOOD


def progress(line: Any) -> str:
    """Return one line of Ollama's progress in words."""
    words = printable(str(line.get("status", "")))
    total, completed = line.get("total"), line.get("completed")
    if isinstance(total, int) and isinstance(completed, int) and total > 0:
        words += f"  {size_of(completed)} of {size_of(total)}, {completed / total:.0%}"
    return words
