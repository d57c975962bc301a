"""Chats with Multimodal-GPT's form: images read by layers inside the language model, in any turn, or in none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.conversation.messages import Conversation, assistant, user
from chatbridge.models.component_tensors import under_base_names
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ask, conversation_of
from chatbridge.serve.what_it_saw import what_it_saw
from tests.helpers.flamingo_release import Release
from tests.helpers.serve_parts import ChatWorld, color_question

SHORT = GenerateOptions(max_new_tokens=5)
RELEASED = GenerateOptions(max_new_tokens=5, num_beams=3, sample=True, top_k=20, seed=5)  # the demo's, but for the seed
TEXT = (user("what color is it ?"),)


@pytest.fixture(scope="module")
def release(world: ChatWorld, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A tiny Multimodal-GPT in files of the released layouts; its gates are open, so that images matter."""
    return Release(tmp_path_factory.mktemp("release"), world.world.folder / "lm")


@pytest.fixture(scope="module")
def engine(release: Release, repository: Path) -> ChatEngine:
    """From the shipped YAML, as the demo builds it."""
    return ChatEngine.from_config(repository / "eval_configs" / "mmgpt_eval.yaml", release.options)


@pytest.fixture
def blocks(engine: ChatEngine) -> Iterator[list[int]]:
    """Grows with every forward pass of a cross-attention block."""
    passes: list[int] = []
    layers: Any = engine.model.fusion.layers
    hooks = [layer.register_forward_pre_hook(lambda *given: passes.append(1)) for layer in layers.values()]
    yield passes
    for hook in hooks:
        hook.remove()


def afresh(engine: ChatEngine, conversation: Conversation, options: GenerateOptions = SHORT) -> str:
    engine.prompt_cache.forget()
    return engine.answer(conversation, options).text


def test_the_shipped_chat_reads_the_released_files(engine: ChatEngine, release: Release) -> None:
    """Fails when a tensor of the two released files is left out, or the chat decodes otherwise than the demo."""
    own = engine.model.state_dict()
    state = own | under_base_names(engine.model, own)
    changed = {name for name, value in release.values.items() if not torch.equal(state[name], value)}
    assert len(release.values) > 60 and not changed
    chosen = engine.generation
    assert (chosen.num_beams, chosen.sample, chosen.top_k, chosen.max_new_tokens) == (3, True, 20, 512)
    assert (chosen.temperature, chosen.top_p, engine.layout.template.stops) == (1.0, 1.0, ())


def test_a_chat_without_an_image_runs_no_block(engine: ChatEngine, world: ChatWorld, blocks: list[int]) -> None:
    """Fails when blocks change a text-only chat, run in it after a chat with an image, or do not run in that."""
    alone = engine.answer(TEXT, SHORT).text
    assert not blocks
    shown = engine.answer(color_question(engine, world, "image"), SHORT).text
    assert blocks and shown != alone
    blocks.clear()
    assert engine.answer(TEXT, SHORT).text == alone and engine.answer(TEXT, RELEASED).is_done and not blocks


def test_later_images_change_what_is_kept_of_earlier_turns(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when a turn continues from cached positions that another image changes: with `media: next` text before an
    image reads it. The image comes in the first, the second, or both turns, and goes again."""
    first = engine.answer(TEXT, SHORT).text
    shown = color_question(engine, world, "image")
    mixed = (*TEXT, assistant(first), *shown)
    assert engine.answer(mixed, SHORT).text == afresh(engine, mixed)
    twice = (*shown, assistant(engine.answer(shown, SHORT).text), *shown)
    assert engine.answer(twice, SHORT).text == afresh(engine, twice)
    thrice = (*twice, assistant(engine.answer(twice, SHORT).text), *TEXT)
    assert engine.answer(thrice, SHORT).text == afresh(engine, thrice)
    engine.answer(mixed, SHORT)
    assert engine.answer(TEXT, SHORT).text == first, "the image of a turn that was taken back is still read"


def test_a_session_gives_every_image_its_own_token(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when an image of an earlier turn is left out, two share a slot, or a typed <image> becomes a token."""
    image, session = world.files["image"], ()
    for text, files in (("a <image>", []), ("what color ?", [image, image]), ("and it ?", [image])):
        *_, session = ask(engine, session, text, files, SHORT)
        assert session[-1].is_done and session[-1].problem is None
    batch = engine.prompts([conversation_of(session[:2]) + color_question(engine, world, "image")])
    token = engine.layout.slot_ids["image"]
    assert len(batch.media["image"]) == 3 == int((batch.ids == token).sum())
    assert batch.ids.flatten()[batch.media_slots["image"].flatten()].tolist() == [token] * 3
    assert afresh(engine, conversation_of(session[:3])[:-1]) == session[2].answer


def test_beams_sample_as_released(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when a seed does not repeat an answer of sampled beams, other seeds give the same, or beams lose the
    image."""
    shown = color_question(engine, world, "image")
    texts = [engine.answer(shown, replace(RELEASED, seed=seed)).text for seed in (5, 5, 6, 7)]
    assert texts[0] == texts[1] and len(set(texts)) > 2
    greedy_beams = replace(SHORT, num_beams=3)
    assert engine.answer(shown, greedy_beams).text != engine.answer(TEXT, greedy_beams).text


def test_answers_in_a_batch_equal_single_ones(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when images at different places, or a text-only row, change another row's answer."""
    shown = color_question(engine, world, "image")
    chats = (shown, TEXT, (*TEXT, assistant("a"), *shown), (user(*shown[0].media * 2, "the ?"),))
    single = [engine.prompts([chat]) for chat in chats]
    together = engine.prompts(chats)
    for options in (SHORT, replace(SHORT, num_beams=3)):
        rows = [engine.model.generate(batch, options, engine.layout.stops)[0] for batch in single]
        assert engine.model.generate(together, options, engine.layout.stops) == rows


def test_what_does_not_fit_is_refused(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when a prompt that fills the context, or media that do not match their tokens, end in another error."""
    shown = color_question(engine, world, "image")
    with pytest.raises(NoAnswer, match=r"prompt needs \d+ tokens .* the model's context length is 512"):
        engine.answer((user(*shown[0].media, "red " * 600),), SHORT)
    batch = engine.prompts([shown])
    images: Any = batch.media["image"]
    with pytest.raises(DataError, match="image: 2 media items for the slots of 1: more items than slots"):
        engine.model.generate(replace(batch, media={"image": torch.cat([images, images])}), SHORT)
    with pytest.raises(DataError, match="image: 0 media items for the slots of 1: more slots than items"):
        engine.model.generate(replace(batch, media={}), SHORT)


def test_the_panel_shows_the_prompt_of_a_cross_attention_model(engine: ChatEngine, world: ChatWorld) -> None:
    """Fails when the panel of what the model was given has other tokens than the prompt that it read."""
    *_, session = ask(engine, (), "what is <image> ?", [world.files["image"]], SHORT)
    seen = what_it_saw(engine, session)
    assert sum(one.num_tokens for one in seen.prompt) == session[0].usage.prompt
    assert seen.prompt_text.count("<image x 1>") == 1 and "what is <image> ?" in seen.prompt_text
    assert dict(seen.counts)["of media"] == "1 tokens" and seen.media[0].png
