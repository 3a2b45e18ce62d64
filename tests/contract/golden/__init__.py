"""What a real Ollama answered: transcripts of v0.33.0-rc2 with a scripted runner behind it, and how to read them.

The recordings keep answers only. The requests in `requests.py` are rebuilt from the recordings' titles, echoes (a `context`
holds the whole prompt) and error texts; where a detail cannot be known, such as which text an embedding was of, the double's
runner is told the raw vector and everything after it is compared.

The recorder read with a time limit and sometimes printed only a beginning, so an empty block or one without an end says
nothing about the server.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
HTTP_FILES = ("a", "b", "c", "d", "g_queue_full_cancel_load", "n")

_BLOCK = re.compile(rb"=== (?P<title>[^\n]*)\n(?P<answer>.*?)--- closed_by_server: (?P<closed>True|False)", re.DOTALL)
_PART = re.compile(rb"<<after part \d+>>")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer as it came, and whether the server closed the connection after it."""

    file: str
    title: str
    answer: bytes
    is_closed: bool

    @property
    def name(self) -> str:
        return f"{self.file[0]}: {self.title}"


def recorded() -> list[Recorded]:
    """Every HTTP answer of every transcript, in their order."""
    found: list[Recorded] = []
    for file in HTTP_FILES:
        text = (FOLDER / f"{file}.txt").read_bytes()
        for block in _BLOCK.finditer(text):
            answer = _PART.sub(b"", block["answer"]).removesuffix(b"\n")
            found.append(Recorded(file, block["title"].decode(), answer, block["closed"] == b"True"))
    return found


def transcript(file: str) -> str:
    """A whole transcript, for those that are stories and not answers."""
    return (FOLDER / f"{file}.txt").read_text()


# --- answers as values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer taken apart; `chunks` is None unless it was chunked."""

    status: str
    headers: frozenset[tuple[str, str]]
    body: bytes
    chunks: tuple[bytes, ...] | None


def parse_answers(raw: bytes) -> list[Answer]:
    """Every answer in the bytes of one connection; interim ones (100 Continue) too."""
    answers: list[Answer] = []
    while raw:
        answer, raw = _parse_one(raw)
        answers.append(answer)
    return answers


def _parse_one(raw: bytes) -> tuple[Answer, bytes]:
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)}
    named = dict(headers)
    kept = frozenset((name, value) for name, value in headers if name != "date")
    if status.split()[1] in {"100", "204"}:
        return Answer(status, kept, b"", None), rest
    if "transfer-encoding" in named:
        chunks, rest = _parse_chunks(rest)
        return Answer(status, kept, b"".join(chunks), chunks), rest
    length = int(named.get("content-length", len(rest)))
    is_bodiless = len(rest) < length  # an answer to HEAD says the length of what it leaves out
    return Answer(status, kept, b"" if is_bodiless else rest[:length], None), rest if is_bodiless else rest[length:]


def _parse_chunks(raw: bytes) -> tuple[tuple[bytes, ...], bytes]:
    chunks: list[bytes] = []
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return tuple(chunks), raw.removeprefix(b"\r\n")
        chunks.append(raw[:count])
        assert raw[count : count + 2] == b"\r\n", raw[:200]
        raw = raw[count + 2 :]
    raise AssertionError("a chunked answer without an end")


_SHAPES = {
    "created_at": "time",
    "expires_at": "time",
    "modified_at": "time",
    "created": "number",
    "completed_at": "number",
    "total_duration": "number",
    "load_duration": "number",
    "prompt_eval_duration": "number",
    "eval_duration": "number",
    "digest": "digest",
    "size": "number",
    "id": "id",
    "item_id": "id",
    "request_id": "id",
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z\Z")
_ID = re.compile(r"(chatcmpl|cmpl|msg|resp|req|call)[-_][0-9a-f]+\Z")


def normalised(value: Any) -> Any:
    """The value with times, ids and durations replaced by what kind of thing they are, after a look at their shape."""
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, dict):
        return {key: _shape(_SHAPES[key], item) if key in _SHAPES else normalised(item) for key, item in value.items()}
    return value


def _shape(shape: str, value: Any) -> Any:
    if shape == "time" and isinstance(value, str) and _TIME.match(value):
        return "<time>"
    if shape in {"number", "time"} and isinstance(value, int) and not isinstance(value, bool):
        return "<number>"
    if shape == "id" and isinstance(value, str) and (match := _ID.match(value)):
        return f"<{match.group(1)} id>"
    if shape == "digest" and isinstance(value, str) and re.fullmatch("(sha256:)?[0-9a-f]{64}", value):
        return "<digest>"
    return value


def values_of(piece: bytes) -> list[Any]:
    """The JSON values in a body or a chunk of any of the formats, and the text around them, in order.

    A text that is not JSON is a value itself. Line ends count: a body with a newline after its JSON is not one without.
    """
    values: list[Any] = []
    for line in piece.split(b"\n"):
        prefix = b"data: " if line.startswith(b"data: ") else b""
        try:
            value = json.loads(line[len(prefix) :])
            values.append((prefix.decode(), normalised(value)))
        except ValueError:
            values.append(line.decode(errors="replace"))
    return values


def is_fixed(answer: Answer) -> bool:
    """Whether nothing in the body was normalised, so that its length can be compared."""
    for line in answer.body.split(b"\n"):
        try:
            value = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            continue
        if normalised(value) != value:
            return False
    return True


# --- transcripts of one line an answer ---------------------------------------------------------------------------------

CUT_AT = 150
_MATRIX = re.compile(r"'(?P<model>[^']*)' (?P<path>/api/\w+) (?P<status>\d+) (?P<type>[^{]+?) (?P<body>\{.*)")
_LISTED = re.compile(
    r"(?P<method>[A-Z]+) (?P<path>\S+) (?P<request>None|\{.*?\}) -> (?P<status>\d+) (?P<type>\S+?;? ?\S*) "
    r"(?P<length>None|\d+) (?P<body>.*)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One answer printed on a line: what was asked, and as much of the body as was printed."""

    method: str
    path: str
    request: Any
    status: int
    content_type: str
    length: int | None
    beginning: str
    is_chunked: bool = False
    is_cut: bool = False  # the recorder printed so many characters and no more

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} {json.dumps(self.request)}"


def matrix() -> list[Line]:
    """The matrix of model names and routes."""
    found: list[Line] = []
    for text in transcript("b").splitlines():
        if match := _MATRIX.fullmatch(text):
            status, body = int(match["status"]), match["body"]
            line = Line("POST", match["path"], {"model": match["model"]}, status, match["type"], None, body)
            found.append(replace(line, is_cut=len(body) >= CUT_AT))
    return found


def listed() -> list[Line]:
    """The calls printed with their request; a streamed answer goes on over several lines."""
    found: list[Line] = []
    for text in transcript("b").splitlines():
        if match := _LISTED.fullmatch(text):
            request = None if match["request"] == "None" else json.loads(match["request"].replace("'", '"'))
            length = None if match["length"] == "None" else int(match["length"])
            status, kind = int(match["status"]), match["type"]
            found.append(Line(match["method"], match["path"], request, status, kind, length, match["body"], length is None))
        elif found and text.startswith('{"'):
            found[-1] = replace(found[-1], beginning=f"{found[-1].beginning}\n{text}")
    return found


_VOLATILE = re.compile(r'("(?:created_at|modified_at)":")[^"]*|("(?:\w+_duration)":)\d+')


def without_times(text: str) -> str:
    """The text of a JSON body with times and durations left out; a number cut off at the end goes too."""
    return _VOLATILE.sub(lambda match: match.group(1) or match.group(2), text)
