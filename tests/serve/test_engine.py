"""The chat engine: prompts, streamed answers, sessions, and the configurations it is built from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.experiment.open import config_of, open_chat
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import Limits
from chatbridge.serve.answer import partial_parts
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ChatTurn, ask, conversation_of
from tests.helpers.serve_parts import ChatWorld

SHORT = GenerateOptions(max_new_tokens=10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ChatWorld:
    return ChatWorld(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def engine(world: ChatWorld) -> ChatEngine:
    return world.engine()


@pytest.fixture
def seen(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> list:
    """The batches of all prompts, cached positions included."""
    batches, made = [], engine._batch
    monkeypatch.setattr(engine, "_batch", lambda conversation: batches.append(made(conversation)) or batches[-1])
    return batches


def question(engine: ChatEngine, world: ChatWorld, *names: str) -> tuple:
    media = [item for name in names for item in engine.attach(world.files[name]).media]
    return (user(*media, "what color is it ?"),)


def test_a_streamed_answer_equals_plain_generation(engine, world):
    """fails when streaming loses, repeats or reorders text, or ends at another token than plain generation"""
    conversation = question(engine, world, "image")
    steps = list(engine.stream(conversation, SHORT))
    (ids,) = engine.model.generate(engine._batch(conversation), SHORT, engine.layout.stops)
    assert steps[-1].text == engine.layout.finish(ids) and len(ids) == 10
    assert [step.is_done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) > 4 and all(later.text.startswith(step.text) for step, later in zip(steps, steps[1:]))


def test_a_video_with_an_audio_track_is_two_media_items(engine, world, seen):
    """fails when the model does not get the audio track, or media slots of another item are used"""
    engine.answer(question(engine, world, "image", "video"), SHORT)
    (batch,) = seen
    assert {name: tuple(media.shape) for name, media in batch.media.items()} == {
        "image": (1, 3, 28, 28), "video": (1, 2, 3, 28, 28), "audio": (1, 1, 32, 32),
    }  # fmt: skip
    starts = [int(batch.media_slots[name][0, 0]) for name in ("image", "video", "audio")]
    assert starts == sorted(starts)
    torch.testing.assert_close(batch.media["image"][0], engine.processors["image"](world.files["image"]))


def test_closing_the_iterator_stops_the_generation(engine, world):
    """fails when closing the iterator generates one more token, or keeps the lock that the next question needs"""
    steps = []
    hook = engine.model.language.register_forward_pre_hook(lambda *given: steps.append(1))
    stream = engine.stream(question(engine, world, "image"), replace(SHORT, max_new_tokens=400))
    first = next(stream)
    before = len(steps)
    stream.close()
    hook.remove()
    assert not first.is_done and len(steps) == before <= 10
    (rest,) = [step for step in engine.stream(question(engine, world, "image"), SHORT) if step.is_done]
    assert rest.text == engine.answer(question(engine, world, "image"), SHORT).text


@pytest.fixture
def read(engine: ChatEngine) -> Iterator[list[int]]:
    """Number of positions in each forward pass of the language model."""
    passes: list[int] = []
    hook = engine.model.language.register_forward_pre_hook(lambda module, given: passes.append(given[0].shape[1]))
    yield passes
    hook.remove()


def test_a_following_question_reads_only_new_tokens(engine, world, read):
    """fails when a following question reads the conversation again, or its answer differs from an empty cache's"""
    first = question(engine, world, "image", "audio")
    said = engine.answer(first, SHORT).text
    second = (*first, assistant(said), user("and the tone ?", *engine.attach(world.files["video"]).media))
    read.clear()
    kept = engine.answer(second, SHORT).text
    num_new, num_all = read[0], len(engine.layout.prompt(second))
    assert num_new < num_all - len(engine.layout.prompt(first)) + 2 and read[1:] == [1] * (len(read) - 1)
    engine.prompt_cache.forget()
    read.clear()
    assert engine.answer(second, SHORT).text == kept and read[0] == num_all


def test_another_conversation_does_not_reuse_the_cache(engine, world, read):
    """fails when another image, or an answer that was never generated, is taken from the KV cache of the old ones"""
    first = question(engine, world, "image")
    said = engine.answer(first, SHORT).text
    (image,) = first[0].media
    other = replace(image, ref=replace(image.ref, tensor=image.ref.tensor + 1.0))
    changed = (user(other, "what color is it ?"),)
    read.clear()
    found = engine.answer(changed, SHORT).text
    is_read_again = read[0]
    engine.prompt_cache.forget()
    assert engine.answer(changed, SHORT).text == found and is_read_again > engine.layout.media_lengths["image"]
    put_in = (*first, assistant("green " + said), user("why ?"))
    found = engine.answer(put_in, SHORT).text
    engine.prompt_cache.forget()
    assert engine.answer(put_in, SHORT).text == found


