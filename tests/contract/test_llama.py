"""What the engine may rely on of llama.cpp, held on the made-up one and on the real one with its small model."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.engine.asked import Message, read_options
from supervisord_ai.engine.generation import Finish, Llama, Piece, Stop
from supervisord_ai.engine.llama import LlamaPolicy, LlamaServer
from supervisord_ai.engine.location import find, require_model_file
from supervisord_ai.errors import EngineFault
from tests.fakes.llama import FakeLlama

is_installed = find().model_file is not None

FORMS = ["made up", pytest.param("real", marks=[pytest.mark.engine, pytest.mark.skipif(not is_installed, reason="no engine")])]


@asynccontextmanager
async def loaded(form: str, folder: Path) -> AsyncIterator[Llama]:
    llama: Llama
    if form == "made up":
        llama = FakeLlama(load_s=0.0, token_s=0.001, prompt_token_s=0.0, words=1000)
    else:
        llama = LlamaServer(LlamaPolicy(require_model_file(), slots=2, threads=1), folder / "llama.sock")
    await llama.load()
    try:
        yield llama
    finally:
        await llama.unload()


def exactly(count: int) -> JsonObject:
    return {**read_options({"temperature": 0}), "n_predict": count}


async def run(llama: Llama, prompt: list[int], slot: int, parameters: JsonObject) -> tuple[list[Piece], Finish]:
    pieces = []
    async with llama.complete(prompt, slot, parameters) as stream:
        while isinstance(found := await stream.next(), Piece):
            pieces.append(found)
    return pieces, found


async def prompt_of(llama: Llama, text: str) -> list[int]:
    return await llama.tokenize(await llama.render([Message("user", text)]), is_text_special=True)


@pytest.mark.parametrize("form", FORMS)
async def test_a_completion_gives_its_tokens_one_by_one_and_then_its_counts(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        prompt = await prompt_of(llama, "Write a paragraph about bees.")
        pieces, finish = await run(llama, prompt, 0, exactly(8))
        assert sum(len(piece.tokens) for piece in pieces) == 8
        assert "".join(piece.text for piece in pieces)
        assert (finish.stop, finish.prompt_tokens, finish.tokens) == (Stop.LENGTH, len(prompt), 8)
        assert finish.prompt_ms > 0
        assert finish.tokens_ms > 0


@pytest.mark.parametrize("form", FORMS)
async def test_the_same_prompt_gives_the_same_answer_when_greedy(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        prompt = await prompt_of(llama, "Name three colours.")
        one, _ = await run(llama, prompt, 0, exactly(12))
        two, _ = await run(llama, prompt, 0, exactly(12))
        assert [piece.text for piece in one] == [piece.text for piece in two]


@pytest.mark.parametrize("form", FORMS)
async def test_nothing_predicted_still_reads_the_prompt(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        _, finish = await run(llama, await prompt_of(llama, "A long story."), 1, {"n_predict": 0})
        assert finish.prompt_ms > 0


@pytest.mark.parametrize("form", FORMS)
async def test_a_completion_that_is_left_frees_its_slot(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        prompt = await prompt_of(llama, "Count for ever.")
        for _ in range(3):
            async with llama.complete(prompt, 0, exactly(1500)) as stream:
                assert isinstance(await stream.next(), Piece)
        with trio.fail_after(20):
            pieces, _ = await run(llama, prompt, 0, exactly(2))
        assert pieces


@pytest.mark.parametrize("form", FORMS)
async def test_two_slots_run_at_once(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        prompt = await prompt_of(llama, "Hello.")
        async with llama.complete(prompt, 0, exactly(200)) as one, llama.complete(prompt, 1, exactly(200)) as two:
            for stream in (one, two, one, two):
                assert isinstance(await stream.next(), Piece)


@pytest.mark.parametrize("form", FORMS)
async def test_an_embedding_is_a_vector_that_depends_on_its_text(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        one = await llama.embed(await llama.tokenize("a cat", is_text_special=False))
        again = await llama.embed(await llama.tokenize("a cat", is_text_special=False))
        assert one == pytest.approx(again, abs=1e-4)
        assert math.hypot(*one) > 1.0


@pytest.mark.parametrize("form", FORMS)
async def test_it_can_be_loaded_again_after_it_was_unloaded(form: str, tmp_path: Path) -> None:
    async with loaded(form, tmp_path) as llama:
        await llama.unload()
        await llama.load()
        assert await llama.tokenize("hello", is_text_special=False)


@pytest.mark.engine
@pytest.mark.skipif(not is_installed, reason="no engine")
async def test_a_file_that_is_no_model_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    require_model_file()  # llama.cpp itself is there
    llama = LlamaServer(LlamaPolicy(tmp_path / "bad.gguf", slots=1, threads=1), tmp_path / "llama.sock")
    with pytest.raises(EngineFault, match="cannot load"):
        await llama.load()


@pytest.mark.engine
@pytest.mark.skipif(not is_installed, reason="no engine")
async def test_the_private_socket_answers_to_its_key_only(tmp_path: Path) -> None:
    async with loaded("real", tmp_path) as llama:
        assert isinstance(llama, LlamaServer)
        llama._key = "wrong"
        with pytest.raises(EngineFault):
            await llama.tokenize("hello", is_text_special=False)
