"""Takes pictures of the page and of `status` in tmux, to be looked at: `scripts/test-web --pictures DIR`.

An empty daemon, then 131 agents that ask two slots for more than they can do until level 3 holds: light, dark and narrow, each
dashboard, and `status` on 80 and on 200 columns. Three agents misbehave, so that there is something to be seen.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.system.harness import ROOT, USER_LINE, Daemon, ask, ollama_double, running_daemon
from tests.web.browser import Browser, browser
from tests.web.ports import free_port

MODEL = "llama3.2:3b"
# A question every few seconds from each of 131 is about four times what two slots can do.
ASKS = """
sleep $(( $$ % 12 )); while :; do
  curl -s -m 300 -o /dev/null --unix-socket "$AI_SUPERVISOR_SOCKET" http://localhost/api/generate \\
    -d '{{"model": "llama3.2:3b", "prompt": "[[n=40 delay=0.05]] '$$'", "stream": false}}'; sleep 9
done
"""


def entry(agent_class: str, name: str, command: str, count: int = 1) -> str:
    return f"[[agents]]\nname = '{name}'\nclass = '{agent_class}'\ncount = {count}\ncommand = \"\"\"{command}\"\"\"\n"


def fleet() -> str:
    """36 and 95, of which two fail."""
    asks = ASKS.replace("\\", "\\\\").replace('"', '\\"')
    each = f"memory = '30MB'\nstart = '100ms'\nrate = ''\n{USER_LINE}"
    return (
        f"[queue]\ndeadline = '60s'\n[levels]\ndwell = '300s'\n[start]\nbatch_delay = '5s'\n"
        f"[class.opus]\nceiling = 3\n{each}[class.sonnet]\n{each}"
        + entry("opus", "opus-{n:02}", asks, 36)
        + entry("sonnet", "sonnet-{n:02}", asks, 93)
        + entry("sonnet", "sonnet-94", "sleep 2; exit 3")
        + entry("sonnet", "sonnet-95", "sleep 4; kill -SEGV $$")
    )


@contextmanager
def house(folder: Path, extra: str) -> Iterator[tuple[Daemon, str]]:
    port = free_port()
    with ExitStack() as held:
        ollama = held.enter_context(ollama_double("--model", MODEL, "--parallel", "2"))
        daemon = held.enter_context(running_daemon(folder, ollama=ollama, extra=extra, web=f"127.0.0.1:{port}"))
        yield daemon, f"http://127.0.0.1:{port}"


def page(shown: Browser, url: str, into: Path, name: str, views: tuple[str, ...]) -> None:
    for scheme, width, height in (("light", 1280, 900), ("dark", 1280, 900), ("light", 390, 844)):
        shown.colours(scheme)
        shown.size(width, height)
        for view in views:
            shown.goto(f"{url}/#{view}")
            shown.until("document.querySelector('#link').dataset.is === 'live'")
            time.sleep(3)  # until the first figures have come
            shown.picture(into / f"{name}-{view}-{'narrow' if width < 500 else scheme}.png")


def status(daemon: Daemon, into: Path, name: str) -> None:
    """What `status` looks like on terminals of 80 and of 200 columns, with its colours."""
    for columns in (80, 200):
        session = f"ai-pictures-{columns}"
        command = [sys.executable, "-m", "supervisord_ai", "status", "--config", str(daemon.folder / "config.toml")]
        terminal = ["tmux", "-L", session, "new-session", "-d", "-x", str(columns), "-y", "50"]
        subprocess.run([*terminal, f"{shlex.join(command)}; sleep 60"], check=True, cwd=ROOT)
        try:
            time.sleep(5)
            seen = subprocess.run(["tmux", "-L", session, "capture-pane", "-e", "-p"], check=True, capture_output=True).stdout
        finally:
            subprocess.run(["tmux", "-L", session, "kill-server"], check=True)
        (into / f"{name}-{columns}.ansi").write_bytes(seen)


def main() -> None:
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    with browser() as shown:
        with tempfile.TemporaryDirectory() as folder, house(Path(folder), "") as (daemon, url):
            page(shown, url, into, "empty", ("overview",))
            status(daemon, into, "status-empty")
        with tempfile.TemporaryDirectory() as folder, house(Path(folder), fleet()) as (daemon, url):
            until = time.monotonic() + 240
            while (level := ask(daemon.control, "/v1/status").json["level"])["level"] < 3 and time.monotonic() < until:
                time.sleep(2)
            print(f"level {level['level']}: {level['reason']}")
            time.sleep(20)
            status(daemon, into, "status-storm")
            page(shown, url, into, "storm", ("overview", "ollama", "agents"))


if __name__ == "__main__":
    main()
