"""Back doors of backends: where they are, who goes through one, and the rules that close them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from supervisord_ai.core.isolation import BackDoor, Dialled, back_doors, rules, table_name, through
from supervisord_ai.core.locate import Facts
from supervisord_ai.core.policies import BackendSpec

FLEET = "/ai.slice/ai-agents.service/ai-supervisor-0123abcd/agents"
HERE = BackDoor("main", ip_address("127.0.0.1"), 11434)
AWAY = BackDoor("gpu", ip_address("192.168.1.9"), 8080)
NAMED = BackDoor("named", None, 9000)


def of(url: str, facts: Facts | None = None) -> list[tuple[str | None, int]]:
    facts = facts or Facts()
    return [(None if door.address is None else str(door.address), door.port)
            for door in back_doors([BackendSpec(name="main", url=url)], facts)]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://127.0.0.1:11434", [("127.0.0.1", 11434)]),
        ("http://localhost", [("127.0.0.1", 11434)]),
        ("http://[::1]:8000/", [("::1", 8000)]),
        ("http://ollama.lan:9000", [(None, 9000)]),
        ("unix:///run/ollama.sock", []),
        ("embedded", []),
        ("auto", [("127.0.0.1", 11434)]),
    ],
)
def test_a_backend_has_its_door_where_it_listens(url: str, found: list[tuple[str | None, int]]) -> None:
    assert of(url) == found


def test_below_wsl_one_that_is_looked_for_has_a_door_on_each_side() -> None:
    route = "Iface\tDestination\tGateway\tFlags\n" + "eth0\t00000000\t01F018AC\t0003\t0\t0\t0\t00000000\n"
    facts = Facts(osrelease="6.6.87.2-microsoft-standard-WSL2", route=route)
    assert of("auto", facts) == [("127.0.0.1", 11434), ("172.24.240.1", 11434)]


def dial(address: str, port: int, local: str = "127.0.0.1") -> Dialled:
    return Dialled(ip_address(local), ip_address(address), port, 1000, 1)


@pytest.mark.parametrize(
    ("one", "door"),
    [
        (dial("127.0.0.1", 11434), HERE),
        (dial("127.0.0.53", 11434), HERE),
        (dial("::1", 11434), HERE),
        (dial("192.168.1.5", 11434, local="192.168.1.5"), HERE),  # its own address from outside is itself
        (dial("192.168.1.7", 11434, local="192.168.1.5"), None),  # somebody else's Ollama
        (dial("127.0.0.1", 11435), None),
        (dial("192.168.1.9", 8080, local="192.168.1.5"), AWAY),
        (dial("127.0.0.1", 8080), None),
        (dial("10.0.0.1", 9000, local="10.0.0.2"), NAMED),
    ],
)
def test_who_goes_through_one(one: Dialled, door: BackDoor | None) -> None:
    assert through([HERE, AWAY, NAMED], one) == door


def test_the_rules_close_each_door_to_the_fleets_group_and_to_nobody_else() -> None:
    assert rules(FLEET, [HERE, AWAY, NAMED, BackDoor("v6", ip_address("fd00::1"), 80)]).splitlines() == [
        "table inet ai_supervisor_0123abcd",
        "delete table inet ai_supervisor_0123abcd",
        "table inet ai_supervisor_0123abcd {",
        "\tchain output {",
        "\t\ttype filter hook output priority filter; policy accept;",
        '\t\tsocket cgroupv2 level 4 "ai.slice/ai-agents.service/ai-supervisor-0123abcd/agents" jump agents',
        "\t}",
        "\tchain agents {",
        '\t\toifname "lo" tcp dport 11434 counter reject with tcp reset',
        "\t\tip daddr 192.168.1.9 tcp dport 8080 counter reject with tcp reset",
        "\t\ttcp dport 9000 counter reject with tcp reset",
        "\t\tip6 daddr fd00::1 tcp dport 80 counter reject with tcp reset",
        "\t}",
        "}",
    ]


def test_two_supervisors_have_two_tables() -> None:
    assert table_name(FLEET) == "ai_supervisor_0123abcd"
    assert table_name("/elsewhere") == "ai_supervisor"
