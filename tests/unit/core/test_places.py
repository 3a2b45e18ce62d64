"""Where files are, for whom."""

from __future__ import annotations

from supervisord_ai.core.places import (
    InstallPlaces,
    Places,
    Surroundings,
    config_path,
    default_places,
    install_places,
    runtime_dir,
    state_dir,
)

ROOT = Surroundings(0, "/root", {"XDG_STATE_HOME": "/elsewhere", "XDG_RUNTIME_DIR": "/run/user/0"})
ANN = Surroundings(1000, "/home/ann", {})
XDG = {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"}


def test_root_has_the_folders_of_a_system_service_whatever_its_session_says() -> None:
    expected = Places("/etc/ai-supervisor/config.toml", "/run/ai-supervisor", "/var/lib/ai-supervisor", "/var/log/ai-supervisor")
    assert default_places(ROOT) == expected


def test_anybody_else_has_the_xdg_folders_or_their_defaults() -> None:
    assert default_places(ANN) == Places(
        config="/home/ann/.config/ai-supervisor/config.toml",
        runtime_dir="/tmp/ai-supervisor-1000",
        state_dir="/home/ann/.local/state/ai-supervisor",
        log_dir="/home/ann/.local/state/ai-supervisor/log",
    )
    assert default_places(Surroundings(1000, "/home/ann", XDG)) == Places(
        config="/c/ai-supervisor/config.toml",
        runtime_dir="/r/ai-supervisor",
        state_dir="/s/ai-supervisor",
        log_dir="/s/ai-supervisor/log",
    )


def test_an_xdg_folder_that_is_not_absolute_is_none() -> None:
    relative = Surroundings(1000, "/home/ann", dict.fromkeys(XDG, "here"))
    assert default_places(relative) == default_places(ANN)


def test_an_installation_is_the_systems_or_a_users_own() -> None:
    assert install_places(ANN, is_user=False) == InstallPlaces(
        units="/etc/systemd/system", prefix="/opt/ai-supervisor", command="/usr/local/bin/ai-supervisor"
    )
    assert install_places(ANN, is_user=True) == InstallPlaces(
        units="/home/ann/.config/systemd/user",
        prefix="/home/ann/.local/share/ai-supervisor",
        command="/home/ann/.local/bin/ai-supervisor",
    )
    assert install_places(Surroundings(1000, "/home/ann", XDG), is_user=True) == InstallPlaces(
        units="/c/systemd/user", prefix="/d/ai-supervisor", command="/home/ann/.local/bin/ai-supervisor"
    )


def test_what_is_asked_for_comes_before_the_environment_and_that_before_the_default() -> None:
    told = Surroundings(1000, "/home/ann", {"AI_SUPERVISOR_CONFIG": "/e.toml"})
    assert config_path(told, "/asked.toml") == "/asked.toml"
    assert config_path(told, None) == "/e.toml"
    assert config_path(ANN, None) == "/home/ann/.config/ai-supervisor/config.toml"


def test_for_the_folders_the_environment_comes_before_the_config() -> None:
    told = Surroundings(1000, "/home/ann", {"AI_SUPERVISOR_RUNTIME_DIR": "/er", "AI_SUPERVISOR_STATE_DIR": "/es"})
    assert (runtime_dir(told, "/cr"), state_dir(told, "/cs")) == ("/er", "/es")
    assert (runtime_dir(ANN, "/cr"), state_dir(ANN, "/cs")) == ("/cr", "/cs")
    assert (runtime_dir(ANN, None), state_dir(ANN, None)) == ("/tmp/ai-supervisor-1000", "/home/ann/.local/state/ai-supervisor")