def test_streams_alternate(engine, world):
    """fails when a stream that is not consumed blocks others, or two interleaved streams mix their text"""
    one, other = question(engine, world, "image"), question(engine, world, "audio")
    alone = [engine.answer(conversation, SHORT).text for conversation in (one, other)]
    streams = [engine.stream(one, SHORT), engine.stream(other, SHORT)]
    next(streams[0])
    assert engine.answer(other, SHORT).text == alone[1]
    last = ["", ""]
    for steps in zip_longest(*streams):
        last = [text if step is None else step.text for text, step in zip(last, steps, strict=True)]
    assert last == alone


def test_an_error_of_the_model_reaches_the_caller(engine, world, monkeypatch):
    """fails when an error of the model is lost and the page waits forever"""

    def broken(*given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.model, "start_generation", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.answer(question(engine, world, "image"), SHORT)


def test_the_beginning_of_a_stop_string_is_withheld(engine):
    """fails when "##" of a stop string "###", or half a character, appears in a partial answer"""
    encode = engine.layout.tokenizer.encode
    assert partial_parts(engine.layout, encode("red ##")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red ### Human")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red")) == (Text("red"),)
    assert partial_parts(engine.layout, encode("red é")[:-1]) == (Text("red "),)


def test_earlier_rounds_beyond_the_context_length_are_left_out(engine, world, seen, monkeypatch):
    """fails when a long chat raises, loses its last question, or drops rounds without a note"""
    first, last = question(engine, world, "image")[0], user("what color is it ?")
    conversation = (first, assistant("red"), user("left ?"), assistant("no"), last)
    room = len(engine.layout.prompt((last,))) + 10
    monkeypatch.setattr(type(engine.model.language), "max_positions", property(lambda self: room))
    answer = engine.answer(conversation, SHORT)
    assert answer.notes == (
        "the first 2 questions and their answers no longer fit into the model's context length and were left out",
    )
    assert not seen[0].media and len(seen[0].ids[0]) == room - 10
    message = rf"prompt needs \d+ tokens and its answer 10, the model's context length is {room}; shorten"
    with pytest.raises(NoAnswer, match=message):
        engine.stream((user("color " * 100),), SHORT)
    with pytest.raises(NoAnswer, match="no question"):
        engine.stream((), SHORT)


def test_media_without_a_route_are_refused(engine):
    """fails when a modality without a route ends in an error within the model"""
    with pytest.raises(MediaError, match="cannot process smell; it accepts image, video, audio"):
        engine.stream((user(Media("smell", "x"), "?"),), SHORT)


def test_an_unreadable_file_is_a_problem_of_its_turn_only(engine, world):
    """fails when an unreadable file ends the chat, is read again with the next question, or has no message"""
    *_, session = ask(engine, (), "what color is it ?", [world.files["truncated"]], SHORT)
    assert len(session) == 1 and session[0].problem.startswith("half.jpg: ")
    *_, session = ask(engine, session, "what color is it ?", [world.files["silent_video"]], SHORT)
    assert session[1].is_done and session[1].notes == ("silent.mp4 has no audio track; only the video is used",)
    assert conversation_of(session) == (session[1].question, assistant(session[1].answer))


def test_a_session_continues_from_earlier_turns(engine, world, seen):
    """fails when the prompt lacks an earlier question or its media, or a stopped answer is lost"""
    stopped = ChatTurn("which tone ?", (engine.attach(world.files["audio"]),), answer="high")
    *_, session = ask(engine, (stopped,), "and the color ?", (), SHORT)
    assert session[0].is_done and session[0].notes == ("this answer was stopped",)
    assert list(seen[0].media) == ["audio"]
    assert [message.role for message in conversation_of(session)] == ["user", "assistant"] * 2


def test_files_without_text_are_described(engine, world):
    """fails when files without text give no question, or an empty turn gives one"""
    *_, session = ask(engine, (), " ", [world.files["video"], world.files["audio"]], SHORT)
    assert session[0].text == "Describe the video and the sound."
    assert list(ask(engine, (), " ", (), SHORT)) == []


def test_a_conversation_does_not_read_its_files_again(engine, world, monkeypatch):
    """fails when a following question decodes the files of earlier turns again"""
    *_, session = ask(engine, (), "what color is it ?", [world.files["image"], world.files["video"]], SHORT)
    monkeypatch.setattr(engine.reader, "_send", lambda request: pytest.fail(f"{request.ref} is read again"))
    *_, session = ask(engine, session, "and now ?", (), SHORT)
    assert session[-1].is_done and session[-1].problem is None


def test_an_error_of_the_model_ends_its_turn_only(engine, world, monkeypatch):
    """fails when an error of the model ends the chat"""

    def broken(*given):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "start_generation", broken)
        *_, session = ask(engine, (), "what ?", [world.files["image"]], SHORT)
    assert session[0].problem == "the model failed (RuntimeError: out of memory)"
    *_, session = ask(engine, session, "what ?", [world.files["image"]], SHORT)
    assert session[1].is_done


def test_concurrent_questions_get_their_own_answers(engine, world):
    """fails when questions of several threads mix up their media or text"""
    names = ["image", "video", "audio"] * 4
    alone = {name: engine.reply([world.files[name], f"what {name} ?"], SHORT) for name in set(names)}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda name: engine.reply([world.files[name], f"what {name} ?"], SHORT), names))
    assert found == [alone[name] for name in names]


