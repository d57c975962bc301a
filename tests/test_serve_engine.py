"""The engine: what the model is given, answers that grow, and files that say how to build it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from serve_parts import ChatWorld

from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine, NoAnswer
from chatbridge.serve.session import Turn, ask, conversation_of
from chatbridge.serve.settings import config_of, read_chat

SHORT = GenerateOptions(max_new_tokens=10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ChatWorld:
    return ChatWorld(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def engine(world: ChatWorld) -> ChatEngine:
    return world.engine()


@pytest.fixture
def seen(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> list:
    """The batches the model is asked with."""
    batches, generate = [], engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda batch, *rest: batches.append(batch) or generate(batch, *rest))
    return batches


def question(engine: ChatEngine, world: ChatWorld, *names: str) -> tuple:
    media = [item for name in names for item in engine.attach(world.files[name]).media]
    return (user(*media, "what color is it ?"),)


def test_the_answer_grows_to_what_the_model_says(engine, world):
    """fails when streaming loses, repeats or reorders words, or ends elsewhere than a plain generation"""
    conversation = question(engine, world, "image")
    steps = list(engine.stream(conversation, SHORT))
    (ids,) = engine.model.generate(engine._batch(conversation), SHORT, engine.layout.stop_ids)
    assert steps[-1].text == engine.layout.finish(ids) and len(ids) == 10
    assert [step.is_done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) > 4 and all(later.text.startswith(step.text) for step, later in zip(steps, steps[1:]))


def test_a_video_with_sound_reaches_the_model_as_both(engine, world, seen):
    """fails when the sound is not given to the model, or another item's places are used"""
    engine.answer(question(engine, world, "image", "video"), SHORT)
    (batch,) = seen
    assert {name: tuple(media.shape) for name, media in batch.media.items()} == {
        "image": (1, 3, 28, 28), "video": (1, 2, 3, 28, 28), "audio": (1, 1, 32, 32),
    }  # fmt: skip
    starts = [int(batch.places[name][0, 0]) for name in ("image", "video", "audio")]
    assert starts == sorted(starts)
    torch.testing.assert_close(batch.media["image"][0], engine.processors["image"](world.files["image"]))


def test_an_answer_can_be_left(engine, world):
    """fails when closing the iterator waits for the whole answer, or leaves the model locked for the next one"""
    told = []
    generate = engine.model.language.generate

    def counting(embeds, mask, options, stop_ids, on_ids):
        return generate(embeds, mask, options, stop_ids, lambda ids: (told.append(ids), on_ids(ids)))

    engine.model.language.generate = counting
    try:
        stream = engine.stream(question(engine, world, "image"), replace(SHORT, max_new_tokens=400))
        next(stream)
        stream.close()
    finally:
        del engine.model.language.generate
    assert 0 < len(told) < 300
    assert engine.answer(question(engine, world, "image"), SHORT).is_done


