"""One agent of the demo: asks its questions through the Unix socket, writes each answer down, ends.

Run as `python -I -S agent.py PLAN`: only a raw socket and json, so that 131 of them fit anywhere (10.5 MB each, most of it
shared). It knows nothing of the supervisor but the socket's path, and everything it did is in the file it appends to: started
again after any kind of death, it asks only what has no answer yet, under the same keys.

Three agents misbehave, once each, between their two questions; the plan says which.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # typing itself costs a megabyte
if TYPE_CHECKING:
    from typing import Any

CONNECT_AGAIN_S = 0.25
GIVE_UP_S = 240.0
HOARD_STEP_BYTES = 1 << 20


class NotAnswered(Exception):  # noqa: N818
    """No whole answer came; `retry_s` is when to ask again."""

    def __init__(self, why: str, retry_s: float = CONNECT_AGAIN_S) -> None:
        super().__init__(why)
        self.retry_s = retry_s


def main() -> None:
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    role = plan["role"]
    if role == "stubborn":
        ignore_term(plan)
    done = answered(plan["answers"])
    for number, question in enumerate(plan["questions"]):
        if question["key"] not in done:
            write_down(plan["answers"], ask_until_answered(plan["name"], question))
        if number == 0 and role in {"hog", "crasher"} and first_time(plan["mark"]):
            misbehave(role, plan)
    while role == "stubborn":
        signal.pause()


def answered(path: str) -> set[str]:
    """Keys that have an answer from an earlier life."""
    try:
        with open(path) as file:
            return {json.loads(line)["key"] for line in file}
    except FileNotFoundError:
        return set()


def write_down(path: str, answer: dict[str, Any]) -> None:
    """One line, one write: a kill leaves a whole line or none."""
    line = json.dumps(answer).encode() + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line)
    os.close(fd)
    print(answer["key"], answer["status"], answer["text"], flush=True)


def ask_until_answered(name: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask under the same key until there is a whole answer: the supervisor may be killed and started again meanwhile."""
    began = time.monotonic()
    tries = 0
    while True:
        tries += 1
        asked_at = time.monotonic()
        try:
            head, body, first_s = ask(question)
            total_s = time.monotonic() - asked_at
            return summary(name, question, head, body, tries=tries, first_s=first_s, total_s=total_s)
        except (OSError, NotAnswered) as why:
            if time.monotonic() - began > GIVE_UP_S:
                sys.exit(f"{name}: no answer to {question['key']}: {why}")
            time.sleep(getattr(why, "retry_s", CONNECT_AGAIN_S))


def ask(question: dict[str, Any]) -> tuple[dict[str, str], bytes, float]:
    """One request on a connection of its own: (head, body, seconds to the first byte)."""
    payload = json.dumps(question["body"]).encode()
    lines = [f"POST {question['path']} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Idempotency-Key: {question['key']}", f"Content-Length: {len(payload)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in question["headers"].items()]
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GIVE_UP_S)
        connection.connect(os.environ["AI_SUPERVISOR_SOCKET"])
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        data = b""
        first_s = 0.0
        while more := connection.recv(65536):
            first_s = first_s or time.monotonic() - began
            data += more
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        raise NotAnswered("the connection ended before an answer")
    status, headers = read_head(head.decode("latin-1"))
    is_chunked = headers.get("transfer-encoding") == "chunked"
    body = dechunk(rest) if is_chunked else whole(rest, int(headers.get("content-length", -1)))
    if status != 200:
        raise NotAnswered(f"{status} {body[:200]!r}", float(headers.get("retry-after", 1)))
    return headers, body, first_s


def read_head(text: str) -> tuple[int, dict[str, str]]:
    lines = text.split("\r\n")
    fields = [line.partition(":") for line in lines[1:]]
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}


def whole(body: bytes, length: int) -> bytes:
    if length >= 0 and len(body) != length:
        raise NotAnswered(f"cut after {len(body)} of {length} bytes")
    return body


def dechunk(data: bytes) -> bytes:
    """The body of a chunked answer; one without its last chunk was cut."""
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            raise NotAnswered(f"cut after {len(body)} bytes")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return body
        body, data = body + data[:length], data[length + 2 :]


def summary(
    name: str, question: dict[str, Any], head: dict[str, str], body: bytes, *, tries: int, first_s: float, total_s: float
) -> dict[str, Any]:
    """What is written down of an answer. A stream without its last line is no answer."""
    lines = [json.loads(line) for line in body.split(b"\n") if line]
    last = lines[-1]
    if "error" in last or ("embeddings" not in last and not last.get("done")):
        raise NotAnswered(f"not a whole answer: {body[-200:]!r}")
    timing = {}
    for item in head.get("server-timing", "").split(","):
        what, _, value = item.strip().partition(";dur=")
        if value:
            timing[what] = float(value)
    text = "".join(line.get("response") or line.get("message", {}).get("content", "") for line in lines)
    return {
        "agent": name,
        "key": question["key"],
        "kind": question["kind"],
        "status": 200,
        # From the cache, or by the call of another who asked the same or beside it: no call was made for it.
        "is_hit": bool({"hit", "collapsed"} & {part.strip() for part in head.get("cache-status", "").split(";")}),
        "attempt": int(head.get("x-ai-attempt", 1)),
        "tries": tries,
        "tokens": last.get("eval_count", 0),
        "prompt_tokens": last.get("prompt_eval_count", 0),
        "engine_ms": last.get("total_duration", 0) / 1e6,
        "timing_ms": timing,
        "first_ms": first_s * 1000,
        "total_ms": total_s * 1000,
        "text": text[:200] if "embeddings" not in last else f"{len(last['embeddings'][0])} numbers",
    }


# --- misbehaviour ---------------------------------------------------------------------------------------------------------


def first_time(mark: str) -> bool:
    """True once in all lives of this agent."""
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def misbehave(role: str, plan: dict[str, Any]) -> None:
    if role == "hog":
        hoard(plan["hoard_bytes"])
    else:
        os.kill(os.getpid(), signal.SIGSEGV)


def hoard(limit: int) -> None:
    """Fill memory page by page, past the cap; whoever survives this has no cap, and says so by its exit."""
    hoarded: list[bytes] = []
    while len(hoarded) * HOARD_STEP_BYTES < limit:
        hoarded.append(os.urandom(4096) * (HOARD_STEP_BYTES // 4096))
        if len(hoarded) % 32 == 0:
            time.sleep(0.02)  # so that somebody who only samples can see it coming
    time.sleep(10.0)
    sys.exit(f"hoarded {limit} bytes and nobody minded")


def ignore_term(plan: dict[str, Any]) -> None:
    """Ignore TERM, and leave behind a grandchild in a session of its own that ignores it too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("/proc/self/stat") as file:
                started = file.read().rpartition(")")[2].split()[19]
            fd = os.open(plan["mark"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(fd, b"%d %s\n" % (os.getpid(), started.encode()))
            os.close(fd)
            while True:
                signal.pause()
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    main()
