"""Conversations in TextBind's format whose answers draw: they go on cleanly, wherever an answer was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.messages import Conversation, Drawing, Text, user
from chatbridge.datasets.builders.records import Records
from chatbridge.experiment.open import open_chat
from chatbridge.models.generators import RenderError
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.answer import Answer
from chatbridge.serve.caches.prompt_cache import num_shared, positions_of
from chatbridge.serve.dialogue import Dialogue
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.conversation_file import load, save_zip
from chatbridge.serve.session import ChatTurn
from chatbridge.serve.what_it_saw import what_it_saw
from tests.helpers.serve_parts import ChatWorld
from tests.helpers.toy_drawing import with_toy_lab

OPTIONS = GenerateOptions(max_new_tokens=40, seed=3)
FREE = GenerateOptions(max_new_tokens=12, seed=5)
QUESTION: Conversation = (user("what color is it ?"),)
ANSWER = ("red", "<start>", "a circle", "<end>", "and", "<start>", "green", "<end>", "high", "</s>")


@pytest.fixture(scope="module", autouse=True)
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """write(NAME, evaluation settings) -> a configuration that draws."""
    world = ChatWorld(tmp_path_factory.mktemp("drawn"))
    drawing = {"generator": {"name": "plain_color"}, "added_tokens": ["<image>", "<start>", "<end>"]}
    model = world.world.model() | drawing

    def config(name: str, **settings: Any) -> Path:
        return world.write(name, plugins=["toy_lab"], model=model, evaluation={"template": "textbind", **settings})

    return config


@pytest.fixture(scope="module")
def engine(write: Any) -> ChatEngine:
    return ChatEngine.from_config(write("draw.yaml"))


def ids_of(engine: ChatEngine, pieces: Sequence[str]) -> list[int]:
    tokenizer: Any = engine.layout.tokenizer
    ends = {"</s>": tokenizer.eos_id, **tokenizer.added_ids}
    return [one for piece in pieces for one in ([ends[piece]] if piece in ends else tokenizer.encode(piece))]


@pytest.fixture
def dictated(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """dictated(pieces) makes the next answer begin with these; later tokens are the model's own."""
    engine.prompt_cache.forget()
    real = engine.model.language.logits
    left: list[int] = []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = real(hidden)
        if left:
            found = torch.full_like(found, -100.0)
            found[:, left.pop(0)] = 100.0
        return found

    def begin(*pieces: str) -> int:
        left[:] = ids_of(engine, pieces)
        return len(left)

    monkeypatch.setattr(engine.model.language, "logits", logits)
    return begin


def looks(answer: Answer) -> list[str]:
    return [
        part.text if isinstance(part, Text) else f"<{getattr(part, 'caption', '')}{' -' if no_image(part) else ''}>"
        for part in answer.parts
    ]


def no_image(part: Any) -> bool:
    return isinstance(part, Drawing) and part.ref is None


def shared_with(engine: ChatEngine, conversation: Conversation) -> int:
    """Positions of the next prompt that the kept cache has."""
    kept = engine.prompt_cache.latest
    assert kept is not None and len(kept[1]) == kept[0].length
    return num_shared(kept[1], positions_of(engine.prompts([conversation])))


def assert_goes_on(engine: ChatEngine, conversation: Conversation) -> None:
    """The next answer is the same with the kept cache and without it."""
    continued = engine.answer(conversation, FREE)
    engine.prompt_cache.forget()
    fresh = engine.answer(conversation, FREE)
    assert looks(continued) == looks(fresh) and continued.num_tokens == fresh.num_tokens


def test_several_turns_with_drawn_images(engine, dictated):
    """fails when a drawn image is not read where the next prompt has it, or an undone turn stays in the cache"""
    dictated(*ANSWER)
    first = engine.answer(QUESTION, OPTIONS)
    assert [one for one in looks(first) if "<" in one] == ["<a circle>", "<green>"] and not first.notes
    second = (*QUESTION, first.message, user("and ?"))
    num_slots = engine.layout.media_lengths["image"]
    assert shared_with(engine, second) >= len(engine.layout.prompt(QUESTION)) + 1 + num_slots
    assert_goes_on(engine, second)
    dictated("<start>", "blue", "<end>", "</s>")
    third = (*second, engine.answer(second, OPTIONS).message, user("left"))
    assert len([item for message in third for item in message.media]) == 3
    assert_goes_on(engine, third)
    assert_goes_on(engine, (*QUESTION, first.message, user("right")))  # the last round was undone


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_an_answer_may_be_stopped_anywhere(engine, dictated, stride):
    """fails when a stop before, within or after a caption, or before its image, leaves anything of it in the chat or
    the cache"""
    num_steps = dictated(*ANSWER)
    seen = set()
    for last in range(0, num_steps + 3, stride):
        engine.prompt_cache.forget()
        dictated(*ANSWER)
        stopped = Answer(())
        asked = iter(range(last))
        for answer in engine.stream(QUESTION, OPTIONS, lambda asked=asked: next(asked, None) is None):
            stopped = answer
        seen.add(tuple(looks(stopped)))
        assert not any("circle" in part.text for part in stopped.parts if isinstance(part, Text))
        dictated()
        assert_goes_on(engine, (*QUESTION, stopped.message, user("and ?")))
    assert len(seen) >= 3
    dictated(*ANSWER)
    with closing(engine.stream(QUESTION, OPTIONS)) as answers:  # closed while an image is rendered
        next(answer for answer in answers if answer.rendering is not None)
    dictated()
    assert_goes_on(engine, (*QUESTION, user("and ?")))


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [(("red", "<start>", "a circ"), ["red", "<a circ ->"]), (("red", "<start>"), ["red"]), (("<start>",), [])],
    ids=["within", "empty", "nothing else"],
)
def test_an_answer_that_ends_within_a_caption(engine, dictated, pieces, shown):
    """fails when the caption is rendered, lost without a note, or its opening mark stays"""
    length = dictated(*pieces)
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=length, seed=3))
    assert looks(answer) == shown and answer.is_cut
    notes = ["no image of 'a circ': the answer ended within its caption"] if len(shown) == 2 else []
    assert list(answer.notes) == notes
    assert_goes_on(engine, (*QUESTION, answer.message, user("and ?")))


