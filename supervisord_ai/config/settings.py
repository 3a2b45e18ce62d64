"""Lays a config out flat, so that two of them can be compared key by key."""

from __future__ import annotations

import dataclasses
import hashlib

from supervisord_ai.config.schema import ModelsTable, ModelTable, OllamaTable
from supervisord_ai.config.values import Config
from supervisord_ai.config.writing import keys_of, sections_of
from supervisord_ai.core.reload import Settings


def settings_of(config: Config) -> Settings:
    """Return what a daemon runs with: the roster, and every other key as `table.key` with its value as it is written."""
    keys: dict[str, str] = {}
    for table, kind, policy in sections_of(config):
        keys |= {f"{table}.{key}": value for key, value in keys_of(kind, policy)}
    keys |= {f"models.{key}": value for key, value in keys_of(ModelsTable, config.models)}
    for model, pins in config.models.each:
        keys |= {f"models.{model}.{key}": value for key, value in keys_of(ModelTable, pins)}
    for backend in config.backends:
        keys |= {f"ollama.{backend.name}.{key}": value for key, value in keys_of(OllamaTable, backend)}
    for alert in config.alerts:
        keys[f"alerts.{alert.name}"] = _fingerprint(repr(dataclasses.astuple(alert)))
    keys |= {key: _fingerprint(keys[key]) for key in ("notify.command", "notify.url")}
    return Settings(config.roster, keys)


def _fingerprint(text: str) -> str:
    """Return what tells one value from another: where an alert goes may be a secret, so what it is is not told."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