# ---------------------------------------------------------------- inputs of reply


@pytest.mark.parametrize("turn", ["", "   ", [], [""], [user()], [assistant("hi")], [Message("system", (Text("x"),))]])
def test_a_turn_without_a_question_has_no_answer(engine, turn):
    """fails when an answer is generated without a question"""
    with pytest.raises(NoAnswer, match=r"question"):
        engine.reply(turn)


def test_images_in_memory_are_media(engine, world, seen):
    """fails when a PIL image, an array or a tensor is ignored, or differs from the image of its file"""
    file = Image.open(world.files["image"])
    pixels = np.asarray(file.convert("RGB"))
    given = [file, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), pixels.astype(np.float32) / 255]
    given += [np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])]  # opaque
    for one in given:
        engine.reply([one, "what color ?"], SHORT)
        torch.testing.assert_close(seen[-1].media["image"][0], engine.processors["image"](world.files["image"]))
    engine.reply(file.convert("L"), SHORT)
    grey = seen[-1].media["image"][0]
    engine.reply(np.asarray(file.convert("L")), SHORT)
    torch.testing.assert_close(seen[-1].media["image"][0], grey)
    engine.reply([np.stack([pixels] * 3), "what happens ?"], SHORT)
    assert tuple(seen[-1].media["video"].shape) == (1, 2, 3, 28, 28) and "image" not in seen[-1].media


def test_waveforms_with_their_rate_are_media(engine, world, seen):
    """fails when a waveform is not resampled to the rate of the encoder, or one of its forms is refused"""
    samples, rate = soundfile.read(world.files["audio"], dtype="int16")
    assert rate == engine.processors["audio"].rate_hz
    wave = samples.astype(np.float32) / 32768
    both = np.stack([wave, wave], 1)  # [samples, channels]
    engine.reply([world.files["audio"], "what ?"], SHORT)
    wanted = seen[-1].media["audio"]
    for one in ((wave, rate), {"array": wave, "sampling_rate": rate}, (samples, rate), (both, rate)):
        engine.reply([one, "what ?"], SHORT)
        torch.testing.assert_close(seen[-1].media["audio"], wanted)
    engine.reply((np.repeat(wave, 2), 2 * rate), SHORT)
    assert seen[-1].media["audio"].shape == wanted.shape


