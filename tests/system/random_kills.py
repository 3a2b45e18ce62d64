"""A daemon under load that gets `kill -9` at random moments, again and again: what it acknowledged is never lost.

    python -m tests.system.random_kills [--kills 200] [--seed N]

An acknowledgement is an answer, a 202, or that `requests/{id}` told of the request. Callers come back with their keys until they
are answered, as the client package does. In the end every key is asked for again and gives the answer that was given, every id
that was acknowledged is found done, and both files are whole. (SSE comments, the fourth form, come after 15 s of waiting: after
those it is killed in virtual time, in tests/shell/test_gateway_comments.py.)
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from tests.system.harness import Answered, Daemon, ask, config_text, ollama_double

CALLERS = 12
GENERATE = "/api/generate"
THIRD = "not tried a third time"  # running at two kills: our own honest answer


@dataclass
class Book:
    """What was acknowledged, and what that came to."""

    answers: dict[str, tuple[str, str]] = field(default_factory=dict)  # by key
    promised: set[str] = field(default_factory=set)  # ids
    told_of: set[str] = field(default_factory=set)  # ids
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def question(key: str) -> dict[str, object]:
    return {"model": "llama3.2:3b", "prompt": f"[[n=5 delay=0.01]] {key}", "stream": False}


def identity(answer: Answered) -> tuple[str, str]:
    """What two givings of one answer have in common: the row it is kept in, and its text. Times are those of the giving."""
    return answer.headers["x-request-id"], answer.json["response"]


class Callers:
    """They ask until told to stop, and come back for whatever a kill cut off."""

    def __init__(self, daemon: Daemon, rng: random.Random) -> None:
        self.book = Book()
        self.daemon = daemon
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number, random.Random(rng.random())), daemon=True)
            for number in range(CALLERS)
        ]
        self._threads.append(threading.Thread(target=self._look, daemon=True))

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        if kind is not None:
            return  # the daemon is not there any more: they would ask for ever
        for thread in self._threads:
            thread.join(120)

    def _call(self, number: int, rng: random.Random) -> None:
        turn = 0
        while not self._is_over.is_set():
            key = f"{number}-{turn}"
            turn += 1
            is_async = rng.random() < 0.4
            answer = self._until_answered(key, is_async=is_async)
            if answer.status == 202:
                self.book.promised.add(answer.json["id"])
            elif answer.status == 200:
                self.book.answers[key] = identity(answer)
            elif THIRD in str(answer.body):
                self.book.counts["tried twice"] += 1
            else:
                self.book.wrong.append(f"{key}: {answer.status} {answer.body[:200]!r}")

    def _until_answered(self, key: str, *, is_async: bool) -> Answered:
        headers = {"Idempotency-Key": key} | ({"Prefer": "respond-async"} if is_async else {})
        while True:
            try:
                answer = ask(self.daemon.llm, GENERATE, question(key), headers=headers)
            except (OSError, HTTPException, ValueError):
                self.book.counts["came back"] += 1
                time.sleep(0.02)
                continue
            if answer.status != 503:
                return answer
            time.sleep(0.1)

    def _look(self) -> None:
        """Ask for one of those who wait by its id; being told of it is an acknowledgement too."""
        while not self._is_over.is_set():
            time.sleep(0.03)
            try:
                waiting = ask(self.daemon.control, "/v1/queue").json["waiting"]
                if waiting:
                    told = ask(self.daemon.llm, f"/supervisor/v1/requests/{waiting[-1]['id']}")
                    if told.status == 200 and told.json["state"] in {"queued", "running"}:
                        self.book.told_of.add(told.json["id"])
            except (OSError, HTTPException, ValueError):
                continue


def play(folder: Path, *, kills: int, seed: int) -> Book:
    """Load, kill and start again so often, then settle the book."""
    rng = random.Random(seed)
    more = '[queue]\nresult_keep = "1h"\norphan_grace = "1s"\n[class.owner]\nmax_queued = 1000'
    with ollama_double() as url:
        daemon = Daemon(folder, config_text(folder, ollama=url, extra=more))
        daemon.start()
        try:
            with Callers(daemon, rng) as callers:
                for _ in range(kills):
                    time.sleep(rng.uniform(0.05, 1.0))
                    daemon.kill()
                    daemon.start()
            settle(daemon, callers.book)
        finally:
            daemon.stop()
    for file in ("journal.db", "cache.db"):
        with closing(sqlite3.connect(folder / "state" / file)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                callers.book.wrong.append(f"{file} is damaged")
    return callers.book


def settle(daemon: Daemon, book: Book) -> None:
    """Ask for everything that was acknowledged."""
    for key, given in book.answers.items():
        again = ask(daemon.llm, GENERATE, question(key), headers={"Idempotency-Key": key})
        if again.status != 200 or identity(again) != given:
            book.wrong.append(f"{key} was answered, and is now {again.status} {again.body[:200]!r}")
    for request_id in book.promised | book.told_of:
        told = ask(daemon.llm, f"/supervisor/v1/requests/{request_id}?wait=60", timeout_s=90)
        found = told.json if told.status == 200 else {}
        answer = found.get("answer", {})
        if THIRD in str(answer):
            book.counts["tried twice"] += 1
        elif found.get("state") != "done" or answer.get("status") != 200:
            book.wrong.append(f"{request_id} was acknowledged, and is now {told.status} {told.body[:200]!r}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.random_kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ai-kills-") as folder:
        book = play(Path(folder), kills=args.kills, seed=args.seed)
    figures = {
        "kills": args.kills,
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
        "answered": len(book.answers),
        "promised with 202": len(book.promised),
        "told of by id": len(book.told_of),
        **book.counts,
        "lost or wrong": len(book.wrong),
    }
    print(json.dumps(figures))
    for line in book.wrong[:20]:
        print(line)
    return 1 if book.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
