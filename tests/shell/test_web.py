"""The page's server: what it gives, to whom, and what it keeps to itself. What a browser makes of it is in tests/web."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.control.glance import quantiles, response_times
from supervisord_ai.control.history import EVERY_S, POINTS, History
from supervisord_ai.control.scrape import Counted, Metrics
from supervisord_ai.control.web import FOLDER, Web
from supervisord_ai.core.identity import IdentityPolicy
from supervisord_ai.gateway.accept import Accept
from supervisord_ai.gateway.measures import MeasuresView, Took
from supervisord_ai.gateway.view import GatewayPulse, Totals
from supervisord_ai.health.view import LevelView
from supervisord_ai.serve.connection import memory_pair
from supervisord_ai.serve.http import serve_connection
from supervisord_ai.store.disk import inline
from tests.fakes.owner_views import agent_view, fleet_view
from tests.shell.test_control import House

LEVEL = LevelView(0, 0, 0.0, "nothing is pressed", "", (), None, False, (), None, None)  # type: ignore[arg-type]


class Rooms:
    """A house with a page."""

    def __init__(self) -> None:
        self.house = House()
        self.totals = Totals()
        self.took: list[Took] = []
        accept = Accept(IdentityPolicy(owner_uid=1000, owner_gid=1000, daemon_uid=1000), b"s" * 32)
        clock = self.house.control._clock
        self.history = History(
            clock=clock,
            sample=lambda: None,
            level=lambda: LEVEL,
            gateway=lambda: GatewayPulse(queued=3, totals=self.totals),
            took=lambda _since: self.took,
            states=dict,
        )
        self.web = Web(
            moment=self.house.control.moment,
            fleet=lambda: self.house.fleet,
            counted=Counted,
            took=lambda _since: self.took,
            now=clock.monotonic,
            history=self.history,
            metrics=Metrics(run_sync=inline),
            check=accept.check_origin,
        )

    async def ask(self, target: str, *headers: str, method: str = "GET", host: str = "127.0.0.1:8787") -> tuple[int, str, str]:
        """Return status, head and body of one request."""
        client, served = memory_pair("memory-tcp")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        data = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, served, self.web.handle)
            await client.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
            while more := await client.receive_some():
                data += more
            client.close()
        head, _, body = data.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head.lower(), body


@pytest.mark.parametrize("target", ["/", "/page.js", "/page.css", "/charts.js", "/icon.svg", "/history", "/metrics", "/healthz"])
async def test_everything_is_given_with_a_policy_that_allows_no_other_host(autojump_clock: object, target: str) -> None:
    status, head, body = await Rooms().ask(target)
    assert status == 200
    assert body
    policy = re.search(r"content-security-policy: (.*)\r", head)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert "http" not in policy[1]
    assert "x-content-type-options: nosniff" in head
    assert "access-control-allow-origin" not in head


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("evil.example", ()),
        ("127.0.0.1.evil.example:8787", ()),
        ("127.0.0.1:8787", ("Origin: https://evil.example",)),
        ("127.0.0.1:8787", ("Origin: null",)),
        ("127.0.0.1:8787", ("Sec-Fetch-Site: cross-site",)),
        ("", ()),
    ],
)
async def test_what_a_page_from_elsewhere_sends_is_refused(autojump_clock: object, host: str, headers: tuple[str, ...]) -> None:
    for target in ("/history", "/metrics", "/events"):
        status, _, _ = await Rooms().ask(target, *headers, host=host)
        assert status == 403, target


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1", "[::1]:8787"])
async def test_the_names_of_this_machine_are_good(autojump_clock: object, host: str) -> None:
    assert (await Rooms().ask("/history", "Sec-Fetch-Site: same-origin", host=host))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_it_is_read_only(autojump_clock: object, method: str) -> None:
    status, head, _ = await Rooms().ask("/", method=method)
    assert status == 405
    assert "allow: get, head" in head
    assert (await Rooms().ask("/v1/stop", method=method))[0] == 405


@pytest.mark.parametrize("target", ["/v1/status", "/../config.toml", "/page", "/openapi.json", "/%2e%2e/web.py"])
async def test_nothing_else_is_there(autojump_clock: object, target: str) -> None:
    assert (await Rooms().ask(target))[0] == 404


async def first_frames(rooms: Rooms, seconds: float) -> list[tuple[str, Any]]:
    """What a browser is told in that time."""
    client, served = memory_pair("memory-tcp")
    data = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rooms.web.run)
        nursery.start_soon(serve_connection, served, rooms.web.handle)
        await client.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.move_on_after(seconds):
            while more := await client.receive_some():
                data += more
        client.close()
        nursery.cancel_scope.cancel()
    return [(kind, json.loads(text)) for kind, text in re.findall(r"event: (\w+)\ndata: (.*)\n", data.decode())]


async def test_a_browser_is_told_everything_and_then_what_changes(autojump_clock: object) -> None:
    rooms = Rooms()
    frames = await first_frames(rooms, 12.5)
    kind, whole = frames[0]
    assert kind == "snapshot"
    assert whole["status"]["queue"]["queued"] == 7
    assert [one["name"] for one in whole["agents"]] == ["opus-01"]
    points = [told["status"]["point"] for kind, told in frames[1:] if "point" in told["status"]]
    assert points, "the charts go on"
    assert points[-1]["queued"] == 3


async def test_the_last_words_of_an_agent_and_its_log_are_not_on_it(autojump_clock: object) -> None:
    rooms = Rooms()
    secret = agent_view(verdict="exit:1", detail="token=hunter2", last_lines=("my prompt was hunter2",), status="hunter2")
    rooms.house.fleet = fleet_view(secret)
    told = json.dumps(await first_frames(rooms, 3.0))
    assert "opus-01" in told
    assert "hunter2" not in told
    assert "/var/log" not in told


async def test_the_history_is_an_hour_in_points_of_ten_seconds(autojump_clock: object) -> None:
    rooms = Rooms()
    for count in range(POINTS + 5):
        rooms.totals = Totals(asked=count, answered=count)
        rooms.took = [Took(0.0, "opus", "m", float(wait), 0.0, 0.5, 1.0) for wait in range(100)]
        await rooms.history.note()
        await trio.sleep(EVERY_S)
    columns = json.loads((await rooms.ask("/history"))[2])["columns"]
    assert {len(column) for column in columns.values()} == {POINTS}
    assert columns["at"][-1] - columns["at"][0] == pytest.approx((POINTS - 1) * EVERY_S)
    assert columns["answered"][-1] == 6.0, "one in ten seconds is six a minute"
    assert (columns["wait_p50"][-1], columns["wait_p95"][-1], columns["wait_p99"][-1]) == (50.0, 95.0, 99.0)
    assert columns["generation_p50"][-1] == 1.5


def test_times_are_told_of_all_and_of_each_class() -> None:
    recent = [Took(1.0, "opus", "m", 1.0, 0.0, 0.1, 2.0), Took(2.0, "sonnet", "m", 3.0, 1.0, 0.1, 4.0)]
    told = response_times(recent, MeasuresView())
    assert told["count"] == 2
    assert told["classes"]["sonnet"]["total"]["p50"] == pytest.approx(8.1)
    assert told["classes"]["opus"]["load"]["p50"] is None
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None}


def test_the_files_of_the_page_ask_nobody_else_and_have_no_inline_script_or_style() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {"index.html", "page.css", "page.js", "charts.js", "icon.svg"}
    for path in FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text), f"{path.name} names another host"
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name
    html = (Path(FOLDER) / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", html)
