"""On a real systemd: installed as a service, twenty agents, and everything that may happen to the one who supervises them."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from guest import Caller, Tally, agents, ask, command, pids, shown, systemctl, until

PAYLOAD = Path(__file__).parent
CONFIG = Path("/etc/ai-supervisor/config.toml")
INSTALLED = Path("/opt/ai-supervisor")
UNITS = Path("/etc/systemd/system")
US, HOLDER, SOCKETS = "ai-supervisor.service", "ai-agents.service", "ai-supervisor.socket"
OLLAMA_PORT = 11434
FLEET_BYTES = 250_000_000

# Fills up when it is told to (USR1): below its own cap, but all of them together above the fleet's.
HOG = "trap : USR1; sleep infinity & wait; { head -c 36m /dev/zero; sleep infinity; } | tail -n 1"
# Dies in its first moment.
GREEDY = "{ head -c 64m /dev/zero; sleep infinity; } | tail -n 1"
# Says whom the gateway takes it for, and what becomes of a call to the backend, whenever it is told to (USR1).
SPY = r"""
import http.client, json, pathlib, signal, socket, time
out = pathlib.Path("/tmp/spy")
def look(*_):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/run/ai-supervisor/llm.sock")
    connection.request("GET", "/supervisor/v1/whoami")
    told = {"whoami": json.loads(connection.getresponse().read())}
    with socket.socket() as dialled:
        dialled.settimeout(5)
        told["dialled"] = dialled.connect_ex(("127.0.0.1", 11434))
        time.sleep(3 if told["dialled"] == 0 else 0)
    out.write_text(json.dumps(told))
signal.signal(signal.SIGUSR1, look)
while True:
    time.sleep(3600)
"""
OLLAMA = r"""
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"version": "0.12.6", "models": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 11434), Handler).serve_forever()
"""


def braced(words: str) -> str:
    """Double the braces: in a config they stand for placeholders."""
    return words.replace("{", "{{").replace("}", "}}")


TEXT = f"""\
# the owner's words
include = ["agents.d/*.toml"]
[memory]
total = "850MB"
os = "100MB"
ollama = "100MB"
cache = "50MB"
monitoring = "50MB"
agents = "{FLEET_BYTES // 1_000_000}MB"
overcommit = 4.0
[class.opus]
memory = "40MiB"
user = "ai-agents"
start = "1s"
priority = 3
ceiling = 3
[start]
batch_size = 20
[[agents]]
name = "still-{{n:02}}"
class = "opus"
count = 10
command = ["sleep", "infinity"]
[[agents]]
name = "hog-{{n}}"
class = "opus"
count = 8
command = {braced(HOG)!r}
[[agents]]
name = "greedy"
class = "opus"
restart = "no"
command = {braced(GREEDY)!r}
[[agents]]
name = "spy"
class = "opus"
command = ["python3", "-S", "/tmp/spy.py"]
"""

tally = Tally()
check = tally.check


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return command("/usr/local/bin/ai-supervisor", *words)


def from_payload(*words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(PAYLOAD / "site"), "SUDO_USER": "ada"}
    return command(sys.executable, "-m", "supervisord_ai", *words, env=environ)


def everybody_runs() -> bool:
    known = agents()
    return len(known) == 20 and all(one["pid"] for name, one in known.items() if name != "greedy")


def holder() -> Path:
    return Path("/sys/fs/cgroup") / shown(HOLDER, "ControlGroup").lstrip("/")


def in_holder() -> set[int]:
    """Everybody in the holder's cgroup but the one that waits."""
    files = holder().rglob("cgroup.procs")
    return {int(line) for file in files if file.parent.name != "holder" for line in file.read_text().split()}


def counted(group: Path, what: str, file: str = "memory.events.local") -> int:
    return int(dict(line.split() for line in (group / file).read_text().splitlines())[what])


def group_of(pid: int) -> Path:
    return Path("/sys/fs/cgroup") / Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::/")[2]


def spied(pid: int) -> dict[str, Any]:
    out = Path("/tmp/spy")
    out.unlink(missing_ok=True)
    os.kill(pid, 10)
    until(out.exists, 60)
    time.sleep(0.5)
    told: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    return told


