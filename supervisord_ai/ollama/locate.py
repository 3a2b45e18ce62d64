"""Finds the Ollama behind `url = "auto"` and `url = "windows"`, and dials it: a dialer whose address may change.

What was found stays until a connection to it fails. That connection then fails for its caller too, and only the next one looks
anew: the gateway must see that its Ollama went away, because the one found next has other models.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

import trio

from supervisord_ai.core.locate import Facts, Place, Word, places, what_to_do
from supervisord_ai.errors import UpstreamFault, UpstreamUnreachable
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.ollama.streams import ByteStream, Dialer, dial_tcp

log = getLogger(__name__)

PROBE_S = 2.0  # a firewall that drops is silent; two places fit into the 10 s of a small call


class Locator:
    """Where the Ollama is, once somebody asked. `facts` is asked before each connection; `dial_to` is replaced in tests."""

    def __init__(
        self,
        word: Word,
        facts: Callable[[], Facts],
        *,
        dial_to: Callable[[str, int], Dialer] = dial_tcp,
        probe_s: float = PROBE_S,
    ) -> None:
        self.word = word
        self.found: Place | None = None
        self._facts = facts
        self._dial_to = dial_to
        self._probe_s = probe_s
        self._looking = trio.Lock()  # a hundred callers of a lost backend look once

    def __repr__(self) -> str:
        return f"<Locator {self.word} {self.where()}>"

    def where(self) -> str:
        """Return what was found, "" while nothing is."""
        return "" if self.found is None else str(self.found)

    async def dial(self) -> ByteStream:
        """Connect to the Ollama that was found, looking for it first where there is none.

        Raises:
            UpstreamUnreachable: there is none, with what helps; or the one that was found does not answer any more.
        """
        place = await self._place()
        try:
            return await self._dial_to(place.host, place.port)()
        except UpstreamUnreachable:
            self._forget(place)
            raise

    async def _place(self) -> Place:
        async with self._looking:
            if self.found is None:
                self.found = await self.search()
                log.info("backend %s: Ollama found at %s", self.word, self.found)
            elif self.found not in places(self.word, self._facts()):
                gone = self.found
                self._forget(gone)
                raise UpstreamUnreachable(f"{gone} is not the way any more")
            return self.found

    def _forget(self, place: Place) -> None:
        if self.found == place:
            log.warning("backend %s: lost %s", self.word, place)
            self.found = None

    async def search(self) -> Place:
        """Return the first place at which an Ollama answers.

        Raises:
            UpstreamUnreachable: there is none; the text says where we looked and what helps.
        """
        facts = self._facts()
        tried: list[tuple[Place, str]] = []
        for place in places(self.word, facts):
            try:
                await self._probe(place)
            except UpstreamFault as exc:
                tried.append((place, str(exc)))
                continue
            return place
        raise UpstreamUnreachable(what_to_do(self.word, facts, tried))

    async def _probe(self, place: Place) -> None:
        """Ask for its version: a port that takes connections is not yet an Ollama."""
        client = OllamaClient(place.url, dial=self._dial_to(place.host, place.port), connections=1)
        try:
            with trio.move_on_after(self._probe_s):
                if await client.version():
                    return
                raise UpstreamUnreachable("something answers there that is not an Ollama")
            raise UpstreamUnreachable(f"no answer within {self._probe_s:.0f} s")
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()