@pytest.mark.parametrize(
    ("item", "kind", "reason"),
    [
        (7, TypeError, "reply accepts text (str), a file (pathlib.Path), a PIL image, an array"),
        (b"abc", TypeError, "found bytes; for the bytes of a file write Media('image', data)"),
        ({"a": 1}, TypeError, "found dict"),
        (np.zeros(16000, np.float32), TypeError, "and needs its rate: write (array, rate_hz)"),
        (np.zeros((8, 8, 3), np.int64), MediaError, "expected uint8, or float in 0..1"),
        (np.full((8, 8, 3), 200.0), MediaError, "float pixels must be in 0..1"),
        (np.zeros((8, 9, 5), np.uint8), MediaError, "no axis of 1, 3 or 4 channels"),
        (np.zeros((0, 9, 3), np.uint8), MediaError, "neither an image"),
        (np.array(["x"]), TypeError, "not an image, video or audio; use uint8"),
        (Media("image", 7), TypeError, "accepts a path, the bytes of a file, or a tensor, found int"),
        ((np.zeros(16000, np.float32), -1), TypeError, "samples per second, found -1"),
        ((np.zeros((40, 40), np.float32), 8000), MediaError, "[samples] or [channels, samples], found 40x40"),
        (
            {"array": [[0.0, 0.1], [0.0]], "sampling_rate": 8000},
            MediaError,
            "one such list of equal length per channel",
        ),
        (torch.zeros(3, 8, 8, device="meta"), TypeError, "a tensor on the meta device has no values"),
        (Text(3), TypeError, "the text of Text must be a str, found int"),
        (Media("imag", b""), MediaError, "did you mean image?"),
    ],
)
def test_unsupported_inputs_are_named(engine, item, kind, reason):
    """fails when an unsupported input is ignored and an answer is generated without it"""
    with pytest.raises(kind, match=re.escape(reason)):
        engine.reply([item, "what is it ?"], SHORT)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message("user", "hi"), "a tuple of Text, Media and Drawing, found str"),
        (Message("user", ("hi",)), "a tuple of Text, Media and Drawing, found str"),
        (Message("usr", (Text("hi"),)), "the role of a message must be one of system, user, assistant; found 'usr'"),
    ],
)
def test_invalid_messages_are_refused(engine, message, reason):
    """fails when text in a wrong place is reported as a missing question"""
    with pytest.raises(TypeError, match=re.escape(reason)):
        engine.reply([message], SHORT)


def test_a_closed_image_is_refused_and_a_sparse_one_is_read(engine):
    """fails when an unusual image object ends in an error of Pillow or torch"""
    image = Image.new("RGB", (8, 8))
    image.close()
    with pytest.raises(MediaError, match="a PIL image of mode RGB cannot be read"):
        engine.reply([image, "what is it ?"], SHORT)
    dense = torch.zeros(3, 8, 8)
    dense[0, 2, 2] = 1.0
    assert engine.reply([dense.to_sparse(), "what is it ?"], SHORT) == engine.reply([dense, "what is it ?"], SHORT)


def test_media_beyond_the_context_length_are_not_decoded(engine, world, monkeypatch):
    """fails when files that cannot fit into one prompt are decoded before the error"""
    monkeypatch.setattr(engine.reader, "attach", lambda path: pytest.fail("was decoded"))
    with pytest.raises(NoAnswer, match="500 media items need at least"):
        engine.reply([world.files["image"]] * 500, SHORT)


def test_messages_and_parts_do_not_mix(engine):
    """fails when a list of messages and parts loses one of them"""
    with pytest.raises(TypeError, match="not both in one list"):
        engine.reply([user("what ?"), "what ?"])


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0, expected a value of at least 1"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens is 2.5, expected a whole number"),
        ({"max_new_tokens": "5"}, TypeError, "max_new_tokens is '5', expected a whole number"),
        (
            {"sample": True, "temperature": 0.0},
            ValueError,
            "temperature is 0.0, expected a value from 0.01 to 100; for",
        ),
        ({"sample": True, "temperature": float("inf")}, ValueError, "temperature is inf, expected a value from 0.01"),
        ({"num_beams": 10**6}, ValueError, "num_beams is 1000000, expected a value from 1 to 64"),
        ({"seed": 2**70}, ValueError, "seed is 1180591620717411303424, expected a value from 0 to"),
        ({"repetition_penalty": float("inf")}, ValueError, "repetition_penalty is inf, expected a value from 0.01"),
        ({"length_penalty": float("-inf")}, ValueError, "length_penalty is -inf, expected a value from -100"),
        ({"top_p": 1.5}, ValueError, "top_p is 1.5"),
        ({"top_p": float("nan")}, ValueError, "top_p is not a number"),
        ({"sample": 1}, TypeError, "sample is 1, expected True or False"),
        ({"min_new_tokens": 300}, ValueError, "min_new_tokens is 300, above max_new_tokens"),
        ({"max_new_token": 5}, TypeError, "no setting 'max_new_token'; did you mean max_new_tokens? settings: max_new"),
        ({"beams": 5}, TypeError, "no setting 'beams'"),
    ],
)
def test_settings_of_an_answer_are_checked(engine, settings, kind, reason):
    """fails when an invalid setting raises an error of a library, or is ignored"""
    ways = [lambda: engine.reply("what ?", **settings), lambda: engine.reply("what ?", settings)]
    ways += [lambda: engine.reply("what ?", SHORT, **settings), lambda: GenerateOptions(**settings)]
    for way in ways:
        with pytest.raises(kind, match=re.escape(reason)):
            way()
    with pytest.raises(TypeError, match="options are GenerateOptions or a mapping of its settings, found int"):
        engine.reply("what ?", 5)