def main() -> int:
    subprocess.run(["useradd", "--create-home", "ada"], check=False)  # another script may have made them
    Path("/tmp/spy.py").write_text(SPY)
    Path("/tmp/ollama.py").write_text(OLLAMA)
    os.chmod("/tmp", 0o1777)
    PAYLOAD.chmod(0o755)
    (UNITS / "ollama.service").write_text(f"[Service]\nExecStart={sys.executable} -S /tmp/ollama.py\n")
    install()
    only = sys.argv[1] if len(sys.argv) > 1 else "service"
    for story in (alive, killed, restarted, upgraded, isolated, fleet_cap, hung, stopped, removed):
        if only not in {"service", story.__name__} and story is not alive:
            continue
        print(f"# {story.__name__}", flush=True)
        story()
    return tally.end(US, HOLDER)


def install() -> None:
    done = from_payload("install")
    check("install makes a first config, units, a release and a user", done.returncode == 0, done)
    print(done.stdout, flush=True)
    check("the first config is good", cli("config", "check").returncode == 0, cli("config", "check"))
    check("nothing was started yet", shown(US, "ActiveState") == "inactive", shown(US, "ActiveState"))
    CONFIG.write_text(TEXT)
    done = from_payload("install", "--now")
    check("with the owner's config it starts", done.returncode == 0, done)
    print(done.stdout, flush=True)
    for unit in (US, HOLDER, SOCKETS):
        check(f"{unit} is active", shown(unit, "ActiveState") == "active", shown(unit, "ActiveState"))
    systemctl("start", "ollama")


def alive() -> None:
    check("twenty agents are up", until(everybody_runs, 180), agents())
    guarantee = ask("/v1/status")["guarantee"]
    check("their caps are hard", guarantee["level"] == "hard", guarantee)
    limit = (holder() / "memory.max").read_text().strip()
    check("the holder has the fleet's limit", abs(int(limit) - FLEET_BYTES) < 4096, limit)
    ended = until(lambda: agents()["greedy"]["verdict"] == "oom:own-cap", 120)
    check("the cap binds from the first instruction", ended, agents()["greedy"])
    mine = pids()
    above = {group_of(pid).parent for pid in mine.values()}
    check("all of them live below the holder", len(above) == 1 and HOLDER in str(above), above)
    told = spied(mine["spy"])
    check("an agent is known by its cgroup", "spy" in str(told.get("whoami")), told)
    identity = ask("/v1/status")["identity"]
    check("identity is proved", identity["level"] == "proved", identity)
    ada = pwd.getpwnam("ada")
    as_ada = ["setpriv", f"--reuid={ada.pw_uid}", f"--regid={ada.pw_gid}", "--clear-groups",
              "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/ada"]  # fmt: skip
    done = command(*as_ada, "ai-supervisor", "status")
    check("the owner sees it without sudo", done.returncode == 0 and "agents" in done.stdout, done)
    print(done.stdout, flush=True)
    call = "import sys; sys.path.insert(0, '/payload'); from guest import ask; print(ask('/supervisor/v1/whoami', at='llm.sock'))"
    done = command(*as_ada, sys.executable, "-S", "-c", call)
    check("and calls llm.sock as the owner", "owner" in done.stdout, done)


def nobody_noticed(what: str, before: dict[str, int], caller: Caller) -> None:
    """After the supervisor came back: the same agents, nobody else, and no caller was turned away."""
    came = until(lambda: bool(agents()), 120)
    after = pids()
    check(f"{what}: the first status has the same agents", came and after == before, (before, after))
    there = in_holder()
    check(f"{what}: nobody is there twice, and no stray", set(before.values()) <= there and len(there) == expected(before), there)
    caller.end()
    check(f"{what}: the socket never refused", not caller.refused and caller.answered, caller)
    print(caller, flush=True)


def expected(before: dict[str, int]) -> int:
    """A hog is a shell and its sleep; the others are one process."""
    return len(before) + sum(name.startswith("hog") for name in before)


def killed() -> None:
    before, caller = pids(), Caller()
    time.sleep(2)
    main_pid = int(shown(US, "MainPID"))
    os.kill(main_pid, 9)
    check("kill -9: systemd starts another", until(lambda: shown(US, "MainPID") not in {"0", str(main_pid)}))
    check("kill -9: it gets ready", until(lambda: shown(US, "ActiveState") == "active"), shown(US, "ActiveState"))
    nobody_noticed("kill -9", before, caller)


