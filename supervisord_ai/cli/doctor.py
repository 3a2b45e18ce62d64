"""`doctor`: looks at everything that can be wrong with a machine before something is, and says the line that mends it, and where.

Needs no daemon and no config. `--fix` does only what concerns files that are ours alone; whatever belongs to the system or to
Windows is said, for its owner to do.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from supervisord_ai.cli.door import Door, surroundings
from supervisord_ai.cli.examine import Doors, Examined, examine
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.probing import RealAsker
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import Screen
from supervisord_ai.config import Config
from supervisord_ai.core import places
from supervisord_ai.core.doctor import Finding, Severity, is_well
from supervisord_ai.errors import HostFault, SupervisorError
from supervisord_ai.host import gpu
from supervisord_ai.host.connections import KernelConnections
from supervisord_ai.host.tree import RealTree, Tree

STYLE = {Severity.FAIL: "bold red", Severity.WARN: "yellow", Severity.NOTE: "cyan", Severity.GOOD: "green"}
INDENT = 8


def run(args: Namespace) -> int:
    tree = RealTree()
    with working("looking at this machine and its Ollama"):
        examined = examine(args.config, surroundings(), doors_of(tree))
    done: list[str] = []
    if args.fix:
        done = mend(examined.findings, tree)
        examined = examine(args.config, surroundings(), doors_of(tree))
    if args.json:
        print(json.dumps(as_json(examined, done), indent=2))
    else:
        screen(examined, done, shows_good=args.all).show()
    return Exit.GOOD if is_well(examined.findings) else Exit.NO


def doors_of(tree: Tree) -> Doors:
    """Return this machine's doors."""
    return Doors(
        tree=tree,
        files=DiskFiles(),
        asker=RealAsker(),
        connections=KernelConnections(),
        status=status_of,
        gpu_calls=gpu.known_calls,
        now_wall=time.time(),
    )


def status_of(config: Config | None) -> dict[str, Any] | None:
    """Return what the daemon of a config says of itself; None where none answers us."""
    runtime = places.runtime_dir(surroundings(), None) if config is None else config.daemon.runtime_dir
    try:
        told: dict[str, Any] = Door(f"{runtime}/{places.CONTROL_SOCKET}").get("/v1/status")
    except SupervisorError:
        return None
    return told


def mend(findings: Iterable[Finding], tree: Tree) -> list[str]:
    """Do what may be done; return what was, in words. What could not be is left as a finding."""
    done = []
    for finding in findings:
        if finding.deed is None:
            continue
        try:
            tree.mend(finding.deed)
        except HostFault as exc:
            done.append(f"not done: {exc}")
            continue
        what = "made" if finding.deed.is_missing else "closed to others"
        done.append(f"{what}: {finding.deed.path} (mode {finding.deed.mode:o})")
    return done


def as_json(examined: Examined, done: list[str]) -> dict[str, Any]:
    """Return it for programs."""
    return {
        "is_well": is_well(examined.findings),
        "findings": [{"about": about, **asdict(one)} for about, findings in examined.sections for one in findings],
        "done": done,
    }


def screen(examined: Examined, done: list[str], *, shows_good: bool, width: int | None = None) -> Screen:
    """Return it for people: what is wrong in each section, the worst first; what is good is counted, or shown too."""
    page = Screen(width)
    for line in done:
        page.line(("--fix   ", "bold"), line)
    order = list(Severity)
    for about, findings in examined.sections:
        shown = [one for one in findings if shows_good or one.severity is not Severity.GOOD]
        passed = sum(one.severity is Severity.GOOD for one in findings)
        page.line((about, "bold"), f"   {passed} of {len(findings)} good")
        for one in sorted(shown, key=lambda one: order.index(one.severity)):
            _show(page, one)
    page.line()
    page.wrapped("", _summary(examined.findings), 0)
    return page


def _show(page: Screen, finding: Finding) -> None:
    word = "ok" if finding.severity is Severity.GOOD else finding.severity.value
    page.wrapped((f"  {word}", STYLE[finding.severity]), finding.words, INDENT)
    if finding.why:
        page.wrapped("", finding.why, INDENT, "dim")
    for fix in finding.fixes:
        page.wrapped("", f"{fix.where}:", INDENT)
        for line in fix.lines:
            # Whole, however narrow the terminal: a line that is cut cannot be copied.
            page.whole(f"{'':{INDENT + 4}}{line}", "bold")
        if fix.then:
            page.wrapped("", f"then: {fix.then}", INDENT)


def _summary(findings: Iterable[Finding]) -> str:
    counts = {severity: sum(one.severity is severity for one in findings) for severity in Severity}
    if not counts[Severity.FAIL] and not counts[Severity.WARN]:
        return "nothing need be done" + (f"; {counts[Severity.NOTE]} to know" if counts[Severity.NOTE] else "")
    bad = (("to mend", counts[Severity.FAIL]), ("to look at", counts[Severity.WARN]))
    told = ", ".join(f"{count} {word}" for word, count in bad if count)
    deeds = any(one.deed is not None for one in findings)
    return told + ("; `ai-supervisor doctor --fix` does what concerns our own files" if deeds else "")
