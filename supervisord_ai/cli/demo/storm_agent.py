"""One agent of the storm: asks again and again while the weather file says so, and writes down how each question ended.

Run as `python -I -S storm_agent.py NAME PLACE OF PRIORITY FOLDER MODEL`. The weather is how many ask in all: the agent of place 3
of 72 asks one question at a time from the fourth asker on, and two from the 76th on. Whoever is turned away waits as long as he
was told before he asks again, as a well-made client does. One question in four is one that everybody asks (temperature 0), so
that a kept answer exists.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

MOST_AT_ONCE = 3
LOOK_S = 0.2
GIVE_UP_S = 120.0
SHARED_ONE_IN = 4


def main() -> None:
    name, place, of, priority, folder, model = sys.argv[1:7]
    for number in range(MOST_AT_ONCE):
        asker = int(place) + number * int(of)
        threading.Thread(target=keep_asking, args=(name, int(priority), folder, model, asker), daemon=True).start()
    while True:
        time.sleep(3600)


def weather(folder: str) -> int:
    """How many ask now."""
    try:
        with open(f"{folder}/weather") as file:
            return int(file.read() or 0)
    except (OSError, ValueError):
        return 0


def keep_asking(name: str, priority: int, folder: str, model: str, number: int) -> None:
    asked = 0
    while True:
        if number >= weather(folder):
            time.sleep(LOOK_S)
            continue
        asked += 1
        is_shared = (asked + number) % SHARED_ONE_IN == 0
        began = time.time()
        try:
            status, headers = ask(model, f"{name} {number} {asked}", is_shared=is_shared)
        except OSError:
            time.sleep(LOOK_S)
            continue
        line = {
            "agent": name,
            "priority": priority,
            "is_shared": is_shared,
            "sent_at": began,
            "ended_at": time.time(),
            "status": status,
            "retry_after_s": float(headers["retry-after"]) if "retry-after" in headers else None,
            "is_cached": "hit" in headers.get("cache-status", ""),
            "degraded": headers.get("x-ai-degraded", ""),
        }
        fd = os.open(f"{folder}/answers/{name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fd, json.dumps(line).encode() + b"\n")
        os.close(fd)
        if status != 200:
            until = time.time() + float(headers.get("retry-after", 1))
            while time.time() < until and weather(folder) > number:
                time.sleep(LOOK_S)


def ask(model: str, words: str, *, is_shared: bool) -> tuple[int, dict[str, str]]:
    """One question on a connection of its own: its status and headers, once the whole answer is here."""
    prompt, options = (
        ("Name a colour.", {"temperature": 0, "num_predict": 8}) if is_shared else (f"Tell of {words}.", {"num_predict": 24})
    )
    payload = json.dumps({"model": model, "prompt": prompt, "stream": False, "options": options}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GIVE_UP_S)
        connection.connect(os.environ["AI_SUPERVISOR_SOCKET"])
        connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n" + payload)
        data = b""
        while more := connection.recv(65536):
            data += more
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    if len(lines[0].split(" ")) < 2:
        raise OSError("no answer")
    fields = [line.partition(":") for line in lines[1:]]
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}


if __name__ == "__main__":
    main()
