"""An agent that means harm, over the real sockets: what it sends, whom it claims to be, what it wants that is not its to have."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from supervisord_ai.core.crowd import connections_most
from supervisord_ai.core.token import token_for
from tests.system.harness import ask, eventually
from tests.system.hostile import HAS_CAGES, MODEL, Stage, parted, staged

pytestmark = pytest.mark.slow

HOST = b"Host: localhost\r\n"
BODY = b'{"model":"' + MODEL.encode() + b'","prompt":"hi","stream":false}'
STOLEN = b"DELETE /api/delete HTTP/1.1\r\nHost: localhost\r\nContent-Length: 23\r\n\r\n" + b'{"model":"llama3.2:3b"}'


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged("mallory", "alice") as made:
        yield made


# --- who am I -----------------------------------------------------------------------------------------------------------


def test_an_agent_that_guesses_tokens_is_nobody(stage: Stage) -> None:
    secret = b"\0" * 32
    guesses = [
        *("ais1.alice.1.", "ais1.alice.1.AAAA", "ais1.alice.0." + "A" * 43, "ais1..1.x", "ais1." + "a" * 5000, "ais1.alice.-1.x"),
        *(token_for(secret, "alice", generation) for generation in range(3)),
        token_for(b"", "alice", 1),
    ]
    code = """
import threading
told = []
def guess(token):
    told.append(say_tcp(get("/supervisor/v1/whoami", b"Authorization: Bearer " + token + b"\\r\\n"))[:200])
    told.append(say_tcp(get("/@" + token.decode() + "/supervisor/v1/whoami"))[:200])
threads = [threading.Thread(target=guess, args=(token,)) for token in guesses]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    answers = stage.puppets["mallory"].run(code, guesses=[guess.encode() for guess in guesses])
    assert len(answers) == 2 * len(guesses)
    assert {answer.split()[1] for answer in answers} == {"401"}


@pytest.mark.skipif(not HAS_CAGES, reason="no cgroup that may be written here")
def test_an_agent_with_anothers_token_is_not_the_other_on_tcp(stage: Stage) -> None:
    # Of one user they can read each other's environment: that is why a token alone is no proof.
    pid = stage.daemon.agents()["alice"]["pid"]
    code = """
environ = open(f"/proc/{pid}/environ", "rb").read().split(b"\\0")
(token,) = [each.partition(b"=")[2] for each in environ if each.startswith(b"OLLAMA_API_KEY=")]
told = say_tcp(get("/supervisor/v1/whoami", b"Authorization: Bearer " + token + b"\\r\\n"))
"""
    status, body = parted(stage.puppets["mallory"].run(code, pid=pid))
    assert (status, json.loads(body)["name"]) == (200, "mallory"), "a stolen token made mallory alice"
    own = "told = say_tcp(get('/supervisor/v1/whoami', b'Authorization: Bearer ' + os.environb[b'OLLAMA_API_KEY'] + b'\\r\\n'))"
    assert json.loads(parted(stage.puppets["mallory"].run(own))[1])["name"] == "mallory"


