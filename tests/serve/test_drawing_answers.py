"""Answers with images: a toy template marks captions with two tokens, a toy generator renders them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Sample
from chatbridge.conversation.messages import Drawing, Part, Text, user
from chatbridge.conversation.token_sequence import MediaSlot, TokenSequence
from chatbridge.datasets.collate import stack
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import open_chat
from chatbridge.models.drawing.artist import checked_image, checked_images
from chatbridge.models.generators import GENERATORS
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.caches.prompt_cache import num_shared, positions_of
from chatbridge.serve.demo.page_content import messages_of
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ask, conversation_of
from chatbridge.tasks.drawn_answers import answer_of
from tests.helpers.serve_parts import ChatWorld
from tests.helpers.tolerances import FP32
from tests.helpers.toy_drawing import with_toy_lab

QUESTION = (user("draw"),)
OPTIONS = GenerateOptions(max_new_tokens=16, seed=3)


@pytest.fixture(scope="module", autouse=True)
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ChatWorld:
    return ChatWorld(tmp_path_factory.mktemp("draw"))


def write(world: ChatWorld, template: str = "sketch", **generator: Any) -> Path:
    model = world.world.model() | ({"generator": generator} if generator else {})
    return world.write("draw.yaml", plugins=["toy_lab"], model=model, evaluation={"template": template})


@pytest.fixture(scope="module")
def engine(world: ChatWorld) -> ChatEngine:
    return ChatEngine.from_config(write(world, name="plain_color"))


class Script:
    """Forces the first tokens of an answer; later ones are the model's own, as are all hidden states."""

    def __init__(self, engine: ChatEngine, text: str) -> None:
        self.left = list(engine.layout.tokenizer.encode(text))
        self.real = engine.model.language.logits
        self.states: list[torch.Tensor] = []

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.states.append(hidden)
        logits = self.real(hidden)
        if self.left:
            logits = torch.full_like(logits, -100.0)
            logits[:, self.left.pop(0)] = 100.0
        return logits


@pytest.fixture
def say(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch):
    """say(text) -> the Script that forces the next answer to begin with it, from an empty cache."""

    def begin(text: str, of: ChatEngine = engine) -> Script:
        of.prompt_cache.forget()
        script = Script(of, text)
        monkeypatch.setattr(of.model.language, "logits", script)
        return script

    return begin


def plain_color(caption: str, number: int) -> torch.Tensor:
    part: Any = GENERATORS.get("plain_color")
    (image,) = part(part.Config()).render([caption], [seeds.number(3, "drawing", number)])
    return image


def looks(parts: tuple[Part, ...]) -> list[str]:
    return [part.text if isinstance(part, Text) else f"<{getattr(part, 'caption', '')}>" for part in parts]


@pytest.mark.parametrize("name", ["plain_color"])
def test_generator_contract(name):
    """fails when an image depends on others of its batch, not on caption and seed, or is not uint8[3, H, W]"""
    part: Any = GENERATORS.get(name)
    generator = part(part.Config())
    one, other, third = generator.render(["a cat", "a cat", "a fox"], [1, 2, 1])
    (alone,) = generator.render(["a fox"], [1])
    assert torch.equal(alone, third) and not torch.equal(one, other) and not torch.equal(one, third)
    assert all(checked_image(image, name).shape[0] == 3 for image in (one, other, third))
    assert isinstance(generator.load(torch.device("cpu"), torch.float32), str)


def test_an_answer_is_typed_parts(engine, say):
    """fails when a caption stays in the text, an image is missing or of another caption, or text after it is lost"""
    say("so {a cat}, then {a fox} .\n")
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=60, seed=3))
    assert looks(answer.parts) == ["so ", "<a cat>", ", then ", "<a fox>", " ."]
    assert answer.text == "so , then ." and answer.message.media[1].modality == "image"
    images = [part.ref for part in answer.parts if isinstance(part, Drawing)]
    assert torch.equal(images[0], plain_color("a cat", 0)) and torch.equal(images[1], plain_color("a fox", 1))


