"""Decides what an Ollama that we start is told: its address, its slots, its context, and nothing that is not its business.

The gateway hands it at most `slots` calls at once and pins the context of every model. An engine that assumes something else
would queue by its own rules or reload models behind our back, so both are said here, once, from the same config.
Variables: https://github.com/ollama/ollama/blob/main/envconfig/config.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from supervisord_ai.core.policies import BackendSpec, ModelsPolicy

ENGINE_CLASS = "engine"
OLLAMA_PORT = 11434

# What an engine needs to find its libraries, its models, the GPU and, for `pull`, the way out.
_KEPT = frozenset(
    {
        *("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "TMPDIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)
_KEPT_PREFIXES = ("OLLAMA_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "GGML_")
# A key for Ollama's cloud: nothing leaves this machine.
_WITHHELD = frozenset({"OLLAMA_API_KEY"})


def engine_name(backend: str) -> str:
    """Return what the engine of a backend is called in the journal, among the cages and among the logs."""
    return f"{ENGINE_CLASS}-{backend}"


def is_engine(name: str) -> bool:
    """Say whether a name of the journal that is not in the roster is an engine's."""
    return name.startswith(f"{ENGINE_CLASS}-")


def host_of(url: str) -> str:
    """Return a backend's `http://host:port` as OLLAMA_HOST says it."""
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or OLLAMA_PORT}"


def engine_environ(ours: Mapping[str, str], spec: BackendSpec, models: ModelsPolicy, *, home: str, user: str) -> dict[str, str]:
    """Return the whole environment of the Ollama that serves a backend. `home` and `user` are those it runs as."""
    kept = {
        name: value
        for name, value in ours.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and name not in _WITHHELD
    }
    return {
        **kept,
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "OLLAMA_HOST": host_of(spec.url),
        "OLLAMA_NUM_PARALLEL": str(spec.slots),
        "OLLAMA_CONTEXT_LENGTH": str(models.num_ctx),
        "OLLAMA_KEEP_ALIVE": f"{round(models.keep_alive_s * 1000)}ms",
        "OLLAMA_NO_CLOUD": "1",
    }