def test_another_agents_request_and_key_are_nobodys(stage: Stage) -> None:
    alice, mallory = stage.puppets["alice"], stage.puppets["mallory"]
    key = b"Idempotency-Key: shared\r\n"
    more = b"Prefer: respond-async\r\n" + key
    _, told = alice.post("/api/generate", b'{"model":"llama3.2:3b","prompt":"alice\'s secret","stream":false}', more)
    request = json.loads(told)["id"]
    for method in ("GET", "DELETE"):
        target = f"/supervisor/v1/requests/{request}"
        answer = mallory.say(f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert parted(answer)[0] == 404
    status, body = mallory.post("/api/generate", b'{"model":"llama3.2:3b","prompt":"other","stream":false}', key)
    assert status == 200
    assert "alice" not in body
    code = "told = say(get(f'/supervisor/v1/requests/{request}?wait=20'))"
    assert json.loads(parted(alice.run(code, request=request))[1])["state"] == "done"


def test_the_owners_socket_and_files_are_shut_to_an_agent(stage: Stage) -> None:
    code = """
told = {"control": None, "read": [], "write": []}
try:
    told["control"] = say(get("/v1/status"), path=run + "/control.sock")[:60]
except OSError as exc:
    told["control"] = repr(exc)
for top in (run, state, log):
    for folder, folders, files in os.walk(top):
        for file in [folder] + [os.path.join(folder, name) for name in files]:
            if os.access(file, os.W_OK): told["write"].append(file)
            if os.path.isfile(file):
                try: open(file, "rb").close(); told["read"].append(file)
                except OSError: pass
"""
    folders = {name: str(stage.folder / name) for name in ("run", "state", "log")}
    found = stage.puppets["mallory"].run(code, **folders)
    assert "PermissionError" in found["control"] or " 403 " in found["control"]
    if os.geteuid() == 0:
        assert found["read"] == []
        assert [file for file in found["write"] if not file.endswith("llm.sock")] == []


# --- smuggling ----------------------------------------------------------------------------------------------------------

CL = b"Content-Length: %d\r\n" % len(STOLEN)
SMUGGLED = {
    "CL beside TE": HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + STOLEN,
    "TE beside CL": HOST + b"Transfer-Encoding: chunked\r\n" + CL + b"\r\n0\r\n\r\n" + STOLEN,
    "two lengths": HOST + b"Content-Length: 0\r\n" + CL + b"\r\n" + STOLEN,
    "two equal lengths": HOST + CL + CL + b"\r\n" + STOLEN,
    "a list of lengths": HOST + b"Content-Length: 0, %d\r\n\r\n" % len(STOLEN) + STOLEN,
    "a length with a sign": HOST + b"Content-Length: +0\r\n\r\n" + STOLEN,
    "a folded length": HOST + b"X: a\r\n Content-Length: 5\r\n" + b"Content-Length:\r\n 0\r\n\r\n" + STOLEN,
    "a space before the colon": HOST + b"Content-Length : 0\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + STOLEN,
    "TE of two codings": HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + STOLEN,
    "TE obscured": HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + STOLEN,
    "TE with a tab": HOST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + STOLEN,
    "LF alone": b"Host: localhost\nContent-Length: 0\n\n" + STOLEN,
    "a chunk size with a sign": HOST + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + STOLEN,
    "a chunk size of hex": HOST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + STOLEN,
    "a chunk size that wraps": HOST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" + STOLEN,
    "two hosts": HOST + b"Host: evil\r\nContent-Length: 0\r\n\r\n" + STOLEN,
    "NUL in a header": HOST + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + STOLEN,
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_a_request_is_not_smuggled_behind_another(stage: Stage, how: str) -> None:
    answer = stage.puppets["mallory"].say(b"POST /api/generate HTTP/1.1\r\n" + SMUGGLED[how], half=True)
    assert answer.count("HTTP/1.1 ") == 1, answer
    assert parted(answer)[0] in {400, 501}, answer
    assert [model["name"] for model in ask(stage.daemon.llm, "/api/tags").json["models"]] == [MODEL]


KELVIN, LONG_S = "\u212a", "\u017f"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        # Go takes the last, whatever its case.
        ('{"model":"llama3.2:3b","MODEL":"x:cloud","prompt":"hi","stream":false}', 403, "cloud"),
        ('{"model":"x:cloud","Model":"llama3.2:3b","prompt":"hi","stream":false}', 200, '"model":"llama3.2:3b"'),
        ('{"model":"llama3.2:3b","model":"x:cloud","prompt":"hi"}', 403, "cloud"),
        (f'{{"model":"llama3.2:3b","prompt":"hi","stream":true,"{LONG_S}tream":false}}', 200, '"done":true'),
        ('{"model":"llama3.2:3b","prompt":"hi","stream":false}{"model":"x:cloud"}', 200, '"model":"llama3.2:3b"'),
        ('{"model":"llama3.2:3b","\\u006dodel":"x:cloud","prompt":"hi"}', 403, "cloud"),
    ],
)
def test_what_is_judged_of_a_body_is_what_ollama_is_sent(stage: Stage, body: str, status: int, words: str) -> None:
    told, answer = stage.puppets["mallory"].post("/api/generate", body.encode())
    assert (told, words in answer) == (status, True), answer


@pytest.mark.parametrize("key", ["keep_alive", "Keep_Alive", f"{KELVIN}eep_alive", "\\u212aeep_alive"])
def test_no_spelling_of_keep_alive_unloads_a_model(stage: Stage, key: str) -> None:
    alice = stage.puppets["alice"]
    assert alice.ask("/api/generate", prompt="load", stream=False)[0] == 200
    stage.puppets["mallory"].post("/api/generate", f'{{"model":"llama3.2:3b","{key}":0}}'.encode())
    assert MODEL in stage.loaded()


# --- what is not an agent's to have -------------------------------------------------------------------------------------


CLOUD_NAMES = ["x:cloud", "x:CLOUD", "x:7b-cloud", " x:cloud ", "x: cloud", "a/b/x:cloud", "ollama.com/x/y:cloud"]


