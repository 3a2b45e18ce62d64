"""The fleet suite again, as somebody who may write no cgroup: what a normal user without systemd has.

Root's Python and checkout are often out of others' reach, so the suite is copied, with what it imports, to a folder of theirs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SITE = Path(trio.__file__).parent.parent
IMPORTED = (
    "trio", "outcome", "sortedcontainers", "sniffio", "attr", "attrs", "idna", "psutil", "msgspec",
    "pytest", "_pytest", "pytest_trio", "pluggy", "iniconfig", "packaging", "pygments",
)  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite already runs as a normal user")
def test_the_fleet_suite_passes_as_a_normal_user_without_cgroups() -> None:
    somebody = pwd.getpwnam("nobody")
    python = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    if python is None:
        pytest.skip(f"no system Python {sys.version_info.major}.{sys.version_info.minor} that another user can execute")
    with tempfile.TemporaryDirectory(prefix="ai-supervisor-test-") as folder:  # pytest's own are closed to others
        home = Path(folder)
        copy_suite(home)
        home.chmod(0o755)
        os.chown(home, somebody.pw_uid, somebody.pw_gid)
        run_suite(home, python, somebody)


def copy_suite(home: Path) -> None:
    shutil.copytree(ROOT / "supervisord_ai", home / "supervisord_ai", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home)
    shutil.copytree(ROOT / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in IMPORTED:
        shutil.copytree(SITE / name, home / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "_tests"))
    shutil.copy(SITE / "py.py", home)


def run_suite(home: Path, python: str, somebody: pwd.struct_passwd) -> None:
    suite = ("system/test_fleet.py", "contract/test_process.py", "contract/test_cages.py", "shell/test_fleet.py")
    done = subprocess.run(
        ["setpriv", f"--reuid={somebody.pw_uid}", f"--regid={somebody.pw_gid}", "--clear-groups", "--",
         python, "-m", "pytest", "-p", "pytest_trio.plugin", "-p", "no:cacheprovider", "--noconftest",
         "--basetemp", str(home / "tmp"), "-k", "not v1 and not v2", *(f"tests/{name}" for name in suite)],
        cwd=home,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
