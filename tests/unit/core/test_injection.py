"""Which SDK variables an agent gets."""

from __future__ import annotations

from supervisord_ai.core.injection import injected


def given(inject: tuple[str, ...], tcp_url: str | None = "http://127.0.0.1:11435") -> dict[str, str]:
    return injected(inject, agent="opus-01", run_tag="r1", llm_socket="/run/x/llm.sock", tcp_url=tcp_url, token="t0k")


def test_every_agent_gets_the_socket_its_name_and_its_run() -> None:
    assert given(()) == {
        "AI_SUPERVISOR_SOCKET": "/run/x/llm.sock",
        "AI_SUPERVISOR_AGENT": "opus-01",
        "AI_SUPERVISOR_RUN": "r1",
    }


def test_a_paid_sdk_is_redirected_only_where_the_roster_says_so() -> None:
    assert not [name for name in given(("ollama",)) if name.startswith(("OPENAI", "ANTHROPIC"))]
    assert given(("openai",))["OPENAI_BASE_URL"] == "http://127.0.0.1:11435/v1"
    assert given(("anthropic",))["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:11435"
    assert "OLLAMA_HOST" not in given(("openai",))


def test_each_sdk_finds_the_address_and_the_token_under_the_names_that_it_reads() -> None:
    url = "http://127.0.0.1:11435"
    ollama = {"OLLAMA_HOST": url, "OLLAMA_BASE_URL": url, "OLLAMA_API_BASE": url, "OLLAMA_API_KEY": "t0k"}
    openai = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "t0k"}
    anthropic = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": "t0k"}
    assert given(("ollama",)) == given(()) | ollama
    assert given(("openai",)) == given(()) | openai
    assert given(("anthropic",)) == given(()) | anthropic
    assert given(("anthropic", "ollama", "openai")) == given(()) | ollama | openai | anthropic


def test_the_token_reaches_ollama_python_as_its_api_key() -> None:
    assert given(("ollama",))["OLLAMA_API_KEY"] == "t0k"


def test_without_a_loopback_face_no_sdk_is_pointed_at_a_port_that_is_not_there() -> None:
    assert set(given(("ollama", "openai", "anthropic"), tcp_url=None)) == {
        "AI_SUPERVISOR_SOCKET",
        "AI_SUPERVISOR_AGENT",
        "AI_SUPERVISOR_RUN",
    }


def test_an_external_agent_gets_its_token_by_itself_and_no_tag_of_a_run() -> None:
    found = injected((), agent="editor", run_tag=None, llm_socket="/run/x/llm.sock", tcp_url=None, token="t0k")
    assert found == {"AI_SUPERVISOR_SOCKET": "/run/x/llm.sock", "AI_SUPERVISOR_AGENT": "editor", "AI_SUPERVISOR_TOKEN": "t0k"}