@pytest.mark.parametrize("name", CLOUD_NAMES)
@pytest.mark.parametrize("path", ["/api/generate", "/api/show", "/v1/chat/completions"])
def test_no_prompt_leaves_the_machine(stage: Stage, name: str, path: str) -> None:
    body = {"model": name, "prompt": "secret", "messages": [{"role": "user", "content": "secret"}]}
    status, said = stage.puppets["mallory"].post(path, json.dumps(body).encode())
    assert (status, "cloud is disabled" in said) == (403, True), said


ADMIN = [("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/create"), ("POST", "/api/copy"), ("POST", "/api/push")]
SPELLINGS = ["{}", "/{}", "{}/", "/api/..{}", "/.{}", "{}?x=/api/chat", "{}#x", "http://a{}", "{}%00", "{}%2f", "{}\\", "/@x{}"]


def test_no_spelling_of_an_administration_route_is_granted(stage: Stage) -> None:
    requests = []
    body = json.dumps(dict.fromkeys(("model", "name", "source", "from"), MODEL) | {"destination": "y"}).encode()
    for method, path in ADMIN:
        escaped = path.replace("d", "%64").replace("c", "%63").replace("p", "%70")
        for target in [*(spelling.format(path) for spelling in SPELLINGS), escaped, path.upper()]:
            head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            requests.append(head.encode() + body)
    answers = stage.puppets["mallory"].run("told = [say(raw) for raw in requests]", requests=requests)
    statuses = {request.split(b" HTTP")[0].decode(): parted(answer)[0] for request, answer in zip(requests, answers, strict=True)}
    granted = {request: status for request, status in statuses.items() if status not in {301, 307, 400, 403, 404, 405}}
    assert granted == {}
    models = [model["name"] for model in ask(stage.daemon.llm, "/api/tags").json["models"]]
    assert models == [MODEL]


# --- a page in the owner's browser --------------------------------------------------------------------------------------

