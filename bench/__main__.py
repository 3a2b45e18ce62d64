"""Every comparison, one table: what was measured, what was aimed at, and the command that prints it again.

    scripts/bench                    all of them, in about ten minutes
    scripts/bench queues gateways    these
    scripts/bench --json             the raw figures of each

A target that was missed is in the table like one that was met. The machine and its load are named above it: on a busy machine
ratios count, and are taken inside one run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import ROOT
from bench.report import Figures, arguments

Line = tuple[str, str, str, bool | None]
"""What, measured, the aim ("" without one), and whether it was met."""


@dataclass(frozen=True, slots=True)
class Question:
    """One script, and what of its figures goes into the table."""

    name: str
    args: tuple[str, ...]
    lines: Callable[[Figures], Iterable[Line]]


def _most(what: str, found: float, aim: float, form: str = "{:.2f}") -> Line:
    return what, form.format(found), f"<= {form.format(aim)}", found <= aim


def _least(what: str, found: float, aim: float, form: str = "{:.1f}") -> Line:
    return what, form.format(found), f">= {form.format(aim)}", found >= aim


def _gateways(found: Figures) -> Iterable[Line]:
    each, ratios = found["candidates"], found["ours_over"]
    yield _most("forwarded call, CPU: ours over LiteLLM", ratios["LiteLLM"], 0.25, "{:.2f} x")
    yield "  ours over uvicorn + httpx, no duties", f"{ratios['uvicorn + httpx']:.2f} x", "", None
    yield "  ours over nginx, which hands on bytes", f"{ratios['nginx']:.0f} x", "", None
    yield "  ours, CPU a call", f"{each['ours, process']['cpu_us_per_request'] / 1000:.2f} ms", "", None


def _hit(found: Figures) -> Iterable[Line]:
    yield _most("cached hit, CPU: ours over nginx", found["cpu_ratio_to_nginx_cache"], 3.0, "{:.1f} x")


def _queues(found: Figures) -> Iterable[Line]:
    for strength, ratio in found["times_redis"].items():
        ours = found["queues"][strength]["ours"]
        yield _least(f"durable enqueue ({strength}), a second: over Redis Streams", ratio, 5.0, "{:.1f} x")
        yield f"  ours, CPU a job; {ours['per_s']:.0f} a second", f"{ours['cpu_us']:.0f} us", "", None


def _makespan(found: Figures) -> Iterable[Line]:
    yield _most("131 at once on 2 slots, of the ideal", found["ways"]["through us"]["of_ideal"], 1.05, "{:.3f} x")
    yield "  Ollama's double, asked directly", f"{found['ways']['Ollama directly']['of_ideal']:.3f} x", "", None


def _fairness(found: Figures) -> Iterable[Line]:
    flood, urgent = found["flood"], found["urgent"]
    yield _most("130 behind one that floods, the last", flood["through us"]["most_s"], found["flood_limit_s"], "{:.0f} s")
    yield "  Ollama directly", f"{flood['Ollama directly']['most_s']:.0f} s", "", None
    yield "an opus behind 95 sonnets, p95", f"{urgent['through us']['p95_s']:.0f} s", "", None
    yield "  Ollama directly", f"{urgent['Ollama directly']['p95_s']:.0f} s", "", None


def _capacity(found: Figures) -> Iterable[Line]:
    loads = found["loads"]
    yield _most("p95 at half of 120 a minute", loads["50"]["p95_s"], 5.0, "{:.1f} s")
    for load in ("90", "100", "200"):
        if load in loads:
            each = loads[load]
            refused = f", {each['refused']} of {each['asked']} refused" if each["refused"] else ""
            yield f"  p95 at {load} %, opus alone {each['opus_p95_s']:.1f} s{refused}", f"{each['p95_s']:.1f} s", "", None


def _ordering(found: Figures) -> Iterable[Line]:
    for name, each in found["operations"].items():
        yield f"{name} with 50,000 queued", f"{each['p50_us']:.0f} us", "", None


def _stream(found: Figures) -> Iterable[Line]:
    yield "streamed line, CPU: ours over nginx", f"{found['cpu_ratio_to_nginx']:.1f} x", "", None



def _idle(found: Figures) -> Iterable[Line]:
    yield _most("idle with 131 agents, resident", found["rss_bytes"] / 1e6, 60.0, "{:.1f} MB")
    yield "  at its first start, which makes the files", f"{found['first_start_rss_bytes'] / 1e6:.1f} MB", "", None
    yield _most("idle with 131 agents, of a core", found["cpu_share_of_a_core"] * 100, 1.0, "{:.2f} %")


def _fleet(found: Figures) -> Iterable[Line]:
    yield _most("131 programs up: our time over supervisord's", found["up_ratio"], 0.5, "{:.2f} x")


def _recovery(found: Figures) -> Iterable[Line]:
    each = found["journalled"]
    yield f"serves again with {each['rows']} journalled", f"{each['serves_after_s']:.1f} s", "", None
    yield "  with an empty journal", f"{found['empty']['serves_after_s']:.1f} s", "", None
    yield "  resident then", f"{each['rss_mb']:.0f} MB", "", None


QUESTIONS = (
    Question("gateways", (), _gateways),
    Question("cached_hit", (), _hit),
    Question("queues", (), _queues),
    Question("makespan", (), _makespan),
    Question("fairness", (), _fairness),
    Question("capacity", ("--loads", "10,50,90,100,200"), _capacity),
    Question("ordering", (), _ordering),
    Question("stream", (), _stream),
    Question("idle", (), _idle),
    Question("fleet", ("--rounds", "2", "--seconds", "10"), _fleet),
    Question("recovery", (), _recovery),
)


def machine() -> str:
    """What this was measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(one.name for one in QUESTIONS))
    args = parser.parse_args(argv)
    unknown = set(args.names) - {one.name for one in QUESTIONS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in QUESTIONS)}")
    chosen = [one for one in QUESTIONS if not args.names or one.name in args.names]
    raw: Figures = {}
    rows: list[tuple[str, str, str, str]] = []
    is_broken = False
    load = os.getloadavg()[0]
    for one in chosen:
        began = time.monotonic()
        print(f"{one.name} ...", end=" ", flush=True, file=sys.stderr)
        command = [sys.executable, "-m", f"bench.{one.name}", *one.args, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
        command_line = f"python -m bench.{' '.join([one.name, *one.args])}"
        try:
            raw[one.name] = json.loads(done.stdout)
        except ValueError:
            is_broken = True
            words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing was said"]
            rows.append((f"{one.name}: {words[0][:60]}", "no figure", "", command_line))
            continue
        for what, measured, aim, is_met in one.lines(raw[one.name]):
            verdict = "" if is_met is None else f"{aim} {'met' if is_met else 'MISSED'}"
            rows.append((what, measured, verdict, command_line))
            command_line = ""
    if args.json:
        loads = [round(load, 1), round(os.getloadavg()[0], 1)]
        print(json.dumps({"machine": machine(), "load": loads, "figures": raw}, indent=1))
    else:
        print(f"\n{machine()}; load {load:.0f} to {os.getloadavg()[0]:.0f}\n")
        heads = ("question", "measured", "aim", "command")
        widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(3)]
        for what, measured, verdict, command_line in (heads, *rows):
            print(f"{what:{widths[0]}}  {measured:>{widths[1]}}  {verdict:{widths[2]}}  {command_line}".rstrip())
    return 1 if is_broken or any("MISSED" in row[2] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
