"""An hour of samples, for the page and for replay: one compact column a figure, 4 bytes a second.

A trace is the same as text: a line of names, then a line a second. What a machine went through can be written down with
`trace_of`, kept as a small file, and played to the ladder again with `read_trace`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from supervisord_ai.core.samples import Gpu, Load, Machine, Psi, Sample

SECONDS = 3600


def _gpu_used(sample: Sample) -> float | None:
    known = [gpu.used for gpu in sample.machine.gpus or () if gpu.used is not None]
    return max(known, default=None)


def _gpu_busy(sample: Sample) -> float | None:
    known = [gpu.busy for gpu in sample.machine.gpus or () if gpu.busy is not None]
    return max(known, default=None)


def _some(psi: Psi | None) -> float | None:
    return None if psi is None else psi.some


FIGURES: dict[str, Callable[[Sample], float | None]] = {
    "at": lambda s: s.at,
    "wall": lambda s: s.wall,
    "cores": lambda s: s.machine.cores,
    "busy": lambda s: s.machine.busy,
    "runnable": lambda s: s.machine.runnable,
    "total_bytes": lambda s: s.machine.total_bytes,
    "available_bytes": lambda s: s.machine.available_bytes,
    "swap_used_bytes": lambda s: s.machine.swap_used_bytes,
    "refaults_per_s": lambda s: s.machine.refaults_per_s,
    "cpu_psi": lambda s: _some(s.machine.cpu),
    "memory_psi": lambda s: _some(s.machine.memory),
    "fleet_bytes": lambda s: s.machine.fleet_bytes,
    "fleet_cpu_psi": lambda s: _some(s.machine.fleet_cpu),
    "fleet_memory_psi": lambda s: _some(s.machine.fleet_memory),
    "gpu_used": _gpu_used,
    "gpu_busy": _gpu_busy,
    "queued": lambda s: s.load.queued,
    "running": lambda s: s.load.running,
    "slots": lambda s: s.load.slots,
    "oldest_s": lambda s: s.load.oldest_s,
    "wait_s": lambda s: s.load.wait_s,
    "wait_share": lambda s: s.load.wait_share,
}
_WIDE = frozenset({"at", "wall"})  # seconds since 1970 do not fit into 4 bytes


class Ring:
    """The last so many samples. The one writer is the sampler."""

    def __init__(self, seconds: int = SECONDS) -> None:
        self._size = seconds
        self._columns = {name: array("d" if name in _WIDE else "f", [math.nan]) * seconds for name in FIGURES}
        self._count = 0

    def __repr__(self) -> str:
        return f"<Ring {len(self)} of {self._size}>"

    def __len__(self) -> int:
        return min(self._count, self._size)

    @property
    def bytes(self) -> int:
        """What it holds in memory, full or not."""
        return sum(column.itemsize * len(column) for column in self._columns.values())

    def add(self, sample: Sample) -> None:
        """Put a sample where the oldest stood."""
        place = self._count % self._size
        self._count += 1
        for name, figure in FIGURES.items():
            value = figure(sample)
            self._columns[name][place] = math.nan if value is None else value

    def column(self, name: str, last: int = SECONDS) -> list[float | None]:
        """Return the last values of a figure, oldest first; None where it was not known."""
        column = self._columns[name]
        places = range(self._count - min(last, len(self)), self._count)
        values = (column[place % self._size] for place in places)
        return [None if math.isnan(value) else value for value in values]

    def samples(self, last: int = SECONDS) -> Iterator[Sample]:
        """Return them as samples again, oldest first: what the ladder needs is in them, names of cards are not."""
        columns = {name: self.column(name, last) for name in FIGURES}
        for place in range(min(last, len(self))):
            yield _sample({name: column[place] for name, column in columns.items()})


def trace_of(samples: Iterable[Sample], names: Sequence[str] = tuple(FIGURES)) -> str:
    """Write samples down: a line of names, then a line for each; an empty cell is a figure that was not known."""
    lines = [",".join(names)]
    for sample in samples:
        values = (FIGURES[name](sample) for name in names)
        lines.append(",".join("" if value is None else f"{value:.12g}" for value in values))
    return "\n".join(lines) + "\n"


def read_trace(text: str) -> list[Sample]:
    """Read what `trace_of` wrote. Lines that begin with `#` are for people. Raises: ValueError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = lines[0].split(",")
    unknown = set(names) - FIGURES.keys()
    if unknown:
        raise ValueError(f"no figure is called {', '.join(sorted(unknown))}")
    rows = (line.split(",") for line in lines[1:])
    return [_sample({name: float(cell) if cell else None for name, cell in zip(names, row, strict=True)}) for row in rows]


def _sample(figures: dict[str, float | None]) -> Sample:
    def whole(name: str) -> int | None:
        value = figures.get(name)
        return None if value is None else round(value)

    def psi(name: str) -> Psi | None:
        value = figures.get(name)
        return None if value is None else Psi(value, 0.0)

    used, busy = figures.get("gpu_used"), figures.get("gpu_busy")
    machine = Machine(
        cores=whole("cores") or 1,
        busy=figures.get("busy"),
        runnable=figures.get("runnable"),
        total_bytes=whole("total_bytes"),
        available_bytes=whole("available_bytes"),
        swap_used_bytes=whole("swap_used_bytes"),
        refaults_per_s=figures.get("refaults_per_s"),
        cpu=psi("cpu_psi"),
        memory=psi("memory_psi"),
        fleet_bytes=whole("fleet_bytes"),
        fleet_cpu=psi("fleet_cpu_psi"),
        fleet_memory=psi("fleet_memory_psi"),
        gpus=None if used is None and busy is None else (Gpu("", None if used is None else 1_000_000, _millionths(used), busy),),
    )
    load = Load(
        queued=whole("queued") or 0,
        running=whole("running") or 0,
        slots=whole("slots") or 0,
        oldest_s=figures.get("oldest_s") or 0.0,
        wait_s=figures.get("wait_s"),
        wait_share=figures.get("wait_share"),
    )
    return Sample(figures.get("at") or 0.0, figures.get("wall") or 0.0, machine, load)


def _millionths(share: float | None) -> int | None:
    return None if share is None else round(share * 1_000_000)
