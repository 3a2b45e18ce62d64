"""Decides which variables an agent is given so that its SDK talks to us. Knows tokens and sockets only as text.

Sources of the names: ollama-python and ollama-js read OLLAMA_HOST (and the former sends OLLAMA_API_KEY as a bearer token to any
host), LiteLLM reads OLLAMA_API_BASE, LangChain and many tools OLLAMA_BASE_URL; the OpenAI and Anthropic SDKs read theirs.
The last two are given only where the roster lists them: a paid call must not silently land on a small model.
"""

from __future__ import annotations

from collections.abc import Sequence


def injected(
    inject: Sequence[str], *, agent: str, run_tag: str | None, llm_socket: str, tcp_url: str | None, token: str
) -> dict[str, str]:
    """Return the variables of one generation of `agent`.

    An external one has no `run_tag`, since we would take it for a stray; it has its token by itself, to show it on the socket.

    `tcp_url` is `http://127.0.0.1:PORT` without a slash at the end, None when the loopback face is off: then only those who
    speak Unix sockets are served, and no SDK variable is set.
    """
    given = {
        "AI_SUPERVISOR_SOCKET": llm_socket,
        "AI_SUPERVISOR_AGENT": agent,
    }
    if run_tag is not None:
        given["AI_SUPERVISOR_RUN"] = run_tag
    else:
        given["AI_SUPERVISOR_TOKEN"] = token
    if tcp_url is None:
        return given
    if "ollama" in inject:
        given |= {
            "OLLAMA_HOST": tcp_url,
            "OLLAMA_BASE_URL": tcp_url,
            "OLLAMA_API_BASE": tcp_url,
            "OLLAMA_API_KEY": token,
        }
    if "openai" in inject:
        given |= {"OPENAI_BASE_URL": f"{tcp_url}/v1", "OPENAI_API_KEY": token}
    if "anthropic" in inject:
        given |= {"ANTHROPIC_BASE_URL": tcp_url, "ANTHROPIC_AUTH_TOKEN": token}
    return given
