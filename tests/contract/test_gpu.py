"""The door to NVML: one suite for a made-up driver and, where there is one, the real card; then what drivers do not tell."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys

import pytest

from supervisord_ai.core.samples import Gpu
from supervisord_ai.host.gpu import LIBRARY, LOOK_AGAIN_S, WSL_LIBRARY, NvmlGpus, known_calls, load_nvml
from tests.fakes.nvml import Card, FakeNvml


def has_driver() -> bool:
    try:
        load_nvml().nvmlInit()
    except Exception:  # noqa: BLE001 - whatever it is, there is no card to test with
        return False
    return True


REAL = pytest.param("real", marks=pytest.mark.skipif(not has_driver(), reason="no NVIDIA driver here"))


@pytest.fixture(params=["fake", REAL])
def gpus(request: pytest.FixtureRequest) -> NvmlGpus:
    return NvmlGpus() if request.param == "real" else NvmlGpus(FakeNvml)


class TestEveryDriver:
    def test_each_card_has_a_name_and_figures_that_can_be(self, gpus: NvmlGpus) -> None:
        found = gpus.read(0.0)
        assert found
        for gpu in found:
            assert gpu.name
            assert gpu.total_bytes is not None
            assert gpu.used_bytes is not None
            assert 0 < gpu.used_bytes < gpu.total_bytes
            assert gpu.used == gpu.used_bytes / gpu.total_bytes
            assert gpu.busy is None or 0 <= gpu.busy <= 1

    def test_the_cards_stay_the_same(self, gpus: NvmlGpus) -> None:
        first, second = gpus.read(0.0), gpus.read(1.0)
        assert first is not None
        assert second is not None
        assert [(gpu.name, gpu.total_bytes) for gpu in first] == [(gpu.name, gpu.total_bytes) for gpu in second]


@pytest.mark.skipif(not has_driver() or shutil.which("nvidia-smi") is None, reason="no NVIDIA driver here")
def test_the_figures_are_those_of_nvidia_smi() -> None:
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    found = NvmlGpus().read(0.0) or ()
    assert len(found) == len(told)
    for gpu, line in zip(found, told, strict=True):
        total_mib, used_mib = (int(word) for word in line.split(","))
        assert gpu.total_bytes is not None
        assert gpu.used_bytes is not None
        assert abs(gpu.total_bytes / 2**20 - total_mib) < 2
        # nvidia-smi may leave out what the driver itself holds; within one sample of each other they move little.
        assert abs(gpu.used_bytes / 2**20 - used_mib) < 0.02 * total_mib


@pytest.mark.parametrize(
    ("lacks", "left"),
    [
        ({"rates"}, Gpu("card", 100, 40, None)),
        ({"memory"}, Gpu("card", None, None, 0.4)),
        ({"name"}, Gpu("GPU 0", 100, 40, 0.4)),
    ],
)
def test_a_call_that_the_driver_does_not_know_costs_only_its_figure(lacks: set[str], left: Gpu) -> None:
    card = Card("card", total=100, used=40, gpu=40, lacks=frozenset(lacks))
    assert NvmlGpus(lambda: FakeNvml([card])).read(0.0) == (left,)


def test_several_cards_come_in_the_drivers_order() -> None:
    found = NvmlGpus(lambda: FakeNvml([Card("a"), Card(b"b"), Card("c")])).read(0.0)
    assert [gpu.name for gpu in found or ()] == ["a", "b", "c"]


def test_without_a_driver_nothing_is_told_and_it_is_looked_for_once_a_minute() -> None:
    looked = []

    def load() -> object:
        looked.append(1)
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    gpus = NvmlGpus(load)
    assert [gpus.read(float(second)) for second in range(int(LOOK_AGAIN_S))] == [None] * int(LOOK_AGAIN_S)
    assert len(looked) == 1
    gpus.read(LOOK_AGAIN_S)
    assert len(looked) == 2


def test_a_driver_that_goes_away_is_found_back() -> None:
    nvml = FakeNvml()
    gpus = NvmlGpus(lambda: nvml)
    assert gpus.read(0.0)
    nvml.cards[0].lacks = frozenset({"memory", "rates"})
    nvml.starts = False
    assert gpus.read(1.0) is None
    assert gpus.read(LOOK_AGAIN_S + 1) is None
    nvml.cards[0].lacks = frozenset()
    nvml.starts = True
    assert gpus.read(2 * LOOK_AGAIN_S + 2)


def test_the_binding_warns_nobody() -> None:
    # Even under -W error a warning of the module must not reach whoever imports the door.
    code = "from supervisord_ai.host.gpu import NvmlGpus; NvmlGpus().read(0.0)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_card_that_fell_off_the_bus_does_not_hide_the_others() -> None:
    cards = [Card("a"), Card("b", lacks=frozenset({"handle"})), Card("c")]
    assert [gpu.name for gpu in NvmlGpus(lambda: FakeNvml(cards)).read(0.0) or ()] == ["a", "c"]


# --- what `doctor` asks --------------------------------------------------------------------------------------------------


def test_what_the_driver_tells_is_asked_call_by_call() -> None:
    nvml = FakeNvml()
    assert known_calls(lambda: nvml) == (("memory", True), ("utilisation", True), ("processes", True))
    nvml.cards[0].lacks = frozenset({"rates", "processes"})  # WSL's
    assert known_calls(lambda: nvml) == (("memory", True), ("utilisation", False), ("processes", False))
    assert nvml.shutdowns == nvml.inits == 2


def test_a_binding_older_than_a_call_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetComputeRunningProcesses")
    assert known_calls(FakeNvml) == (("memory", True), ("utilisation", True), ("processes", False))


def test_without_a_library_a_driver_or_a_card_nothing_is_known() -> None:
    def load() -> object:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert known_calls(load) is None
    asleep = FakeNvml(starts=False)
    assert known_calls(lambda: asleep) is None
    assert known_calls(lambda: FakeNvml([Card(lacks=frozenset({"handle"}))])) is None


def test_on_wsl_the_library_lies_elsewhere_and_is_loaded_for_the_binding_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, int]] = []

    def load(name: str, mode: int = ctypes.DEFAULT_MODE) -> None:
        if name == LIBRARY:
            raise OSError(f"{name}: cannot open shared object file")
        loaded.append((name, mode))

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert callable(load_nvml().nvmlInit)
    assert loaded == [(WSL_LIBRARY, ctypes.RTLD_GLOBAL)]
