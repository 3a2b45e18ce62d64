"""On a real systemd: an Ollama service moves behind us and back, and one that cannot start at its new port stays where it was.

Prints `ok - sentence` or `not ok - sentence` a line; exits 1 when one is not ok.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SITE = Path(__file__).parent / "site"
UNITS = Path("/etc/systemd/system")
FOLDER = Path("/tmp/takeover")
CONFIG = FOLDER / "config.toml"
DROP_IN = UNITS / "ollama.service.d/ai-supervisor.conf"

# What is needed of an Ollama here: that it listens where OLLAMA_HOST says, and answers.
OLLAMA = """
import http.server, json, os, sys
host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
if port in sys.argv[1:]:
    sys.exit("this one does not like that port")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"version": "0.12.6", "models": []}).encode()
        self.send_response(200 if self.path.startswith("/api/") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""
TEXT = f"""\
# the owner's words
[daemon]
runtime_dir = "{FOLDER}/run"
state_dir = "{FOLDER}/state"
log_dir = "{FOLDER}/log"
[[ollama]]
url = "auto"
"""

failures = 0


def check(sentence: str, good: bool, detail: object = "") -> None:
    global failures  # noqa: PLW0603 - a script's tally
    failures += not good
    print(f"{'ok' if good else 'not ok'} - {sentence}{'' if good else f': {detail}'}", flush=True)


def unit(name: str, command: str, more: str = "") -> None:
    text = f"[Service]\nExecStart={command}\nEnvironment=PYTHONPATH={SITE}\n{more}"
    (UNITS / name).write_text(text)


def get(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


def whoami(port: int) -> Any:
    return get(port, "/supervisor/v1/whoami")


def until(condition: Callable[[], Any], within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True)


def takeover(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisord_ai", "takeover", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    FOLDER.mkdir(parents=True)
    (FOLDER / "ollama.py").write_text(OLLAMA)
    CONFIG.write_text(TEXT)
    unit("ollama.service", f"{sys.executable} -S {FOLDER}/ollama.py 11439")
    run = f"{sys.executable} -m supervisord_ai run --accept-smaller-machine --config {CONFIG}"
    unit("ai-supervisor.service", run, "Type=notify\nTimeoutStartSec=300\n")
    systemctl("daemon-reload")
    systemctl("start", "ollama", "ai-supervisor")
    both = until(lambda: get(11434, "/api/version") and get(11435, "/api/version"))
    check("Ollama answers at its usual address, and we beside it", both)

    done = takeover("--config", str(CONFIG), "--port", "11439")
    check("one that does not come up at its new port is a failure", done.returncode == 1, done)
    check("and it says that everything is as before", "everything is as it was before" in done.stderr, done)
    check("Ollama has its address", bool(get(11434, "/api/version")) and whoami(11434) is None)
    check("the config is as it was", CONFIG.read_text() == TEXT, CONFIG.read_text())
    check("and no drop-in is left", not DROP_IN.parent.exists())
    check("we run again", until(lambda: whoami(11435)))

    done = takeover("--config", str(CONFIG))
    check("it moves", done.returncode == 0, done)
    print(done.stdout)
    check("we answer at its old address", bool(whoami(11434)))
    check("and Ollama through us", (get(11434, "/api/version") or {}).get("version") == "0.12.6")
    check("Ollama listens at its new one", (get(11436, "/api/version") or {}).get("version") == "0.12.6")
    check("twice is refused", takeover("--config", str(CONFIG)).returncode == 2)

    done = takeover("--undo")
    check("it moves back", done.returncode == 0, done)
    check("Ollama has its address again", bool(get(11434, "/api/version")) and whoami(11434) is None)
    check("nobody listens at the new one", get(11436, "/api/version") is None)
    says = CONFIG.read_text()
    check("the config says what it said, in its owner's words", says.startswith("# the owner") and 'url = "auto"' in says, says)
    check("we run beside it", until(lambda: whoami(11435)))
    systemctl("stop", "ai-supervisor", "ollama")
    if failures:
        subprocess.run(["journalctl", "-u", "ai-supervisor", "-u", "ollama", "-n", "80", "--no-pager"], check=False)
    os.sync()
    print(f"{'FAILED' if failures else 'passed'}: {failures} not ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
