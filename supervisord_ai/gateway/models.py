"""The models of all backends, for their owner: what is there, what is loaded, and the words that change it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.model_name import BadName, CloudName, NoName, read_name
from supervisord_ai.errors import UpstreamFault, UpstreamUnreachable, UsageError
from supervisord_ai.gateway.backends import Backend, BackendState

log = logging.getLogger(__name__)

REMOVE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model on one backend. Sizes in bytes; `loaded_bytes` is what it takes where it is loaded, None where it is not."""

    name: str
    backend: str
    size_bytes: int
    digest: str
    family: str
    quantization: str
    loaded_bytes: int | None
    vram_bytes: int | None
    expires_at: str | None


@dataclass(frozen=True, slots=True)
class ModelsView:
    """Every model there is, and the backends that could not be asked."""

    models: tuple[ModelView, ...]
    unreachable: tuple[str, ...]


class Lanes(Protocol):
    """Who loads and unloads: drains first, and lets nothing start in between."""

    async def load(self, model: str) -> None: ...
    async def unload(self, model: str) -> None: ...


class Models:
    """Asks and tells the backends. A model is named as Ollama names it; one without a tag is `:latest`."""

    def __init__(self, backends: Sequence[Backend], lanes: Lanes) -> None:
        self._backends = backends
        self._lanes = lanes

    async def view(self) -> ModelsView:
        """Return every model of every backend that answers."""
        models: list[ModelView] = []
        unreachable: list[str] = []
        for backend in self._backends:
            try:
                tags, loaded = await backend.client.tags(), await backend.client.ps()
            except UpstreamFault as exc:
                unreachable.append(f"{backend.spec.name}: {exc}")
                continue
            here = {str(one.get("name")): one for one in loaded}
            models += [_model_view(backend.spec.name, one, here.get(str(one.get("name")))) for one in tags]
        return ModelsView(tuple(models), tuple(unreachable))

    async def load(self, model: str) -> None:
        """Load a model where it is; returns when it is loaded.

        Raises:
            UsageError: no backend that answers has it.
            UpstreamFault: it was not loaded.
        """
        self._holders(_checked(model))
        await self._lanes.load(canonical_name(model))

    async def unload(self, model: str) -> None:
        """Drain a model, unload it, and return when it is gone. Raises: as `load`."""
        self._holders(_checked(model))
        await self._lanes.unload(canonical_name(model))

    async def remove(self, model: str) -> None:
        """Delete a model from the disk of every backend that has it, after unloading it. Raises: as `load`."""
        holders = self._holders(_checked(model))
        await self._lanes.unload(canonical_name(model))
        for backend in holders:
            log.info("backend %s deletes %s", backend.spec.name, model)
            try:
                status, told = await backend.client.request_json(
                    "DELETE", "/api/delete", {"model": model}, timeout_s=REMOVE_WITHIN_S
                )
            finally:
                backend.invalidate()
                backend.ask_now()
            if status != 200:
                raise UsageError(f"{backend.spec.name} did not delete {model}: {told.get('error', status)}")

    async def pull(self, model: str, tell: Callable[[bytes], Awaitable[None]]) -> None:
        """Download a model to the first backend that answers; `tell` gets the bytes of Ollama's progress lines.

        Raises:
            UsageError: no backend answers, or the name leaves this machine.
            UpstreamFault: Ollama cannot be reached, or broke off.
        """
        _checked(model)
        ready = [backend for backend in self._backends if backend.state is BackendState.READY]
        if not ready:
            raise UsageError("no backend answers")
        body = json.dumps({"model": model, "stream": True}).encode()
        try:
            async with ready[0].client.open("POST", "/api/pull", body=body) as reply:
                while (chunk := await reply.next_chunk()) is not None:
                    await tell(chunk)
        finally:
            ready[0].invalidate()
            ready[0].ask_now()

    def _holders(self, model: str) -> list[Backend]:
        ready = [backend for backend in self._backends if backend.state is BackendState.READY]
        if not ready:
            raise UpstreamUnreachable("no backend answers")
        holders = [backend for backend in ready if backend.has(canonical_name(model))]
        if not holders:
            raise UsageError(f"{model} is not installed: ai-supervisor models pull {model}")
        return holders


def _checked(model: str) -> str:
    match read_name(model):
        case CloudName():
            raise UsageError(f"{model} would leave this machine: cloud models are refused")
        case NoName() | BadName():
            raise UsageError(f"{model!r} is no name of a model")
        case _:
            return model


def _model_view(backend: str, one: dict[str, Any], loaded: dict[str, Any] | None) -> ModelView:
    details = one.get("details") or {}
    return ModelView(
        name=str(one.get("name", "")),
        backend=backend,
        size_bytes=int(one.get("size") or 0),
        digest=str(one.get("digest") or "")[:12],
        family=str(details.get("family") or ""),
        quantization=str(details.get("quantization_level") or ""),
        loaded_bytes=int(loaded.get("size") or 0) if loaded is not None else None,
        vram_bytes=int(loaded.get("size_vram") or 0) if loaded is not None else None,
        expires_at=str(loaded.get("expires_at") or "") if loaded is not None else None,
    )