FOREIGN = {
    "another origin": b"Host: %s\r\nOrigin: http://evil.example\r\n",
    "no origin at all": b"Host: %s\r\nOrigin: null\r\n",
    "a name that was made to resolve here": b"Host: evil.example\r\nOrigin: http://evil.example\r\n",
    "only a host": b"Host: 127.0.0.1.evil.example:80\r\n",
    "an origin that begins well": b"Host: %s\r\nOrigin: http://localhost.evil.example\r\n",
    "an origin with a user": b"Host: %s\r\nOrigin: http://localhost@evil.example\r\n",
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_web_page_cannot_use_the_owners_browser(stage: Stage, how: str) -> None:
    port = int(stage.puppets["alice"].run("told = tcp().getpeername()[1]"))
    heads = FOREIGN[how].replace(b"%s", b"127.0.0.1:%d" % port)
    raw = b"POST /api/generate HTTP/1.1\r\n" + heads + b"Content-Type: text/plain\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", port), 20) as peer:
        peer.sendall(raw + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        answer = peer.makefile("rb").read().decode()
    assert parted(answer)[0] == 403, answer
    assert "access-control-allow" not in answer.lower()


# --- too much -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b"GET /api/tags HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", {431}),
        (b"GET /api/tags HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 500 + b"\r\n", {431}),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {431}),
        (b"A" * 300_000, {400, 431}),
        (b"POST /api/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n{", {413}),
        (b"POST /api/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999999999999\r\n\r\n{", {400, 413}),
        (b"POST /api/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 5000, {400}),
    ],
)
def test_a_request_beyond_every_bound_is_refused_at_once(stage: Stage, raw: bytes, statuses: set[int]) -> None:
    began = time.monotonic()
    answer = stage.puppets["mallory"].say(raw)
    assert parted(answer)[0] in statuses, answer[:300]
    assert time.monotonic() - began < 10


def test_a_body_of_brackets_or_of_gzip_costs_its_sender_only(stage: Stage) -> None:
    mallory = stage.puppets["mallory"]
    assert mallory.run("told = say(post('/api/chat', b'[' * 5_000_000))[:12]") == "HTTP/1.1 400"
    assert mallory.run("told = say(post('/api/chat', b'{\"a\":' * 900_000))[:12]") == "HTTP/1.1 400"
    bomb = """
import zlib
z = zlib.compressobj(9, zlib.DEFLATED, 31)
raw = b"".join(z.compress(b" " * 1_000_000) for _ in range(200)) + z.flush()
told = say(post("/api/chat", raw, b"Content-Encoding: gzip\\r\\n"))[:12]
"""
    assert mallory.run(bomb) == "HTTP/1.1 413"
    assert stage.puppets["alice"].ask("/api/generate", prompt="still here", stream=False)[0] == 200


def test_those_who_dribble_their_heads_keep_nobody_waiting(stage: Stage) -> None:
    code = """
held = [unix() for _ in range(300)] + [tcp() for _ in range(100)]
for s in held: s.send(b"POST /api/generate HTTP/1.1\\r\\nHost: a\\r\\nX-")
import builtins; builtins.held = held
told = len(held)
"""
    assert stage.puppets["mallory"].run(code) == 400
    began = time.monotonic()
    assert stage.puppets["alice"].ask("/api/generate", prompt="in between", stream=False)[0] == 200
    assert time.monotonic() - began < 5
    stage.puppets["mallory"].run("import builtins\nfor s in builtins.held: s.close()\nbuiltins.held = []\ntold = 0")


# --- words that a terminal would obey -----------------------------------------------------------------------------------

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\nrequest forged of owner: done"


def test_no_log_line_and_no_answer_of_the_owner_carries_a_command_for_a_terminal(stage: Stage) -> None:
    mallory = stage.puppets["mallory"]
    mallory.ask("/api/generate", model=ESCAPES, prompt=ESCAPES)
    mallory.ask("/api/chat", messages=[{"role": ESCAPES, "content": ESCAPES}], stream=False)
    mallory.say(b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n")
    mallory.say(b"GET /api/tags HTTP/1.1\r\nHost: \x1b[2J\r\nUser-Agent: \x1b]0;x\x07\r\n\r\n")
    mallory.post("/api/generate", BODY, b"Idempotency-Key: \x9b31m\xc2\x9b\r\nX-AI-Priority: \x9b2J\r\n")
    code = """
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(("STATUS=" + words).encode("utf-8", "surrogatepass"), os.environ["NOTIFY_SOCKET"])
sys.stderr.write(words + "\\n"); sys.stderr.flush()
"""
    mallory.run(code, words=ESCAPES)

    def status_of() -> str:
        return str(stage.daemon.agents()["mallory"].get("status") or "")

    eventually(lambda: "owned" in status_of(), what="the status text of the agent")
    assert status_of().isprintable()
    pages = ("/v1/queue", "/v1/agents", "/v1/status", "/metrics")
    shown = "".join(ask(stage.daemon.control, path).body.decode() for path in pages)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    log = stage.daemon.log
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", log), "the daemon's log obeys an agent"
    assert not [line for line in log.splitlines() if line.startswith("request forged")]


# --- many connections ---------------------------------------------------------------------------------------------------


def test_an_agent_that_takes_every_connection_takes_them_from_itself(stage: Stage) -> None:
    """More than the daemon can hold: others are served, its idlest are ended."""
    fds = f"/proc/{stage.daemon.process.pid}/fd" if stage.daemon.process is not None else ""
    before = len(os.listdir(fds))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = connections_most(hard)
    code = """
import builtins, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = builtins.held = []
try:
    while len(held) < min(most + 500, hard - 100):
        try: held.append(unix())
        except BlockingIOError: time.sleep(0.01)  # the listener's queue is full
except OSError: pass
told = len(held)
"""
    alice, mallory = stage.puppets["alice"], stage.puppets["mallory"]
    alice.run("import builtins\nkept = builtins.kept = unix()\ntold = 0")
    held = mallory.run(code, most=most)
    print(f"{held} connections taken, {most} may be open")
    assert held > most
    eventually(lambda: "and mallory has" in stage.daemon.log, what="it says whose they are")
    began = time.monotonic()
    assert alice.ask("/api/generate", prompt="in a crowd", stream=False)[0] == 200
    assert stage.daemon.status()["agents"]
    assert time.monotonic() - began < 5
    assert len(os.listdir(fds)) <= most + before + 100
    ended = "import builtins\ns = builtins.held[0]\ns.settimeout(20)\ntold = s.recv(1) == b''"
    assert mallory.run(ended), "the one that was idle longest"
    asked = "import builtins\nbuiltins.kept.sendall(get('/api/tags'))\ntold = builtins.kept.recv(12).decode()"
    assert alice.run(asked) == "HTTP/1.1 200", "idle for longer than all of them, and not mallory's"
    mallory.run("import builtins\nfor s in builtins.held: s.close()\nbuiltins.held = []\ntold = 0")
    eventually(lambda: len(os.listdir(fds)) <= before + 5, what="the daemon holds none of them")
