"""What the daemon is made of before its first agent: S8 gives it 60 MB with 131 of them, and each agent needs 60 KB."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

LIMIT_RSS_BYTES = 50_000_000
"""Measured: 46 MB. 131 agents, the journal and the loop add 7."""

LEFT_OUT = {
    "rich": "the command line's tables",
    "click": "what sqlite-utils and httpx need for command lines of their own",
    "pygments": "colours of httpx's command line",
    "sqlite_utils": "migrations, which most starts have none of",
    "pluggy": "plugins of sqlite-utils",
    "dateutil": "recipes of sqlite-utils",
    "prometheus_client": "counts what we count already, and brings an HTTP server",
    "http.server": "serve/ is our server",
    "socketserver": "the same",
    "wsgiref": "the same",
    "httpcore": "ollama/transport.py stands in its place",
    "h11": "wire/ reads HTTP",
    "anyio": "the client of agents",
    "asyncio": "trio is our loop",
    "multiprocessing": "one process is the point",
    "concurrent.futures": "threads are trio's",
    "unittest": "tests",
    "xml": "nobody sends any",
    "pydoc": "help() for people",
    "shtab": "completion, for the command line",
    "llama_cpp": "the engine is a process of its own",
}


@pytest.mark.skipif("COVERAGE_FILE" in os.environ, reason="what coverage imports comes along")
def test_the_daemon_imports_nothing_that_only_others_need() -> None:
    look = (
        "import json, sys; import supervisord_ai.cli.main, supervisord_ai.cli.run, supervisord_ai.daemon;"
        "pages = int(open('/proc/self/statm').read().split()[1]);"
        "import os; print(json.dumps([sorted(sys.modules), pages * os.sysconf('SC_PAGE_SIZE')]))"
    )
    done = subprocess.run([sys.executable, "-c", look], stdout=subprocess.PIPE, check=True)
    modules, rss_bytes = json.loads(done.stdout)
    found = {name: why for name, why in LEFT_OUT.items() if name in modules}
    assert not found, f"the daemon imports {', '.join(f'{name} ({why})' for name, why in found.items())}"
    assert rss_bytes < LIMIT_RSS_BYTES, f"{rss_bytes / 1e6:.1f} MB resident before anything is done"
