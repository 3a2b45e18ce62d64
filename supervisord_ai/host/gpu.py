"""The door to graphics processors: NVML, through NVIDIA's own binding. Each of its calls may be missing, most of all on WSL.

A machine without one costs a failed dlopen now and then. Where a call is not supported (utilisation on WSL, memory on some
integrated chips) its figure is None and the others are given. https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from supervisord_ai.core.samples import Gpu

log = logging.getLogger(__name__)

# On WSL the driver's library lies where the dynamic linker often does not look. Loaded from there once, it is found by its name.
LIBRARY = "libnvidia-ml.so.1"
WSL_LIBRARY = "/usr/lib/wsl/lib/libnvidia-ml.so.1"
LOOK_AGAIN_S = 60.0


class Gpus(Protocol):
    """The graphics processors of this machine."""

    def read(self, now: float) -> tuple[Gpu, ...] | None:
        """Return each of them, in the order of the driver; None where there is no driver. Never raises; may take milliseconds."""


class NvmlGpus:
    """NVML. What fails is looked for again after a minute: a driver may be loaded, or lost, while we run."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load if load is not None else load_nvml
        self._nvml: Any = None
        self._handles: list[tuple[str, Any]] = []
        self._look_at = float("-inf")

    def __repr__(self) -> str:
        return f"<NvmlGpus {[name for name, _ in self._handles]}>"

    def read(self, now: float) -> tuple[Gpu, ...] | None:
        if self._nvml is None:
            if now < self._look_at:
                return None
            self._look_at = now + LOOK_AGAIN_S
            if not self._open():
                return None
        found = tuple(self._one(name, handle) for name, handle in self._handles)
        if found and all(gpu.used_bytes is None and gpu.busy is None for gpu in found):
            self._close()  # nothing answers any more: the driver was reloaded, or the card fell off the bus
            return None
        return found

    def _open(self) -> bool:
        try:
            nvml = self._load()
        except (OSError, ImportError) as exc:
            log.debug("no NVML: %s", exc)
            return False
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            log.debug("NVML is there and does not start: %s", exc)
            return False
        self._nvml = nvml
        self._handles = []
        for index in range(self._asked(nvml.nvmlDeviceGetCount) or 0):
            handle = self._asked(nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None:
                name = self._asked(nvml.nvmlDeviceGetName, handle)
                # bytes before release 11 of the binding
                text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or f"GPU {index}")
                self._handles.append((text, handle))
        return True

    def _close(self) -> None:
        self._asked(self._nvml.nvmlShutdown)
        self._nvml, self._handles = None, []

    def _one(self, name: str, handle: Any) -> Gpu:
        memory = self._asked(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._asked(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        return Gpu(
            name=name,
            total_bytes=None if memory is None else int(memory.total),
            used_bytes=None if memory is None else int(memory.used),
            busy=None if rates is None else int(rates.gpu) / 100,
        )

    def _asked(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return what a call says, None where this driver does not know it."""
        try:
            return call(*args)
        except self._nvml.NVMLError:
            return None


def known_calls(load: Callable[[], Any] | None = None) -> tuple[tuple[str, bool], ...] | None:
    """Return which of the things one may want to know of the first graphics processor its driver tells; None without NVML."""
    try:
        nvml = (load or load_nvml)()
    except (OSError, ImportError):
        return None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        return tuple((what, _is_known(nvml, getattr(nvml, call, None), handle)) for what, call in _WORTH_KNOWING)
    except nvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


_WORTH_KNOWING = (
    ("memory", "nvmlDeviceGetMemoryInfo"),
    ("utilisation", "nvmlDeviceGetUtilizationRates"),
    ("processes", "nvmlDeviceGetComputeRunningProcesses"),
)


def _is_known(nvml: Any, call: Callable[[Any], Any] | None, handle: Any) -> bool:
    try:
        return call is not None and call(handle) is not None
    except nvml.NVMLError:
        return False


def load_nvml() -> Any:
    """Import NVIDIA's binding, with WSL's library where it is the only one.

    Raises:
        OSError, ImportError: there is none.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        ctypes.CDLL(WSL_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    with warnings.catch_warnings():
        # A package of the same name, long given up, may shadow this one, and says so on each import.
        warnings.simplefilter("ignore")
        import pynvml  # noqa: PLC0415 - a machine without the library need not spend 30 ms on it
    return pynvml