def restarted() -> None:
    before, caller = pids(), Caller()
    time.sleep(2)
    systemctl("restart", US)
    nobody_noticed("restart", before, caller)


def upgraded() -> None:
    """Wheels of this version with other numbers, units and tables; the daemon of the last one cannot start."""
    first, better, broken = ask("/v1/status")["version"], "9.0.1", "9.0.2"
    wheel = "/payload/wheels/supervisord_ai-{}-py3-none-any.whl"
    before, caller = pids(), Caller()
    done = cli("upgrade", wheel.format(better))
    check("upgrade: another release runs, without any network", done.returncode == 0, done)
    print(done.stdout, flush=True)
    version = ask("/v1/status")["version"]
    check("upgrade: it is the other one", version == better, version)
    check("upgrade: with its own units", shown(US, "Description") == f"ai-supervisor {better}", shown(US, "Description"))
    nobody_noticed("upgrade", before, caller)

    caller = Caller()
    done = cli("upgrade", wheel.format(broken))
    check("upgrade: one that does not start is taken back", done.returncode == 1 and "runs again" in done.stderr, done)
    version = ask("/v1/status")["version"]
    check("upgrade: the one of before runs", version == better, version)
    check("upgrade: with its own units again", shown(US, "Description") == f"ai-supervisor {better}", shown(US, "Description"))
    nobody_noticed("a failed upgrade", before, caller)

    done = cli("upgrade", "--rollback")
    refused = done.returncode == 2 and "--old-journal" in done.stderr
    check("rollback: what came since would be lost, so it is refused", refused, done)
    caller = Caller()
    done = cli("upgrade", "--rollback", "--old-journal")
    check("rollback: with the journal of before it ends well", done.returncode == 0, done)
    print(done.stdout, flush=True)
    version = ask("/v1/status")["version"]
    check("rollback: the first release runs", version == first, version)
    check("rollback: with its own units", shown(US, "Description") == "ai-supervisor", shown(US, "Description"))
    nobody_noticed("rollback", before, caller)


def isolated() -> None:
    """An agent that dials the backend itself is named; with the way closed it is refused, and the owner is not."""
    spy = pids()["spy"]
    told = spied(spy)
    check("without isolation an agent can dial the backend", told.get("dialled") == 0, told)
    named = until(lambda: any(one["agent"] == "spy" for one in ask("/v1/status")["bypasses"]) or not spied(spy), 120)
    check("and is named for it in status", named, ask("/v1/status")["bypasses"])
    CONFIG.write_text(CONFIG.read_text() + '[isolation]\nmode = "nft"\n')
    systemctl("restart", US)
    check("the same agents, now behind a firewall", pids().get("spy") == spy, pids())
    told = spied(spy)
    check("an agent that dials the backend is refused", told.get("dialled") == errno.ECONNREFUSED, told)
    check("and reaches us as ever", "spy" in str(told.get("whoami")), told)
    with socket.socket() as mine:
        check("the owner is not refused", mine.connect_ex(("127.0.0.1", OLLAMA_PORT)) == 0)
    ready = until(lambda: ask("/v1/status")["backends"][0]["state"] == "ready", 60)
    check("nor is the gateway", ready, ask("/v1/status")["backends"])
    tables = command("nft", "list", "tables").stdout
    check("the rules are there", "ai_supervisor" in tables, tables)


