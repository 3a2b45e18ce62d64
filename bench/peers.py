"""What we are compared with, each set in an environment of its own, made from its lock at the first call and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def venv_of(name: str) -> Path:
    """Return the environment with `requirements/bench-NAME.lock`; each set of hashes has its own."""
    lock = ROOT / "requirements" / f"bench-{name}.lock"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ai-supervisor"
    venv = cache / f"bench-{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (venv / "complete").exists():
        print(f"installing {lock.name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", str(lock)]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        (venv / "complete").touch()
    return venv


def program(name: str, package: str) -> str:
    """Return where a server is; installed by apt if it is not there and we are root."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None and os.geteuid() == 0:
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", package]
        subprocess.run(install, check=True, stdout=sys.stderr)
        found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not here: sudo apt-get install --no-install-recommends {package}")
    return found
