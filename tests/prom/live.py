"""A real Prometheus scrapes a real daemon with load; then every expression of every panel must return a series.

    python -m tests.prom.live [--seconds 20]

Prometheus listens on loopback, scrapes each second, and its files go with it. Also what is scraped is given to `promtool check
metrics`. `$__rate_interval` stands for what Grafana would put there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from supervisord_ai.control.dashboards import DASHBOARDS, FOLDER, RULES
from tests.system.harness import THREE_SLEEPERS, Daemon, ask, ollama_double, running_daemon
from tests.web.ports import free_port

FLEET = f"""{THREE_SLEEPERS}
[[agents]]
name = "broken-01"
class = "opus"
command = ["false"]
"""
MODELS = ("llama3.2:3b", "tinyllama")


def asked_of(daemon: Daemon, until: float, number: int) -> None:
    """One caller: half of what it asks is asked again and again."""
    count = 0
    while time.monotonic() < until:
        count += 1
        prompt, options = (f"[[n=5]] {count}", {}) if count % 2 else ("[[n=5]] the same", {"temperature": 0})
        body = {"model": MODELS[number % 2], "prompt": prompt, "stream": False, "options": options}
        ask(daemon.llm, "/api/generate", body)


@contextmanager
def prometheus(folder: Path, page: str) -> Iterator[str]:
    """A Prometheus that scrapes the page; yields its URL."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(FOLDER / RULES)],
                "scrape_configs": [{"job_name": "ai-supervisor", "static_configs": [{"targets": [page]}]}],
            }
        )
    )
    subprocess.run(["promtool", "check", "config", str(config)], check=True, stdout=subprocess.DEVNULL)
    child = subprocess.Popen(
        [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        ]
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(20)


def series(prometheus_url: str, expr: str) -> list[object]:
    """Return what an expression returns now."""
    expr = expr.replace("$__rate_interval", "15s").replace("$__range", "1m")
    with urlopen(f"{prometheus_url}/api/v1/query?{urlencode({'query': expr})}", timeout=10) as answer:
        told = json.loads(answer.read())
    assert told["status"] == "success", (expr, told)
    found: list[object] = told["data"]["result"]
    return found


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urlopen(f"{url}/-/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            assert time.monotonic() < deadline, "Prometheus is not ready after 30 s"
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    page = f"127.0.0.1:{free_port()}"
    slowly = ("--load", "500ms", "--token-delay", "10ms")
    with tempfile.TemporaryDirectory(prefix="ai-prom-") as name, ollama_double(*slowly) as ollama:
        folder = Path(name)
        (folder / "daemon").mkdir(mode=0o755)
        folder.chmod(0o755)
        with running_daemon(folder / "daemon", ollama=ollama, extra=FLEET, web=page) as daemon, prometheus(folder, page) as url:
            wait_ready(url)
            until = time.monotonic() + args.seconds
            callers = [threading.Thread(target=asked_of, args=(daemon, until, number)) for number in range(6)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            with urlopen(f"http://{page}/metrics", timeout=10) as answer:
                text = answer.read()
            subprocess.run(["promtool", "check", "metrics"], input=text, check=True)
            silent, asked = [], 0
            for board in DASHBOARDS:
                for panel in json.loads((FOLDER / f"{board}.json").read_text())["panels"]:
                    for target in panel["targets"]:
                        asked += 1
                        if not series(url, target["expr"]):
                            silent.append(f"{board}: {panel['title']}: {target['expr']}")
            rules = len(re.findall("- alert:", (FOLDER / RULES).read_text()))
            with urlopen(f"{url}/api/v1/rules", timeout=10) as answer:
                groups = json.loads(answer.read())["data"]["groups"]
            healthy = sum(rule["health"] == "ok" for group in groups for rule in group["rules"])
    for one in silent:
        print(f"returns nothing: {one}", file=sys.stderr)
    lines, good = len(text.splitlines()), asked - len(silent)
    print(f"{lines} lines scraped; {good} of {asked} expressions return a series; {healthy} of {rules} rules evaluate")
    return 1 if silent or healthy != rules else 0


if __name__ == "__main__":
    raise SystemExit(main())
