"""Where an Ollama may be: on this system, or on the Windows above it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.locate import Facts, Way, default_gateway, places, read_ollama_host, what_to_do, windows_drive
from supervisord_ai.host import wsl

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
NAT_ROUTE = HEADER + (
    "eth0\t00000000\t01E01BAC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"  # 172.27.224.1
    "eth0\t00E01BAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
)
# Mirrored: the way out is the router of the house.
LAN_ROUTE = HEADER + "eth1\t00000000\t0101A8C0\t0003\t0\t0\t25\t00000000\t0\t0\t0\n"
DEV = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3\n  eth0: 4 5 6\n"
MIRRORED_DEV = DEV + "loopback0: 7 8 9\n"
WSL2 = "6.6.87.2-microsoft-standard-WSL2\n"
LINUX = "6.12.48+deb13-amd64\n"

NAT = Facts(osrelease=WSL2, route=NAT_ROUTE, interfaces=DEV)
MIRRORED = Facts(osrelease=WSL2, route=LAN_ROUTE, interfaces=MIRRORED_DEV)
PLAIN = Facts(osrelease=LINUX, route=LAN_ROUTE, interfaces=DEV)


def looked(word: str, facts: Facts) -> list[tuple[str, Way]]:
    assert word in {"auto", "windows"}
    return [(place.url, place.way) for place in places("auto" if word == "auto" else "windows", facts)]


@pytest.mark.parametrize(
    ("word", "facts", "expected"),
    [
        ("auto", PLAIN, [("http://127.0.0.1:11434", Way.HERE)]),
        ("auto", NAT, [("http://127.0.0.1:11434", Way.HERE), ("http://172.27.224.1:11434", Way.GATEWAY)]),
        ("auto", MIRRORED, [("http://127.0.0.1:11434", Way.HERE)]),
        ("windows", PLAIN, []),
        ("windows", NAT, [("http://172.27.224.1:11434", Way.GATEWAY)]),
        ("windows", MIRRORED, [("http://127.0.0.1:11434", Way.MIRRORED)]),
    ],
)
def test_where_each_word_looks_on_each_kind_of_machine(word: str, facts: Facts, expected: list[tuple[str, Way]]) -> None:
    assert looked(word, facts) == expected


def test_ollama_host_replaces_this_systems_place_and_nothing_else() -> None:
    facts = Facts(osrelease=WSL2, route=NAT_ROUTE, interfaces=DEV, ollama_host="127.0.0.1:11500")
    assert looked("auto", facts) == [("http://127.0.0.1:11500", Way.NAMED), ("http://172.27.224.1:11434", Way.GATEWAY)]
    assert looked("windows", facts) == [("http://172.27.224.1:11434", Way.GATEWAY)]


@pytest.mark.parametrize("own", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_an_address_of_our_own_is_never_an_ollama(own: str) -> None:
    assert looked("auto", Facts(osrelease=LINUX, ours=((own, 11434),))) == []
    named = Facts(ollama_host="localhost:11435", ours=(("127.0.0.1", 11435), ("127.0.0.1", 8787)))
    assert looked("auto", named) == [], "started by an agent of ours, we would find ourselves in OLLAMA_HOST"


def test_a_gateway_with_a_public_address_is_not_windows() -> None:
    route = HEADER + "eth0\t00000000\t08080808\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    assert looked("windows", Facts(osrelease=WSL2, route=route, interfaces=DEV)) == []


def test_of_several_default_routes_the_one_of_least_metric_counts_and_one_that_is_down_does_not() -> None:
    route = HEADER + (
        "a\t00000000\t010010AC\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "b\t00000000\t020010AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "c\t00000000\t030010AC\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
        "d\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
    )
    assert default_gateway(route) == IPv4Address("172.16.0.2")


def test_a_line_that_is_no_route_hides_none_and_half_of_all_addresses_are_no_default() -> None:
    route = HEADER + (
        "broken\n"
        "half\t00000000\t050010AC\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
        "a\t00000000\t010010AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "b\t00000000\t020010AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    )
    assert default_gateway(route) == IPv4Address("172.16.0.1")  # of equals the first


def test_an_ollama_of_a_name_is_not_taken_for_ourselves() -> None:
    named = Facts(osrelease=LINUX, ollama_host="box", ours=(("127.0.0.1", 11434),))
    assert looked("auto", named) == [("http://box:11434", Way.NAMED)]
    below = Facts(osrelease=WSL2, route=NAT_ROUTE, interfaces=DEV, ours=(("127.0.0.1", 11434),))
    assert looked("auto", below) == [("http://172.27.224.1:11434", Way.GATEWAY)]


@pytest.mark.parametrize(
    ("line", "point"),
    [
        ("C:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\;uid=1000;gid=1000,trans=fd 0 0", "/mnt/c"),
        ("drvfs /mnt/c 9p rw,aname=drvfs;path=c:\\;uid=0 0 0", "/mnt/c"),
        ("drvfsCaC /mnt/c virtiofs rw,relatime 0 0", "/mnt/c"),
        ("C: /mnt/c drvfs rw 0 0", "/mnt/c"),
        ("c: /my\\040drive drvfs rw 0 0", "/my drive"),
        ("D: /mnt/d drvfs rw 0 0", None),
        ("drvfs /mnt/d 9p rw,aname=drvfs;path=D:\\;uid=0 0 0", None),
        ("C: /somewhere tmpfs rw,path=C: 0 0", None),
        ("none /usr/lib/wsl/drivers 9p ro,aname=drivers 0 0", None),
        ("C:", None),
        ("", None),
    ],
)
def test_the_drive_of_windows_is_found_among_the_mounts_however_wsl_mounts_it(line: str, point: str | None) -> None:
    mounts = f"/dev/sdc / ext4 rw 0 0\n{line}\ntmpfs /run tmpfs rw 0 0\n"
    assert windows_drive(WSL2, mounts) == point
    assert windows_drive(LINUX, mounts) is None


@given(st.text(max_size=400))
def test_no_text_of_a_kernel_file_is_too_strange_to_be_read(text: str) -> None:
    default_gateway(text)
    default_gateway(HEADER + text)
    read_ollama_host(text)
    places("auto", Facts(osrelease=text, route=text, interfaces=text, ollama_host=text))


def test_the_files_are_read_anew_and_one_that_is_missing_concludes_nothing(tmp_path: Path) -> None:
    assert wsl.facts(proc=tmp_path, environ={}) == Facts()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    (tmp_path / "sys/kernel/osrelease").write_text(WSL2)
    (tmp_path / "net/route").write_text(NAT_ROUTE)
    (tmp_path / "net/dev").write_text(DEV)
    facts = wsl.facts(proc=tmp_path, environ={"OLLAMA_HOST": "box"}, ours=[("127.0.0.1", 1)])
    assert facts == Facts(WSL2, NAT_ROUTE, DEV, "box", (("127.0.0.1", 1),))
    assert wsl.facts(environ={}).osrelease, "this kernel has a release"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("", None),
        ("  ", None),
        ("127.0.0.1", ("127.0.0.1", 11434)),
        ("0.0.0.0:11500", ("127.0.0.1", 11500)),
        (":11500", ("127.0.0.1", 11500)),
        ("http://box:1", ("box", 1)),
        ("http://box", ("box", 80)),
        ("[::1]:2", ("::1", 2)),
        ("[::]", ("127.0.0.1", 11434)),
        ('"box:3"', ("box", 3)),
        ("XBOX:3", ("xbox", 3)),
        ("https://box", None),
        ("box:99999", None),
        ("[::1", None),
    ],
)
def test_ollama_host_is_read_as_ollamas_clients_read_it(value: str, read: tuple[str, int] | None) -> None:
    assert read_ollama_host(value) == read


@pytest.mark.parametrize(
    ("word", "facts", "helps"),
    [
        ("auto", PLAIN, "ollama serve"),
        ("windows", PLAIN, "does not run below Windows"),
        ("auto", NAT, 'setx OLLAMA_HOST "0.0.0.0:11434"'),
        ("windows", NAT, "takeover --print"),
        ("windows", MIRRORED, "Start Ollama on Windows"),
    ],
)
def test_who_has_none_is_told_where_we_looked_and_what_helps(word: str, facts: Facts, helps: str) -> None:
    meant = "auto" if word == "auto" else "windows"
    tried = [(place, "refused") for place in places(meant, facts)]  # type: ignore[arg-type]
    line = what_to_do(meant, facts, tried)  # type: ignore[arg-type]
    assert helps in line
    assert all(place.url in line for place, _ in tried)
    assert "\n" not in line
    assert line == line.strip()
