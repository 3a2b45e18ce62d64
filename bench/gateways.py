"""What does a call cost that goes through us, beside other gateways: nginx, LiteLLM's proxy, and uvicorn with httpx?

    .venv/bin/python -m bench.gateways [--seconds 5] [--rounds 3] [--callers 16] [--json]

All of them answer the same `POST /v1/chat/completions` before the same fixed upstream, one process each, all running at once and
measured in turn. What they do for it is not the same. nginx and the bare proxy hand on bytes. LiteLLM finds a deployment by the
name of the model, counts and calls it, without a database and without logs. We know who calls, queue by priority and share, hand
the upstream no more than its slots, and journal the request, its claim and its answer: "process" writes them, "power" also waits
for the disk. CPU is that of all threads of the server's processes over the requests of the window.

The aim: at most a quarter of the CPU of the nearest Python gateway, which is LiteLLM. The ratio to the bare proxy, which
has none of a gateway's duties, is printed beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from bench.peers import ROOT, venv_of
from bench.report import Figures, arguments, show
from bench.rig import Candidate, Rig, proxy_to, rig, wait_until_accepts
from bench.upstream import MODEL

SLOTS = 16
AIM = 0.25
READY_WITHIN_S = 120.0  # LiteLLM imports for most of a minute on a busy machine


def completion(model: str) -> bytes:
    """The request, head and body."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "what is the capital of France?"}]})
    heads = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(heads) + "\r\n\r\n" + body).encode()


def start_bare_proxy(running: Rig, upstream: str) -> Candidate:
    address = str(running.folder / "bare.sock")
    python = str(venv_of("gateways") / "bin" / "python")
    command = [python, "-m", "uvicorn", "--app-dir", str(ROOT / "bench"), "bare_proxy:app", "--uds", address]
    environ = os.environ | {"UPSTREAM": f"http://{upstream}"}
    return running.start("uvicorn + httpx", address, [*command, "--no-access-log", "--log-level", "warning"], environ)


def start_litellm(running: Rig, upstream: str) -> Candidate:
    where = running.folder / "litellm.json"  # JSON is YAML
    params = {"model": f"openai/{MODEL}", "api_base": f"http://{upstream}/v1", "api_key": "none"}
    settings = {"telemetry": False, "num_retries": 0, "turn_off_message_logging": True}
    where.write_text(
        json.dumps({"model_list": [{"model_name": "capital", "litellm_params": params}], "litellm_settings": settings})
    )
    port = "4811"
    command = [str(venv_of("gateways") / "bin" / "litellm"), "--config", str(where), "--host", "127.0.0.1", "--port", port]
    environ = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no network
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
    }
    return running.start("LiteLLM", f"127.0.0.1:{port}", [*command, "--num_workers", "1"], environ)


def versions() -> dict[str, str]:
    """What is compared, as it says of itself."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('litellm', 'uvicorn', 'httpx')}))"
    done = subprocess.run([venv_of("gateways") / "bin" / "python", "-c", code], stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def figures(seconds: float, rounds: int, callers: int) -> Figures:
    venv_of("gateways")
    with rig() as running:
        upstream = running.start_upstream()
        location, http = proxy_to(upstream)
        running.start_nginx("nginx", location, http=http)
        for durability in ("process", "power"):
            running.start_daemon(f"ours, {durability}", upstream, durability=durability, slots=SLOTS)
        start_bare_proxy(running, upstream)
        start_litellm(running, upstream)
        for candidate in running.candidates:
            wait_until_accepts(candidate.address, READY_WITHIN_S)
        running.look_again()
        requests = {one.name: completion("capital" if one.name == "LiteLLM" else MODEL) for one in running.candidates}
        found = running.compare(requests, connections=callers, seconds=seconds, rounds=rounds)
    ours = found["ours, process"]["cpu_us_per_request"]
    ratios = {name: round(ours / each["cpu_us_per_request"], 3) for name, each in found.items()}
    return {
        "callers": callers,
        "slots": SLOTS,
        "versions": versions(),
        "load": round(os.getloadavg()[0], 1),
        "candidates": found,
        "ours_over": ratios,
        "within_aim": ratios["LiteLLM"] <= AIM,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=16)
    args = parser.parse_args(argv)
    found = figures(args.seconds, args.rounds, args.callers)
    rows = [
        (name, f"{each['cpu_us_per_request']:.0f}", f"{found['ours_over'][name]:.2f}", f"{each['per_s']:.0f}",
         f"{each['whole_ms_p50']:.1f}", str(each["requests"]))
        for name, each in found["candidates"].items()
    ]  # fmt: skip
    ratio = found["ours_over"]["LiteLLM"]
    title = f"one forwarded call, {args.callers} callers, load {found['load']}; ours over LiteLLM {ratio} (aim {AIM})"
    show(found, args.json, title, ("", "CPU us", "ours is x", "calls/s", "p50 ms", "of requests"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