def test_the_chat_api_sends_images_and_takes_them_back(engine, say, monkeypatch):
    """fails when an answer of the server lacks its images, or a client cannot continue the conversation with them"""
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    from tests.helpers.api_server import InProcess

    say("so {a cat} .\n")
    api, question = InProcess(engine), {"role": "user", "content": "draw"}
    answer = api.chat(question, max_tokens=40, seed=3).json()["choices"][0]["message"]
    assert [part["type"] for part in answer["content"]] == ["text", "image_url", "text"]
    assert answer["content"][1]["caption"] == "a cat"
    say("red .\n")
    seen: list[Any] = []
    ask_engine = engine.stream
    monkeypatch.setattr(engine, "stream", lambda asked, *more: seen.append(asked) or ask_engine(asked, *more))
    assert "choices" in api.chat(question, answer, {"role": "user", "content": "and ?"}, max_tokens=40, seed=3).json()
    drawings = [part for turn in seen[-1] for part in turn.parts if isinstance(part, Drawing)]
    assert [one.caption for one in drawings] == ["a cat"]


def test_text_after_an_image_attends_to_it_and_not_to_its_caption(engine, say):
    """fails when the image is not in the cache where its caption began, or the caption stays in the cache"""
    script = say("so {a cat}")
    num_scripted = len(script.left)
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=num_scripted + 3, seed=3))
    drawn = next(part for part in answer.parts if isinstance(part, Drawing))
    ids = [*engine.layout.prompt(QUESTION).ids, *engine.layout.tokenizer.encode("so ")]
    num_slots = engine.layout.media_lengths["image"]
    row = TokenSequence(ids + [0] * num_slots, media_slots=[MediaSlot("image", 0, len(ids), num_slots)])
    item = engine.processors["image"](drawn.ref, None)
    model = engine.model
    with torch.no_grad():
        rows, _ = model.prepared(stack([Sample("", "", (answer.message,), (item,))], [row], 0))
        expected = model.language(rows)[0, -1]
    torch.testing.assert_close(script.states[num_scripted][0], expected, rtol=FP32, atol=FP32)


def test_a_conversation_with_a_drawing_continues_from_the_cache(engine, say):
    """fails when the positions of the cache after an answer with an image differ from those of the next prompt"""
    say("so {a cat} .")
    first = engine.answer(QUESTION, GenerateOptions(max_new_tokens=40, seed=3))
    following = (*QUESTION, first.message, user("and ?"))
    kept = engine.prompt_cache.latest
    assert kept is not None
    shared = num_shared(kept[1], positions_of(engine.prompts([following])))
    text_after = len(engine.layout.tokenizer.encode(" ."))
    assert shared >= len(engine.layout.prompt(QUESTION)) + len(engine.layout.tokenizer.encode("so ")) + 3 + text_after
    continued = engine.answer(following, OPTIONS)
    engine.prompt_cache.forget()
    assert looks(engine.answer(following, OPTIONS).parts) == looks(continued.parts)


def test_an_answer_grows_part_by_part(engine, say):
    """fails when a caption appears before its image, or a part changes or repeats after it was yielded"""
    text = "so {a cat} it is .\n"
    say(text)
    grown = [looks(answer.parts) for answer in engine.stream(QUESTION, GenerateOptions(max_new_tokens=40, seed=3))]
    assert not any("{" in text or "a cat" == text for parts in grown for text in parts)
    assert ["so "] in [parts[:1] for parts in grown] and grown[-1] == ["so ", "<a cat>", " it is ."]
    say(text)
    given = list(engine.parts(QUESTION, GenerateOptions(max_new_tokens=40, seed=3)))
    assert looks(tuple(given)) == grown[-1]


def test_answers_without_a_generator_have_captions_only(world, say):
    """fails when a template with drawings needs a generator, or its answers cannot be continued"""
    engine = ChatEngine.from_config(write(world))
    say("so {a cat} .\n", engine)
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=40))
    assert looks(answer.parts) == ["so ", "<a cat>", " ."] and not answer.message.media
    assert engine.answer((*QUESTION, answer.message, user("and ?")), OPTIONS).is_done


