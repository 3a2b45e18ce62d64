"""Fuzzes one target, or each in turn, and writes the ledger. Started by `scripts/fuzz`, in the environment that has atheris.

A target is run by a child, since libFuzzer ends its process. What reaches something new grows in a folder of its own; of what is
short enough the longest are kept, the seeds stay. An input that breaks a promise is left in `build/fuzz/`, and the exit is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.ledger import Entry, add

HERE = Path(__file__).parent
KEPT_INPUTS = 25
KEPT_BYTES = 300


def child(target: str, arguments: list[str]) -> None:
    """Instrument what the targets import, then hand over to libFuzzer. Never returns."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["supervisord_ai"]):
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[target])
    atheris.Fuzz()


def fuzz(target: str, seconds: int) -> Entry:
    """Run one target, keep what it found; `Entry.crashes` says how many inputs broke it."""
    kept = HERE / "corpus" / target
    kept.mkdir(parents=True, exist_ok=True)
    crashes = HERE.parent.parent / "build" / "fuzz"
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.glob(f"{target}-*"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ai-fuzz-") as name:
        grown = Path(name)
        bounds = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", f"-artifact_prefix={crashes}/{target}-"]
        said = _run(target, [*bounds, str(grown), str(kept)])
        runs = re.findall(r"(?:Done |#)(\d+)", said)
        found = [file.read_bytes() for file in (*grown.iterdir(), *kept.glob("found-*")) if file.stat().st_size <= KEPT_BYTES]
        for file in kept.glob("found-*"):
            file.unlink()
        for text in sorted(set(found), key=lambda text: (len(text), text))[-KEPT_INPUTS:]:
            (kept / f"found-{hashlib.sha256(text).hexdigest()[:12]}").write_bytes(text)
    broken = sorted(set(crashes.glob(f"{target}-*")) - before)
    for file in broken:
        print(f"{target}: {file}: {file.read_bytes()[:200]!r}")
    return Entry(target, time.monotonic() - began, int(runs[-1]) if runs else 0, len(broken))


def _run(target: str, arguments: list[str]) -> str:
    command = [sys.executable, "-m", "tests.fuzz", "--child", target, "--", *arguments]
    done = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False, env=dict(os.environ))
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        print(text[-3000:])
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("targets", nargs="*", help="which; all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.child:
        child(args.child, [word for word in (*args.targets, *rest) if word != "--"])
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - a child imports it instrumented

    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    entries = []
    for target in args.targets or TARGETS:
        entries.append(fuzz(target, args.seconds))
        add(entries[-1])
        print(entries[-1])
    return 1 if any(entry.crashes for entry in entries) else 0


if __name__ == "__main__":
    raise SystemExit(main())