def fleet_cap() -> None:
    before = agents()
    hogs = {name: one["pid"] for name, one in before.items() if name.startswith("hog") and one["pid"]}
    check("the hogs are there", len(hogs) == 8, before)
    groups = {name: group_of(pid) for name, pid in hogs.items()}
    fleets = counted(holder(), "oom")
    for pid in hogs.values():
        os.kill(pid, 10)
    hit = until(lambda: any(one["verdict"] == "oom:fleet" for one in agents().values()), 180)
    now = agents()
    check("the fleet's limit has victims, who are told that it was the fleet's", hit, now)
    others = {one["verdict"] for name, one in now.items() if name.startswith("hog") and one["verdict"]}
    check("none of them is taken for its own fault", others <= {"oom:fleet"}, others)
    hits, own_hits = counted(holder(), "oom") - fleets, {name: counted(group, "oom") for name, group in groups.items()}
    is_fleets = hits > 0 and not any(own_hits.values())
    check("as the kernel counted: the limit that was reached is the holder's alone", is_fleets, (hits, own_hits))
    whole = [name for name, group in groups.items() if counted(group, "oom_group_kill", "memory.events")]
    victims = [name for name, one in now.items() if one["verdict"] == "oom:fleet"]
    check("and its victims went whole", victims and set(victims) <= set(whole), (victims, whole))
    check("they come back", until(lambda: all(agents()[name]["pid"] for name in hogs), 180), agents())
    states = {name: one["state"] for name, one in agents().items() if one["state"] == "quarantined"}
    check("nobody is in quarantine", not states, states)
    still = {name: one["pid"] for name, one in before.items() if name.startswith("still")}
    check("nobody else was touched", {name: pids().get(name) for name in still} == still, pids())


def hung() -> None:
    """A supervisor whose loop hangs: a handler of a signal that only this test has."""
    script = Path("/tmp/hang.py")
    script.write_text(
        "import signal, sys, time\nfrom supervisord_ai.cli.main import main\n"
        "signal.signal(signal.SIGUSR2, lambda *_: time.sleep(10**6))\nsys.exit(main())\n"
    )
    drop_in = UNITS / f"{US}.d/hang.conf"
    drop_in.parent.mkdir()
    python = (INSTALLED / "current").resolve() / "bin/python"
    drop_in.write_text(f"[Service]\nWatchdogSec=12\nExecStart=\nExecStart={python} {script} run --config {CONFIG}\n")
    systemctl("daemon-reload")
    systemctl("restart", US)
    before = pids()
    check("with a hook to hang: it runs", len(before) == 19, before)
    time.sleep(15)
    main_pid = shown(US, "MainPID")
    os.kill(int(main_pid), 12)
    check("the watchdog ends a loop that hangs", until(lambda: shown(US, "MainPID") not in {"0", main_pid}, 120))
    said = command("journalctl", "-u", US, "--no-pager", "-o", "cat").stdout
    check("its stack is in the log", "Fatal Python error: Aborted" in said and "hang.py" in said, said[-2000:])
    check("and the next one is ready, with the same agents", until(lambda: bool(agents())) and pids() == before, (before, pids()))
    shutil.rmtree(drop_in.parent)
    systemctl("daemon-reload")
    systemctl("restart", US)


def stopped() -> None:
    before = pids()
    systemctl("stop", US)
    gone = until(lambda: not in_holder(), 15)
    check("stop of the supervisor ends every agent", gone and before, in_holder())
    check("and leaves the holder", shown(HOLDER, "ActiveState") == "active", shown(HOLDER, "ActiveState"))
    check("looking at status does not start it", cli("status").returncode == 3 and shown(US, "ActiveState") == "inactive")
    told = ask("/supervisor/v1/whoami", at="llm.sock", timeout_s=120)
    check("a call to llm.sock does", bool(told) and shown(US, "ActiveState") == "active", (told, shown(US, "ActiveState")))
    check("with its agents", until(everybody_runs, 180), agents())
    systemctl("stop", HOLDER)
    check("stop of the holder is the full stop", shown(US, "ActiveState") == "inactive", shown(US, "ActiveState"))
    alive_yet = [pid for pid in before.values() if Path(f"/proc/{pid}").exists()]
    check("nobody is left", not alive_yet, alive_yet)
    tables = command("nft", "list", "tables").stdout
    check("and no rule", "ai_supervisor" not in tables, tables)
    systemctl("start", US)
    check("a start brings all of it back", until(everybody_runs, 180), agents())


def removed() -> None:
    done = cli("uninstall")
    check("uninstall ends well", done.returncode == 0, done)
    print(done.stdout, flush=True)
    made = (INSTALLED, Path("/usr/local/bin/ai-supervisor"), UNITS / US, UNITS / HOLDER, UNITS / SOCKETS)
    left = [path for path in made if path.exists()]
    check("its units, releases and command are gone", not left, left)
    check("the state and the config stay", Path("/var/lib/ai-supervisor/journal.db").exists() and CONFIG.exists())
    check("and the agents' user is gone", command("id", "ai-agents").returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