def test_a_generator_that_fails_leaves_the_caption(engine, dictated, monkeypatch):
    """fails when the answer ends, the note does not say why, or the next prompt does not have the caption"""

    def render(captions: Sequence[str], seeds: Sequence[int]) -> list[torch.Tensor]:
        if "green" in captions:
            raise RenderError("the image is black")
        raise MemoryError("paint")

    monkeypatch.setattr(engine.generator, "render", render)
    dictated(*ANSWER)
    grown = list(engine.stream(QUESTION, OPTIONS))
    answer = grown[-1]
    assert [one for one in looks(answer) if "<" in one] == ["<a circle ->", "<green ->"] and looks(answer)[-1] == "high"
    assert answer.notes == (
        "no image of 'a circle': MemoryError: paint; the answer goes on from the caption",
        "no image of 'green': the image is black; the answer goes on from the caption",
    )
    assert any(one.notes == answer.notes[:1] for one in grown), "a stopped answer has the note too"
    following = (*QUESTION, answer.message, user("and ?"))
    ids, marks = engine.layout.prompt(following).ids, ids_of(engine, ["<start>", "<end>"])
    assert [ids.count(mark) for mark in marks] == [2, 2]
    assert_goes_on(engine, following)


def test_without_a_generator_one_note_tells_it(engine, dictated, monkeypatch):
    """fails when captions without images are not explained"""
    monkeypatch.setattr(engine.artist, "generator", None)
    dictated(*ANSWER)
    *grown, answer = engine.stream(QUESTION, OPTIONS)
    (note,) = answer.notes
    assert "'a circle', 'green': the model has no generator" in note and not any(one.rendering for one in grown)
    assert_goes_on(engine, (*QUESTION, answer.message, user("and ?")))


@pytest.mark.parametrize("room", [6, 9, 14])
def test_a_context_that_is_full_ends_the_answer(engine, dictated, monkeypatch, room):
    """fails when the end of the context within a caption or an image is no clean end of the answer, or is not told"""
    length = len(engine.layout.prompt(QUESTION)) + room
    monkeypatch.setattr(type(engine.model.language), "max_positions", length)
    monkeypatch.setattr("chatbridge.serve.context_length.RESERVED", 1)
    dictated("<start>", "<end>", "<start>", "<end>", "<start>", "<end>", "<start>", "<end>", "<start>", "<end>")
    answer = engine.answer(QUESTION, OPTIONS)
    assert answer.is_done and answer.is_cut and any("context" in note for note in answer.notes)
    kept = engine.prompt_cache.latest
    assert kept is not None and kept[0].length < length


def test_beams_beside_a_generator_are_reported_before_the_model_is_built(write):
    """fails when a chat with beams and a generator is only refused at its first question"""
    with pytest.raises(ConfigError, match=r"(?s)evaluation.generation.num_beams.*generated without beams"):
        open_chat(write("beams.yaml", generation={"num_beams": 2}))


def test_a_dialogue_undoes_and_repeats_a_drawn_answer(engine, dictated, tmp_path):
    """fails when undo keeps the images of the turn, or the images of a repeated answer have the same seed"""
    dialogue = Dialogue(engine, tmp_path, OPTIONS)
    images = []
    for again in (False, True):
        dictated(*ANSWER)
        for _ in dialogue.retry() if again else dialogue.ask("draw"):
            pass
        images.append([part.ref for part in dialogue.turns[-1].parts if isinstance(part, Drawing)])
    assert len(dialogue.turns) == 1 and [len(one) for one in images] == [2, 2]
    assert not torch.equal(images[0][0], images[1][0])
    assert dialogue.undo() is not None and dialogue.turns == ()


def test_a_drawing_is_saved_loaded_and_shown(engine: ChatEngine, tmp_path: Path):
    """fails when a pixel of a drawing changes in a file, a training has no image for it, or the panel cannot show it"""
    image = torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).reshape(3, 32, 32)
    turn = ChatTurn("draw it", (), "here: ", True, parts=(Text("here: "), Drawing("a circle", image)))
    save_zip((turn,), tmp_path / "talk.zip", "x")
    (again,) = load(engine, tmp_path / "talk.zip", None, tmp_path / "unpacked", is_trusted=False).session
    assert torch.equal(again.parts[1].ref, image) and again.display == turn.display
    (file,) = (tmp_path / "unpacked").glob("*/conversation.jsonl")
    source = Records(Records.Config(file=file), "x")
    assert source.has_drawings and source.untrainable() is None
    seen = what_it_saw(engine, (again, ChatTurn("what color is it ?")))
    assert [one.name for one in seen.media] == ["drawn"] and seen.media[0].png and "circle" not in seen.prompt_text
