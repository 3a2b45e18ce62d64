"""The head of a GGUF file, and what is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from supervisord_ai.engine.gguf import read_head, read_weights
from supervisord_ai.errors import EngineFault


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def small_model() -> bytes:
    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.file_type") + struct.pack("<II", 4, 3),
        text("llama.context_length") + struct.pack("<II", 4, 8192),
        text("llama.embedding_length") + struct.pack("<II", 4, 576),
        text("tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
        text("tokenizer.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0.5, 1.5),
        text("tokenizer.add_bos") + struct.pack("<I?", 7, False),
    ]
    tensors = [
        text("embed") + struct.pack("<IQQ", 2, 576, 49152) + struct.pack("<IQ", 3, 0),
        text("norm") + struct.pack("<IQ", 1, 576) + struct.pack("<IQ", 0, 128),
    ]
    return struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)


def test_the_head_says_what_the_model_is(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(small_model())
    weights = read_weights(path)
    assert (weights.family, weights.quantization) == ("llama", "Q4_1")
    assert (weights.context_length, weights.embedding_length) == (8192, 576)
    assert weights.parameters == 576 * 49152 + 576
    assert weights.parameter_size == "28.31M"
    assert weights.metadata["tokenizer.add_bos"] is False
    assert "tokenizer.tokens" not in weights.metadata, "arrays are skipped, not read"


def test_what_is_not_a_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(EngineFault, match="not a GGUF file"):
        read_head(io.BytesIO(b"PK\3\4" + bytes(60)))
    with pytest.raises(EngineFault, match="unknown type 99"):
        read_head(io.BytesIO(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("k") + struct.pack("<I", 99)))
    with pytest.raises(EngineFault, match="No such file"):
        read_weights(tmp_path / "missing.gguf")


@pytest.mark.parametrize("length", [3, 23, 30, 60, 200])
def test_a_file_cut_anywhere_in_its_head_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(small_model()[:length])
    with pytest.raises(EngineFault, match="ends or breaks"):
        read_weights(path)


def test_a_length_beyond_reason_is_refused_before_it_is_read() -> None:
    with pytest.raises(EngineFault, match="a text of"):
        read_head(io.BytesIO(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 60)))