def test_an_answer_that_ends_within_a_caption(engine, say):
    """fails when an incomplete caption is rendered, or lost"""
    script = say("so {a cat on")
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=len(script.left), seed=3))
    assert looks(answer.parts) == ["so ", "<a cat on>"] and not answer.message.media


def test_a_stop_string_within_a_caption_ends_the_answer(engine, say):
    """fails when the answer goes on after a stop string in a caption, or the caption is rendered"""
    say("so {a cat\nQ: more}")
    answer = engine.answer(QUESTION, OPTIONS)
    assert looks(answer.parts) == ["so ", "<a cat>"] and not answer.message.media and not answer.is_cut
    assert answer.notes == ("no image of 'a cat': the answer ended within its caption",)


def test_an_image_without_room_ends_the_answer(engine, say, monkeypatch):
    """fails when an image is read into positions beyond the context length"""
    num_slots = engine.layout.media_lengths["image"]
    room = len(engine.layout.tokenizer.encode("so ")) + num_slots
    monkeypatch.setattr(type(engine.model.language), "max_positions", len(engine.layout.prompt(QUESTION)) + room)
    say("so {}")  # an empty caption needs fewer positions than the image
    answer = engine.answer(QUESTION, GenerateOptions(max_new_tokens=room, seed=3))
    assert answer.is_done and isinstance(answer.parts[-1], Drawing) and answer.parts[-1].ref is not None
    assert num_slots > len("{}")


def test_a_chat_displays_and_keeps_drawn_images(engine, say):
    """fails when the page lacks the image, or the next prompt does"""
    say("so {a cat} .\n")
    *_, session = ask(engine, (), "draw", options=GenerateOptions(max_new_tokens=40, seed=3))
    contents = [message["content"] for message in messages_of(session) if message["role"] == "assistant"]
    assert contents[0].strip() == "so" and contents[1]["alt_text"] == "a cat" and Path(contents[1]["path"]).is_file()
    assert [item.modality for item in conversation_of(session)[1].media] == ["image"]


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"template": "vicuna_v0", "name": "plain_color"}, "VicunaV0 cannot draw; choose one that can"),
        ({"name": "plain_colour"}, "there is no generator named 'plain_colour'"),
        ({"name": "plain_color", "sides": 3}, "model.generator.sides"),
    ],
    ids=["template", "name", "setting"],
)
def test_a_generator_that_cannot_be_used_is_reported(world, settings, reported):
    """fails when a generator is ignored, or a wrong setting ends in a traceback"""
    path = write(world, **settings)
    for use in (ChatEngine.from_config, lambda path: plan_chat(open_chat(path).config)):  # a chat, and its --check
        with pytest.raises(ConfigError) as error:
            use(path)
        assert reported in " ".join(str(error.value).split())


def test_an_evaluation_separates_captions_from_text(engine):
    """fails when predictions lose the captions of drawings, or have them within the text"""
    ids = engine.layout.tokenizer.encode("so {a cat} and {a fox}")
    answer = answer_of(engine.layout, ids)
    assert (answer.text, [one.caption for one in answer.drawn]) == ("so and", ["a cat", "a fox"])


def test_invalid_results_of_a_generator_are_refused(engine):
    """fails when an image of another type reaches the encoder, or beam search is used with a generator"""
    with pytest.raises(TypeError, match=r"PlainColor returned torch.float32\[3, 2, 2\]; expected uint8\[3, H, W\]"):
        checked_image(torch.zeros(3, 2, 2), "PlainColor")
    with pytest.raises(TypeError, match="PlainColor returned 2 images for 1 caption"):
        checked_images([torch.zeros(3, 2, 2, dtype=torch.uint8)] * 2, 1, "PlainColor")
    with pytest.raises(TypeError, match="PlainColor returned NoneType for 1 caption"):
        checked_images(None, 1, "PlainColor")
    with pytest.raises(ValueError, match="set num_beams to 1"):
        engine.answer(QUESTION, GenerateOptions(num_beams=2))
