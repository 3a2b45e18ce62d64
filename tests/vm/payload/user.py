"""A normal user with a systemd of their own: in the foreground, and installed for themselves alone; hard caps either way."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import guest
from guest import Tally, agents, ask, command, systemctl, until

NAME = "ada"
TEXT = """\
[memory]
total = "850MB"
os = "100MB"
ollama = "100MB"
cache = "50MB"
monitoring = "50MB"
agents = "250MB"
[web]
listen = ""
[listen]
tcp = []
[class.sonnet]
memory = "40MiB"
start = "1s"
ceiling = 3
[[agents]]
name = "one-{n}"
class = "sonnet"
count = 3
command = ["sleep", "infinity"]
"""

tally = Tally()
check = tally.check


def main() -> int:
    subprocess.run(["useradd", "--create-home", NAME], check=False)  # another script may have made them
    ada = pwd.getpwnam(NAME)
    runtime = Path(f"/run/user/{ada.pw_uid}")
    runtime.mkdir(parents=True, exist_ok=True)
    os.chown(runtime, ada.pw_uid, ada.pw_gid)
    Path("/payload").chmod(0o755)
    # The guest has no logins, so nothing makes the folder above and nobody starts the user's systemd.
    drop_in = Path("/etc/systemd/system/user@.service.d/guest.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(f"[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR={runtime}\n")
    nothing = "[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=yes\n"
    Path("/etc/systemd/system/user-runtime-dir@.service").write_text(nothing)
    systemctl("daemon-reload")
    systemctl("start", f"user@{ada.pw_uid}.service")
    check("the user's systemd runs", until(lambda: (runtime / "systemd/private").exists()))

    config = Path(ada.pw_dir, ".config/ai-supervisor/config.toml")
    environ = [f"HOME={ada.pw_dir}", "PATH=/usr/bin:/bin", f"XDG_RUNTIME_DIR={runtime}", "PYTHONPATH=/payload/site"]
    become = ["setpriv", f"--reuid={ada.pw_uid}", f"--regid={ada.pw_gid}", "--clear-groups"]
    as_ada = [*become, "env", "-i", *environ]
    command(*as_ada, "mkdir", "-p", str(config.parent))
    config.write_text(TEXT)
    guest.RUN = runtime / "ai-supervisor"
    us = [*as_ada, sys.executable, "-m", "supervisord_ai"]

    # In the foreground, from a group of the user's own systemd: who is outside may not be moved into one of its scopes.
    place = Path(f"/sys/fs/cgroup/user.slice/user-{ada.pw_uid}.slice/user@{ada.pw_uid}.service/session.scope")
    begin = f"mkdir -p {place} && chown {ada.pw_uid} {place}/cgroup.procs && echo $$ >{place}/cgroup.procs && exec \"$@\""
    with Path("/tmp/user.log").open("wb") as log:
        daemon = subprocess.Popen(["sh", "-c", begin, "sh", *us, "run"], stdout=log, stderr=log)
    up = until(lambda: [one["state"] for one in agents().values()] == ["running"] * 3, 180)
    check("in the foreground: the agents run", up, Path("/tmp/user.log").read_text()[-3000:])
    guarantee = ask("/v1/status")["guarantee"]
    check("in the foreground: their caps are hard", guarantee["level"] == "hard" and ".scope" in guarantee["detail"], guarantee)
    check("in the foreground: it is the process that was started", ask("/v1/status")["pid"] == daemon.pid)
    daemon.send_signal(signal.SIGTERM)
    check("in the foreground: TERM ends it with exit code 0", daemon.wait(60) == 0, Path("/tmp/user.log").read_text()[-3000:])

    done = command(*us, "install", "--user", "--now")
    check("install --user --now ends well", done.returncode == 0, done)
    print(done.stdout, flush=True)
    up = until(lambda: [one["state"] for one in agents().values()] == ["running"] * 3, 180)
    check("installed: the agents run", up, agents())
    guarantee = ask("/v1/status")["guarantee"]
    check("installed: their caps are hard, below the holder", "ai-agents.service" in guarantee["detail"], guarantee)
    before = {name: one["pid"] for name, one in agents().items()}
    systemctl_user = [*as_ada, "systemctl", "--user"]
    done = command(*systemctl_user, "restart", "ai-supervisor")
    check("installed: a restart ends well", done.returncode == 0, done)
    after = {name: one["pid"] for name, one in agents().items()}
    check("installed: and leaves the agents where they are", after == before, (before, after))
    done = command(*us, "uninstall", "--user")
    check("uninstall --user ends well", done.returncode == 0, done)
    print(done.stdout, flush=True)
    time.sleep(1)
    check("nobody is left", not any(Path(f"/proc/{pid}").exists() for pid in before.values()), before)
    return tally.end(f"user@{ada.pw_uid}")


if __name__ == "__main__":
    sys.exit(main())