def test_settings_may_be_given_by_name(engine, world):
    """fails when a single setting needs an object, NumPy numbers are refused, or settings have no effect"""
    turn = [world.files["image"], "what color ?"]
    assert engine.reply(turn, max_new_tokens=np.int64(10)) == engine.reply(turn, SHORT)
    assert engine.reply(turn, {"max_new_tokens": 4}) == engine.reply(turn, SHORT, max_new_tokens=4)


@pytest.mark.parametrize("words", ["what \ud83d color ?", "\ude00", "what \ud83d\ude00 ?"])
def test_a_lone_surrogate_is_replaced(engine, world, words):
    """fails when a lone half of a UTF-16 pair raises, in a turn, a conversation or a chat"""
    answer = engine.reply([world.files["image"], words], SHORT)
    assert answer == engine.reply([user(*engine.attach(world.files["image"]).media, words)], SHORT)
    *_, session = ask(engine, (), words, [world.files["image"]], SHORT)
    assert session[0].is_done and session[0].text.encode() and session[0].answer == answer


# ---------------------------------------------------------------- settings


def test_limits_of_a_chat_are_settings(world):
    """fails when the limits of uploads cannot be set, are those of training, or are not validated"""
    limits = open_chat(world.config).config.evaluation.chat
    assert limits.max_pixels < Limits().max_pixels and limits.time_limit_s < Limits().time_limit_s
    options = ["evaluation.chat.max_pixels=1000", "evaluation.chat.time_limit_s=3"]
    limits = open_chat(world.config, options).config.evaluation.chat
    assert (limits.limits.max_pixels, limits.limits.time_limit_s) == (1000, 3.0)
    with pytest.raises(ConfigError, match=r"evaluation\.chat\.max_pixels"):
        open_chat(world.config, ["evaluation.chat.max_pixels=0"])


def test_a_run_folder_is_enough(world, tmp_path):
    """fails when a chat with a run folder or one of its checkpoints needs a YAML file"""
    run = tmp_path / "run"
    step = run / "checkpoints" / "step_000002"
    step.mkdir(parents=True)
    world.write("chat.yaml").rename(run / "resolved.yaml")
    (step / "manifest.json").write_text("{}")
    world.write("chat.yaml")
    assert config_of(run) == run / "resolved.yaml" == config_of(step)
    with pytest.raises(ConfigError, match=r"expected\s+format\s+'chatbridge-checkpoint-1'"):
        ChatEngine.from_checkpoint(run)
    with pytest.raises(ConfigError, match="has no description of its model"):
        ChatEngine.from_checkpoint(tmp_path)


def test_a_chat_needs_no_data(world):
    """fails when a chat needs the evaluation or training data of its model"""
    config = world.write(
        "no_data.yaml", evaluation={"tasks": {"x": {"name": "nobody", "dataset": "???"}}}, data={"s": 1}
    )
    assert open_chat(config).config.evaluation_template == "vicuna_v0"
    assert open_chat(config, ["evaluation.template=caption"]).config.evaluation_template == "caption"


def test_mistakes_are_reported_together(world):
    """fails when a misspelled key or an option without effect is accepted, or only the first mistake is reported"""
    config = world.write("wrong.yaml", modle={})
    options = ["run.devise=cpu", "model.fusion.name=inlin", "evaluation.template=vicunna_v0", "run.device=gpu"]
    with pytest.raises(ConfigError) as caught:
        open_chat(config, options, checkpoint="no/such run")
    said = {problem.path: problem for problem in caught.value.problems}
    assert set(said) == {
        "modle", "run.devise", "model.fusion.name", "run.device", "run.init_from", "evaluation.template"
    }  # fmt: skip
    assert said["modle"].nearest == "model" and said["run.devise"].nearest == "run.device"
    with pytest.raises(ConfigError, match=r"no template named 'vicunna_v0'[\s\S]*did you mean vicuna_v0"):
        open_chat(world.config, ["evaluation.template=vicunna_v0"])
