"""What is asked of systemd about units that are not running: the same of the made-up one and of systemctl on a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host.systemd import Systemctl, UnitFiles
from tests.fakes.units import FakeUnits

TEXT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"


def fake(root: Path) -> tuple[UnitFiles, Callable[[str], bool]]:
    made = FakeUnits(root / "etc/systemd/system")
    return made, lambda unit: unit in made.enabled


def real(root: Path) -> tuple[UnitFiles, Callable[[str], bool]]:
    if shutil.which("systemctl") is None:
        pytest.skip("systemctl is not installed")
    units = root / "etc/systemd/system"
    return Systemctl(units, ("systemctl", f"--root={root}")), lambda unit: (units / "multi-user.target.wants" / unit).is_symlink()


@pytest.fixture(params=[fake, real], ids=["fake", "real"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[UnitFiles, Callable[[str], bool]]:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/one.service").write_text(TEXT)
    (tmp_path / "etc/systemd/system/two.service").write_text(TEXT)
    made: tuple[UnitFiles, Callable[[str], bool]] = request.param(tmp_path)
    return made


def test_units_are_enabled_and_disabled_and_twice_is_once(systemd: tuple[UnitFiles, Callable[[str], bool]]) -> None:
    units, is_enabled = systemd
    for _ in range(2):
        units.enable("one.service", "two.service")
        assert is_enabled("one.service")
        assert is_enabled("two.service")
    for _ in range(2):
        units.disable("one.service")
        assert not is_enabled("one.service")
        assert is_enabled("two.service")


def test_a_unit_without_a_file_cannot_be_enabled(systemd: tuple[UnitFiles, Callable[[str], bool]]) -> None:
    units, _ = systemd
    with pytest.raises(HostFault, match=r"three\.service"):
        units.enable("three.service")
