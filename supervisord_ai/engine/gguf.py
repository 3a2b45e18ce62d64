"""Reads the head of a GGUF file: what the model is, without loading it. Format: ggml/docs/gguf.md, version 3."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from supervisord_ai.errors import EngineFault

Value = bool | int | float | str | None

# gguf_metadata_value_type -> struct format.
_SCALARS: Mapping[int, str] = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 1 << 24

# llama.h, enum llama_ftype: the names Ollama shows as quantization_level.
_QUANTIZATIONS = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    15: "Q4_K_M",
    17: "Q5_K_M",
    18: "Q6_K",
    32: "BF16",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file as `tags` and `show` describe it. Arrays of the metadata (the vocabulary) are left out."""

    path: Path
    size_bytes: int
    modified_at: float
    digest: str  # SHA-256 of the file
    metadata: Mapping[str, Value]
    parameters: int

    @property
    def family(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def quantization(self) -> str:
        file_type = self.metadata.get("general.file_type")
        return _QUANTIZATIONS.get(file_type, f"type {file_type}") if isinstance(file_type, int) else "unknown"

    @property
    def parameter_size(self) -> str:
        """As Ollama writes it: 134.52M, 3.2B."""
        for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
            if self.parameters >= scale:
                return f"{self.parameters / scale:.2f}{unit}"
        return str(self.parameters)

    @property
    def context_length(self) -> int:
        return self._count("context_length")

    @property
    def embedding_length(self) -> int:
        return self._count("embedding_length")

    @property
    def chat_template(self) -> str:
        return str(self.metadata.get("tokenizer.chat_template", ""))

    def _count(self, key: str) -> int:
        value = self.metadata.get(f"{self.family}.{key}")
        return value if isinstance(value, int) else 0


def read_weights(path: Path) -> Weights:
    """Read a model file's head and digest. Takes about half a second for 100 MB.

    Raises:
        EngineFault: it cannot be opened, or is not GGUF version 2 or 3.
    """
    try:
        with path.open("rb") as file:
            metadata, parameters = read_head(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stat = path.stat()
    except OSError as exc:
        raise EngineFault(f"{path}: {exc.strerror}") from exc
    except (struct.error, UnicodeDecodeError) as exc:
        raise EngineFault(f"{path}: the file ends or breaks in its head: {exc}") from exc
    return Weights(path, stat.st_size, stat.st_mtime, digest, metadata, parameters)


def read_head(file: BinaryIO) -> tuple[dict[str, Value], int]:
    """Return the metadata and the number of parameters."""
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in {2, 3}:
        raise EngineFault(f"not a GGUF file of version 2 or 3 (it begins with {magic!r})")
    metadata: dict[str, Value] = {}
    for _ in range(pairs):
        key = _string(file)
        kind = _scalar(file, 4)
        if kind == _ARRAY:
            _skip_array(file)
        else:
            metadata[key] = _value(file, kind)
    parameters = 0
    for _ in range(tensors):
        _string(file)
        dimensions = struct.unpack(f"<{(count := _scalar(file, 4))}Q", file.read(8 * count))
        parameters += prod(dimensions)
        file.seek(4 + 8, 1)  # its type and where it lies
    return metadata, parameters


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind not in _SCALARS:
        raise EngineFault(f"metadata of an unknown type {kind}")
    form = "<" + _SCALARS[kind]
    value: bool | int | float = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _scalar(file: BinaryIO, kind: int) -> int:
    form = "<" + _SCALARS[kind]
    number: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return number


def _string(file: BinaryIO) -> str:
    length = _scalar(file, 10)
    if length > _LONGEST_STRING:
        raise EngineFault(f"a text of {length} bytes in the head")
    return file.read(length).decode()


def _skip_array(file: BinaryIO) -> None:
    kind, count = struct.unpack("<IQ", file.read(12))
    if kind == _STRING:
        for _ in range(count):
            file.seek(_scalar(file, 10), 1)
    elif kind in _SCALARS:
        file.seek(struct.calcsize(_SCALARS[kind]) * count, 1)
    else:
        raise EngineFault(f"an array of an unknown type {kind}")