def test_what_the_model_raises_reaches_the_caller(engine, world, monkeypatch):
    """fails when an error in the generating thread is lost and the page waits for ever"""

    def broken(*given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.answer(question(engine, world, "image"), SHORT)


def test_an_end_that_may_become_a_stop_is_held_back(engine):
    """fails when "##" of a coming "###" or half a letter flashes up in an answer"""
    encode = engine.layout.tokenizer.encode
    assert engine._shown(encode("red ##")) == "red"
    assert engine._shown(encode("red ### Human")) == "red"
    assert engine._shown(encode("red")) == "red"
    assert engine._shown(encode("red é")[:-1]) == "red "


def test_rounds_without_room_are_left_out_and_counted(engine, world, seen, monkeypatch):
    """fails when a long chat breaks, loses its last question, or drops rounds without a word"""
    first, last = question(engine, world, "image")[0], user("what color is it ?")
    conversation = (first, assistant("red"), user("left ?"), assistant("no"), last)
    room = len(engine.layout.prompt((last,))) + 10
    monkeypatch.setattr(type(engine.model.language), "max_positions", property(lambda self: room))
    answer = engine.answer(conversation, SHORT)
    assert answer.notes == (
        "the first 2 questions and their answers no longer fit into the language model and were left out",
    )
    assert not seen[0].media and len(seen[0].ids[0]) == room - 10
    with pytest.raises(NoAnswer, match="make it shorter"):
        engine.stream((user("color " * 100),), SHORT)
    with pytest.raises(NoAnswer, match="no question"):
        engine.stream((), SHORT)


def test_media_without_a_way_are_refused(engine):
    """fails when a modality that the model does not take ends in a traceback of the model"""
    with pytest.raises(MediaError, match="takes no smell; it takes image, video, audio"):
        engine.stream((user(Media("smell", "x"), "?"),), SHORT)


def test_a_bad_file_is_a_problem_of_its_turn_only(engine, world):
    """fails when an unreadable file ends the chat, is read again with the next question, or is not explained"""
    *_, session = ask(engine, (), "what color is it ?", [world.files["truncated"]], SHORT)
    assert len(session) == 1 and session[0].problem.startswith("half.jpg: ")
    *_, session = ask(engine, session, "what color is it ?", [world.files["silent_video"]], SHORT)
    assert session[1].is_done and session[1].notes == ("silent.mp4 has no sound, so it is shown as a video alone",)
    assert conversation_of(session) == (session[1].question, assistant(session[1].answer))


def test_a_session_goes_on_from_what_was_said(engine, world, seen):
    """fails when an earlier question or its media are forgotten, or a stopped answer vanishes"""
    stopped = Turn("which tone ?", (engine.attach(world.files["audio"]),), answer="high")
    *_, session = ask(engine, (stopped,), "and the color ?", (), SHORT)
    assert session[0].is_done and session[0].notes == ("this answer was stopped",)
    assert list(seen[0].media) == ["audio"]
    assert [message.role for message in conversation_of(session)] == ["user", "assistant"] * 2


def test_files_without_words_are_described(engine, world):
    """fails when a file alone asks nothing, or nothing at all asks something"""
    *_, session = ask(engine, (), " ", [world.files["video"], world.files["audio"]], SHORT)
    assert session[0].text == "Describe the video and the sound."
    assert list(ask(engine, (), " ", (), SHORT)) == []


# ---------------------------------------------------------------- settings


def test_a_run_folder_is_enough(world, tmp_path):
    """fails when a run folder or one of its checkpoints cannot be talked to without its YAML file"""
    run = tmp_path / "run"
    step = run / "checkpoints" / "step_000002"
    step.mkdir(parents=True)
    world.write("chat.yaml").rename(run / "resolved.yaml")
    (step / "manifest.json").write_text("{}")
    world.write("chat.yaml")
    assert config_of(run) == run / "resolved.yaml" == config_of(step)
    with pytest.raises(ConfigError, match=r"expected\s+format\s+'chatbridge-checkpoint-1'"):
        ChatEngine.from_checkpoint(run)
    with pytest.raises(ConfigError, match="does not say how its model is built"):
        ChatEngine.from_checkpoint(tmp_path)


def test_a_chat_needs_no_data(world):
    """fails when a model can only be talked to where its evaluation or training data are"""
    config = world.write(
        "no_data.yaml", evaluation={"tasks": {"x": {"name": "nobody", "dataset": "???"}}}, data={"s": 1}
    )
    assert read_chat(config).template == "vicuna_v0"
    assert read_chat(config, ["evaluation.template=caption"]).template == "caption"


def test_mistakes_are_reported_together(world):
    """fails when a chat swallows a misspelled key, an option without effect, or stops at the first mistake"""
    config = world.write("wrong.yaml", modle={})
    options = ["run.devise=cpu", "model.fusion.name=inlin", "evaluation.template=vicunna_v0", "run.device=gpu"]
    with pytest.raises(ConfigError) as caught:
        read_chat(config, options, checkpoint="no/such run")
    said = {problem.path: problem for problem in caught.value.problems}
    assert set(said) == {"modle", "run.devise", "model.fusion.name", "run.device", "run.init_from"}
    assert said["modle"].nearest == "model" and said["run.devise"].nearest == "run.device"
    with pytest.raises(ConfigError, match=r"no template named 'vicunna_v0'[\s\S]*did you mean vicuna_v0"):
        read_chat(world.config, ["evaluation.template=vicunna_v0"])
