"""The requests behind the recorded answers, by the recordings' titles, and those that cannot be asked again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Body = Mapping[str, Any] | bytes | None
LOCAL = (("Host", "127.0.0.1:11434"),)


def http(method: str, target: str, body: Body = None, *headers: tuple[str, str], version: str = "1.1") -> bytes:
    """One request as bytes. `Host` is there unless given; a body brings its length."""
    data = json.dumps(body).encode() if isinstance(body, Mapping) else body
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in ((*LOCAL, *headers) if "host" not in names else headers)]
    if data is not None and not {"content-length", "transfer-encoding"} & names:
        lines.append(f"Content-Length: {len(data)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (data or b"")


def show(body: Body) -> bytes:
    return http("POST", "/api/show", body)


def generate(prompt: str = "[[n=1]]", **more: Any) -> bytes:
    return http("POST", "/api/generate", {"model": "chat", "prompt": prompt, **more})


def said(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def chat(prompt: str = "[[n=1]]", **more: Any) -> bytes:
    return http("POST", "/api/chat", {"model": "chat", "messages": said(prompt), **more})


def openai(prompt: str = "[[n=2]]", **more: Any) -> bytes:
    return http("POST", "/v1/chat/completions", {"model": "chat", "messages": said(prompt), **more})


def messages(prompt: str = "[[n=2]]", **more: Any) -> bytes:
    return http("POST", "/v1/messages", {"model": "chat", "max_tokens": 100, "messages": said(prompt), **more})


def responses(prompt: str = "[[n=1]]", **more: Any) -> bytes:
    return http("POST", "/v1/responses", {"model": "chat", "input": prompt, **more})


def in_chunks(path: str, body: Mapping[str, Any], *, size: int = 1, after: bytes = b"\r\n", extension: bytes = b"") -> bytes:
    data = json.dumps(body).encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    chunked = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return http("POST", path, chunked + b"0\r\n" + after, ("Transfer-Encoding", "chunked"))


NOPE = {"model": "nope"}
ORIGIN = ("Origin", "http://localhost:3000")

REQUESTS: dict[str, bytes] = {
    # a: routes, hosts, origins, framing
    "a: ps": http("GET", "/api/ps"),
    "a: HEAD ps": http("HEAD", "/api/ps"),
    "a: GET generate": http("GET", "/api/generate"),
    "a: POST /": http("POST", "/"),
    "a: 404": http("GET", "/nope"),
    "a: trailing slash": http("GET", "/api/tags/"),
    "a: POST trailing slash": http("POST", "/api/chat/"),
    "a: OPTIONS no origin": http("OPTIONS", "/api/generate"),
    "a: OPTIONS preflight ok": http(
        "OPTIONS", "/api/generate", None, ORIGIN, ("Access-Control-Request-Method", "POST")
    ),
    "a: evil origin": http("GET", "/api/version", None, ("Origin", "http://evil.example")),
    "a: good origin": http("GET", "/api/version", None, ORIGIN),
    "a: evil host": http("GET", "/api/version", None, ("Host", "evil.example")),
    "a: Host api": http("GET", "/api/version", None, ("Host", "api")),
    "a: Host empty": http("GET", "/api/version", None, ("Host", "")),
    "a: Host foo.local": http("GET", "/api/version", None, ("Host", "foo.local")),
    "a: HTTP/1.1 no Host": b"GET /api/version HTTP/1.1\r\n\r\n",
    "a: HTTP/1.0 GET /": http("GET", "/", version="1.0"),
    "a: HTTP/1.0 keepalive": http("GET", "/", None, ("Connection", "keep-alive"), version="1.0"),
    "a: absolute form": http("GET", "http://127.0.0.1:11434/api/version"),
    "a: double slash": http("GET", "//api/version"),
    "a: dotdot": http("GET", "/api/x/../version"),
    "a: lowercase method": http("get", "/api/version"),
    "a: pprof": http("GET", "/debug/pprof/"),
    "a: vars": http("GET", "/debug/vars"),
    "a: v1 models": http("GET", "/v1/models"),
    "a: v1 models/chat": http("GET", "/v1/models/chat"),
    "a: v1 models/nope": http("GET", "/v1/models/nope"),
    "a: v1 models/a%2Fb": http("GET", "/v1/models/a%2Fb"),
    "a: HEAD v1 models": http("HEAD", "/v1/models"),
    "a: garbage": b"GARBAGE\r\n\r\n",
    "a: huge header": http("GET", "/", None, ("X-Huge", "x" * 1_100_000)),
    "a: dup CL": http("POST", "/api/show", b"{}", ("Content-Length", "2"), ("Content-Length", "3")),
    "a: TE gzip": http("POST", "/api/show", b"", ("Transfer-Encoding", "gzip")),
    # b: bodies and their errors
    "b: trailing garbage": show(b'{"model":"nope"} junk'),
    "b: case-insensitive key": show({"MODEL": "nope"}),
    "b: dup keys": show(b'{"model":"nope","model":"nope2"}'),
    "b: invalid utf8": show(b'{"model":"n\xff"}'),
    "b: BOM": show(b'\xef\xbb\xbf{"model":"nope"}'),
    "b: empty body": show(b""),
    "b: null body": show(b"null"),
    "b: array body": show(b"[]"),
    "b: string body": show(b'"nope"'),
    "b: truncated": show(b'{"model":"no'),
    "b: bad json": show(b'{model:"nope"}'),
    "b: wrong type": show({"model": 5}),
    "b: no model show": show({}),
    "b: NaN": generate(options={"temperature": float("nan")}),
    "b: bad option type": generate(options={"temperature": "hot"}),
    "b: bad keepalive": generate(keep_alive="5x"),
    "b: keepalive no unit": generate(keep_alive="5"),
    "b: keepalive bool": generate(keep_alive=True),
    "b: bad think": generate(think="extreme"),
    "b: think on non-thinking": generate(think=True),
    "b: top_logprobs 21": generate(logprobs=True, top_logprobs=21),
    "b: raw+system": generate(raw=True, system="x"),
    "b: suffix unsupported": generate(suffix="x"),
    "b: bad base64 image": generate(images=["!!!"]),
    "b: stream string": generate(stream="false"),
    "b: tools unsupported": chat(tools=[{"type": "function", "function": {"name": "f"}}]),
    # c: streams and bodies of every face
    "c: unicode stream": generate("[[n=2 uni=1]]"),
    "c: HTTP/1.0 stream": http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=2]]"}, version="1.0"),
    "c: HTTP/1.0 nonstream": http(
        "POST", "/api/generate", {"model": "chat", "prompt": "[[n=2]]", "stream": False}, version="1.0"
    ),
    "c: mid error generate (runner conn closed)": generate("[[n=9 fail=3 die=1]]"),
    "c: mid error generate nonstream": generate("[[n=9 fail=3 die=1]]", stream=False),
    "c: no final": generate("[[n=6 nofinal=1]]"),
    "c: no final nonstream": generate("[[n=3 nofinal=1]]", stream=False),
    "c: token repeat nonstream": generate("[[n=99 repeat=1]]", stream=False),
    "c: err500 first stream": generate("[[status=500]]"),
    "c: err400 first nonstream": generate("[[status=400]]", stream=False),
    "c: chat stream": chat("[[n=2]]"),
    "c: chat nonstream": chat("[[n=2]]", stream=False),
    "c: chat mid": chat("[[n=9 fail=3]]"),
    "c: v1 chat stream": openai(stream=True),
    "c: v1 chat stream usage": openai(stream=True, stream_options={"include_usage": True}),
    "c: v1 chat nonstream default": openai(),
    "c: v1 chat mid err": openai("[[n=9 fail=3]]", stream=True),
    "c: v1 chat err first": openai("[[status=500]]", stream=True),
    "c: v1 chat err nonstream": openai("[[status=500]]"),
    "c: v1 chat nope": openai(model="nope"),
    "c: v1 chat empty msgs": openai(messages=[]),
    "c: v1 completions stream": http("POST", "/v1/completions", {"model": "chat", "prompt": "[[n=2]]", "stream": True}),
    "c: v1 completions": http("POST", "/v1/completions", {"model": "chat", "prompt": "[[n=2]]"}),
    "c: v1 completions list prompt": http("POST", "/v1/completions", {"model": "chat", "prompt": ["a", "b"]}),
    "c: messages stream": messages(stream=True),
    "c: messages nonstream": messages(),
    "c: messages no max_tokens": messages(max_tokens=0),
    "c: messages mid err": messages("[[n=9 fail=3]]", stream=True),
    "c: messages nope": messages(model="nope"),
    "c: messages nope stream": messages(model="nope", stream=True),
    "c: responses stream": responses(stream=True),
    "c: responses nonstream": responses(),
    "c: v1 embeddings": http("POST", "/v1/embeddings", {"model": "embed", "input": ["one", "two words"]}),
    "c: v1 embeddings b64": http(
        "POST", "/v1/embeddings", {"model": "embed", "input": "a", "encoding_format": "base64"}
    ),
    # d: framing of bodies
    "d: expect ok": http(
        "POST", "/api/generate", {"model": "chat", "prompt": "[[n=2]]", "stream": False}, ("Expect", "100-continue")
    ),
    "d: expect 404": http("POST", "/nope", {"model": "chat"}, ("Expect", "100-continue")),
    "d: expect unknown": http("POST", "/api/show", NOPE, ("Expect", "tea")),
    "d: chunked req": in_chunks("/api/generate", {"model": "chat", "prompt": "[[n=2]]", "stream": False}),
    "d: bad chunk size": http("POST", "/api/show", b"zz\r\n{}\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked")),
    "d: short body half close": http("POST", "/api/show", b'{"model":"nope', ("Content-Length", "100")),
    "d: pipeline 4": http("GET", "/api/version")
    + http("GET", "/api/version")
    + generate()
    + http("GET", "/", None, ("Connection", "close")),
    "d: half-close version": http("GET", "/api/version"),
    # g: the queue is full (see QUEUE_IS_FULL)
    "g: queue full stream": generate(model="second"),
    "g: queue full openai": openai(model="second"),
    "g: queue full anthropic": messages(model="second"),
    # n: the rest of the faces
    "n: gzip body": show(b"\x1f\x8b\x08\x00\x00\x00"),
    "n: messages stream error first": messages("[[status=500]]", stream=True),
    "n: responses stream error first": responses("[[status=500]]", stream=True),
    "n: responses mid error": responses("[[n=9 fail=3]]", stream=True),
    "n: debug render": generate("hello", _debug_render_only=True),
    "n: logprobs": chat("[[n=1]]", stream=False, logprobs=True, top_logprobs=2),
    "n: raw (no context)": generate("[[n=1]]", stream=False, raw=True),
    "n: text/plain content-type": http("POST", "/api/chat", {"model": "chat"}, ("Content-Type", "text/plain")),
    "n: v1 completions empty prompt (load!)": http("POST", "/v1/completions", {"model": "chat", "prompt": ""}),
    "n: v1 unknown fields": openai("hi", n=2, user="x", tool_choice="auto", logit_bias={}),
}

HALF_CLOSED = {"d: short body half close", "d: half-close version"}
"""Those whose recorder shut its sending side after the request."""

QUEUE_IS_FULL = {"g: queue full stream", "g: queue full openai", "g: queue full anthropic"}
"""Those asked while `chat` loads, two others wait for a load, and MAX_QUEUE is 2."""

_SILENT = "the recorder stopped reading while the model loaded: there is no answer to compare"
EXCLUDED: dict[str, str] = {
    "b: unknown option": _SILENT,
    "b: keepalive null": _SILENT,
    "b: bad format nonstream": _SILENT,
    "b: bad format stream": _SILENT,
    "b: image to non vision": _SILENT,
    "a: CL+TE": "Go lets Transfer-Encoding win; the server we share with the product refuses both, which is safer",
    "c: token repeat stream": "the recorder printed only a beginning; its body form is replayed",
    "d: chunk ext + trailer": "Go answers, then closes over the malformed trailer; the shared server refuses it with 400",
    "d: GET with body then another": "the recorder printed only a beginning of /api/tags",
    "d: half-close generate": "no bytes came; told as a story in test_ollama_double_scheduling",
}
