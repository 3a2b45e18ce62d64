"""The page in a real browser before a real daemon: it renders, follows, comes back, and asks nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import THREE_SLEEPERS, Daemon, ask, ollama_double, running_daemon
from tests.web.browser import Browser, browser
from tests.web.ports import free_port


class World:
    """A daemon with a page, an Ollama, and a browser that looks at it."""

    def __init__(self, daemon: Daemon, page: Browser, url: str) -> None:
        self.daemon = daemon
        self.page = page
        self.url = url

    def look(self, view: str = "overview") -> None:
        self.page.goto(f"{self.url}/#{view}")
        self.page.until("document.querySelector('#link').dataset.is === 'live'")

    def text(self, selector: str) -> str:
        found: str = self.page.run(f"document.querySelector({selector!r}).innerText")
        return found

    def generate(self, prompt: str = "[[n=3]] hello", **fields: Any) -> None:
        body = {"model": "llama3.2:3b", "prompt": prompt, "stream": False, **fields}
        assert ask(self.daemon.llm, "/api/generate", body).status == 200


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port = free_port()
    with ExitStack() as held:
        ollama = held.enter_context(ollama_double("--load", "100ms"))
        daemon = held.enter_context(running_daemon(tmp_path, ollama=ollama, extra=THREE_SLEEPERS, web=f"127.0.0.1:{port}"))
        yield World(daemon, held.enter_context(browser()), f"http://127.0.0.1:{port}")


def assert_clean(world: World) -> None:
    assert world.page.said == []
    strangers = [url for url in world.page.asked if not url.startswith((world.url, "about:"))]
    assert strangers == []


def test_each_dashboard_renders_in_each_size_and_colour(world: World) -> None:
    world.generate()
    page = world.page
    for scheme in ("light", "dark"):
        page.colours(scheme)
        for width in (1280, 390):
            page.size(width, 900)
            for view in ("overview", "ollama", "agents"):
                world.look(view)
                seen = f"document.querySelector('#view-{view}')"
                page.until(f"!{seen}.hidden && {seen}.querySelectorAll('dl').length === 6")
                assert page.run("document.documentElement.scrollWidth <= innerWidth"), (view, width)
                assert page.run("document.documentElement.dataset.theme") == scheme
                unnamed = page.run(
                    "[...document.querySelectorAll('a,button,input,svg[role=img]')].filter(one => !(one.innerText"
                    " || one.ariaLabel || one.getAttribute('aria-label') || one.labels?.[0]?.innerText || '').trim()).length"
                )
                assert unnamed == 0, "what can be used has a name"
    assert "opus-02" in world.text("#list")
    assert_clean(world)


def test_what_happens_is_on_the_page_within_seconds(world: World) -> None:
    world.look("agents")
    world.page.until("document.querySelector('#agents-figures').innerText.includes('of 3')")
    assert ask(world.daemon.control, "/v1/agents/opus-02/stop", method="POST").status == 200
    world.page.until("[...document.querySelectorAll('#list tr')].some(row => /opus-02.*stopped/s.test(row.innerText))")
    world.look("ollama")
    waiter = threading.Thread(target=world.generate, args=("[[n=60 delay=0.1]] a long one",))
    waiter.start()
    world.page.until("document.querySelector('#slots').innerText.includes('llama3.2:3b')")
    waiter.join()
    world.page.until("document.querySelector('#slots').innerText.includes('No call runs')")
    world.page.until("document.querySelector('#times').innerText.includes('owner')")
    assert_clean(world)


def test_each_dashboard_begins_with_how_things_are(world: World) -> None:
    page = world.page
    page.size(390, 600)
    world.look("overview")
    for view in ("ollama", "agents", "overview"):
        page.run("scrollTo(0, 500)")
        page.goto(f"{world.url}/#{view}")
        page.until(f"!document.querySelector('#view-{view}').hidden")
        page.until("scrollY === 0")
    page.goto("about:blank")
    world.look("agents")  # as a bookmark is opened
    assert page.run("scrollY") == 0
    assert_clean(world)


def test_it_comes_back_after_a_restart_of_the_daemon(world: World) -> None:
    world.look()
    world.daemon.stop()
    world.page.until("document.querySelector('#link').dataset.is === 'lost'")
    world.page.said.clear()  # the browser says itself that it could not connect
    world.daemon.start()
    world.page.until("document.querySelector('#link').dataset.is === 'live'")
    world.page.until("document.querySelector('#word').innerText !== 'Connecting'")
    refused = [words for words in world.page.said if "ERR_CONNECTION_REFUSED" not in words and "ERR_INCOMPLETE" not in words]
    assert refused == []


def test_it_is_used_with_the_keyboard_alone(world: World) -> None:
    world.look()
    page = world.page
    page.press("2")
    page.until("!document.querySelector('#view-ollama').hidden && document.querySelector('#view-overview').hidden")
    assert page.run("document.querySelector('nav [aria-current]').innerText") == "Ollama"
    page.press("/")
    page.until("document.activeElement.id === 'search'")
    page.type("opus-03")
    page.until("document.querySelectorAll('#list tbody tr').length === 1")
    assert world.text("#list-count") == "1 of 3"
    page.press("Escape")
    page.until("document.querySelectorAll('#list tbody tr').length === 3")
    before = page.run("document.documentElement.dataset.theme")
    page.press("t")
    assert page.run("document.documentElement.dataset.theme") != before
    assert page.run("document.querySelector('#theme').getAttribute('aria-pressed')") in {"true", "false"}
    assert_clean(world)


def test_no_prompt_and_no_secret_is_on_it(world: World) -> None:
    world.generate("[[n=3]] the-prompt-of-somebody", options={"temperature": 0})
    world.generate("[[n=3]] the-prompt-of-somebody", options={"temperature": 0})
    world.look("ollama")
    world.page.until("document.querySelector('#times').innerText.includes('owner')")
    paths = ["/", "/history", "/metrics", "/healthz", "/page.js"]
    told = world.page.run(f"Promise.all({paths}.map(path => fetch(path).then(answer => answer.text())))")
    shown = world.page.run("document.documentElement.outerHTML")
    for text in (*told, shown):
        for secret in ("the-prompt-of-somebody", "AI_SUPERVISOR_TOKEN", "sleep infinity", str(world.daemon.folder)):
            assert secret not in text


def test_the_policy_holds_against_a_script_in_the_page(world: World) -> None:
    world.look()
    world.page.run("window.bad = document.createElement('script'); bad.textContent = 'window.ran = 1'; document.body.append(bad)")
    assert world.page.run("window.ran ?? null") is None
    assert any("Content Security Policy" in words for words in world.page.said)
