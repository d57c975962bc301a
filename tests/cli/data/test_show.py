"""`chatbridge data show`: what it shows is what the run reads."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chatbridge.cli.data import show
from chatbridge.cli.data.original_file import original_file
from chatbridge.cli.data.sample import step_of
from chatbridge.cli.data.show_text import sample_text
from chatbridge.cli.data.terminal import Paint
from chatbridge.cli.data.token_stream import facts
from chatbridge.common.errors import ConfigError
from chatbridge.datasets.loader import build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.experiment.partial_data import read_data
from chatbridge.serve.media_pictures.media_png import media_png, pixels
from tests.helpers.data_world import record, write_pairs, write_run
from tests.helpers.media_files import write_video
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import wav, write_json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world: MiniWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A media_png out of a tar, and a video with a sound in a dialogue of two rounds."""
    folder = tmp_path_factory.mktemp("show")
    write_video(folder / "clip.mp4")
    (folder / "clip.wav").write_bytes(wav(seconds=0.3))
    first = record("talk", "clip.mp4", "video", "a red circle")
    first["messages"][0]["content"].insert(1, {"type": "audio", "path": "clip.wav"})
    first["messages"] += [{"role": "user", "content": "<b>and & now ?"}, {"role": "assistant", "content": "blue"}]
    write_json(folder / "talks.jsonl", [first, record("gone", "gone.jpg", "image")])
    sources = {
        "pairs": {"name": "web_pairs", "modality": "image", "shards": write_pairs(folder)},
        "talks": {"name": "records", "file": str(folder / "talks.jsonl")},
        "captions": world.source("captions", "ti-cap"),
    }
    return write_run(world, folder / "run.yaml", sources)


def shown_sample(config: Path, number: int, source: str | None = None, options: tuple[str, ...] = ()):
    return show.read_view(read_data(config, options), number, source)


def test_the_order_is_that_of_the_run(world: MiniWorld, tmp_path: Path):
    """fails when conversation N is not the one training reads there, with its ids and its targets"""
    from chatbridge.cli.data.sample import mixture_of
    from chatbridge.experiment.media_plan import plan_media
    from chatbridge.experiment.tokens import read_tokens

    sources = {"qa": world.source("questions", "ti-qa"), "clips": world.source("captions", "tv-cap", weight=2)}
    config = write_run(world, tmp_path / "run.yaml", sources)
    found = read_data(config)
    media = plan_media(found)
    layout = read_tokens(found, media).layout
    assert layout is not None and found.run is not None
    loader = build_loader(
        mixture_of(found, 1), layout, media.train, micro_batch=4, stop_step=2, num_workers=0, seed=found.run.seed
    )
    steps = list(loader)
    for number in (0, 3, 6):
        (batch,) = steps[number // 4]
        shown, _ = show.read_view(found, number, None)
        length = int(batch.lengths[number % 4])
        assert shown.sequence is not None
        assert (shown.source.name, shown.id) == (batch.sources[number % 4], batch.sample_ids[number % 4])
        assert shown.sequence.ids == batch.ids[number % 4, :length].tolist()
        assert len(shown.sequence.target) == batch.num_points[number % 4]


def test_steps_of_any_size_are_counted():
    """fails when sources with a batch of their own shift the numbers of what follows"""
    sources = {"many": range(100), "few": range(50)}
    mixture = Mixture(sources, {"many": 1, "few": 1}, 3, 8, "step", batches={"few": 3})
    whole = [(step, draw) for step in range(12) for draw in mixture.draws(step)]
    for number, (step, draw) in enumerate(whole):
        assert step_of(mixture, number) == step
        assert mixture.draws(step)[number - sum(mixture.counts(step).values())] == draw


def test_frames_are_named_and_drawn_as_they_were_taken(config: Path):
    """fails when the frames on the image are not those of the tensor, or carry other numbers"""
    shown, _ = shown_sample(config, 0, "talks")
    video, sound = shown.media
    assert video.chosen is not None and video.tensor is not None
    length, taken = video.chosen
    assert length == 16 and len(taken) == len(video.tensor)
    grey = pixels(video).mean(axis=(1, 2, 3))  # frame i has the grey level 15 * i
    np.testing.assert_allclose(grey, [15 * number for number in taken], atol=4)
    for medium in (video, sound):
        png = media_png(medium)
        assert png is not None
        with Image.open(io.BytesIO(png)) as image:
            assert image.format == "PNG" and image.width > 200


def test_text_shows_string_ids_and_what_is_learned(config: Path):
    """fails when words, marks of supervised ids or the prompt are not what the row has"""
    shown, tokens = shown_sample(config, 0, "talks")
    said = sample_text(shown, tokens, Paint(io.StringIO()))
    assert "###Assistant:[[a red circle###]]Human: <b>and & now ?###Assistant:[[blue###]]" in said
    assert "<video> and its background audio: <audio>." in said
    assert shown.sequence is not None and said.count("[[") == 2 + len(shown.sequence.target)
    for number in shown.sequence.target:
        assert f"/{number}]]" in said
    prompted, _ = shown_sample(config, 1, "captions")
    assert prompted.prompt in prompted.prompts and prompted.prompt in prompted.conversation[0].text


def test_what_is_cut_off_is_shown(config: Path):
    """fails when a turn that does not fit looks as if it were read"""
    shown, tokens = shown_sample(config, 0, "talks", ("data.max_tokens=80",))
    said = sample_text(shown, tokens, Paint(io.StringIO()))
    assert "[[a red circle###]]~~" in said and "cut, 2 turns" in said
    kept = "".join(segment.text for segment in shown.segments if not segment.is_cut)
    assert "blue" not in kept and shown.sequence is not None and len(shown.sequence.ids) <= 81


def test_the_page_stands_alone(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the page needs another file, words are taken for HTML, or an image is missing"""
    assert show.main([str(config), "0", "--source", "talks", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "sample.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;and &amp; now ?" in page and "<b>and" not in page
    assert page.count("data:image/png;base64,") >= 3 and "data:video/mp4;base64," in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert 'class="chip supervised"' in page and "{{" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"sample.html", "video_0.png", "audio_1.png"}
    assert str(tmp_path / "sample.html") in capsys.readouterr().out


def test_media_out_of_a_tar_can_be_looked_at(config: Path, tmp_path: Path):
    """fails when an image without a file of its own is not shown"""
    shown, _ = shown_sample(config, 2, "pairs")
    file = original_file(shown.media[0], tmp_path, "file_0")
    assert file is not None and file.suffix == ".jpg"
    with Image.open(file) as image:
        assert image.size == (24, 24)


def test_a_broken_sample_says_why(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a sample whose media are gone is not shown, or passes for a sound one"""
    assert show.main([str(config), "1", "--source", "talks", "--out", str(tmp_path)]) == 1
    assert "cannot be used" in capsys.readouterr().out
    assert "no such file" in html.unescape((tmp_path / "sample.html").read_text(encoding="utf-8"))


def test_a_run_takes_another_sample(config: Path):
    """fails when a broken sample in the order of a run does not say what the run reads instead"""
    shown = next(one for n in range(40) if (one := shown_sample(config, n)[0]).id == "gone")
    assert shown.replacement == "talk" and any("uses talk instead" in line for line in facts(shown))
    listed = write_json(config.parent / "quarantine.jsonl", [{"source": "talks", "id": "talk", "reason": "too loud"}])
    kept = (shown_sample(config, n, options=(f"data.quarantine={listed}",))[0] for n in range(40))
    assert "too loud" in next(one for one in kept if one.id == "talk").problem


def test_words_stand_in_for_a_missing_tokenizer(config: Path):
    """fails when nothing can be seen before the language model is there, or ids are made up"""
    shown, tokens = shown_sample(config, 0, "talks", ("model.language.weights=???",))
    said = sample_text(shown, tokens, Paint(io.StringIO()))
    assert tokens.unit == "words" and "no tokenizer: model.language.weights is ???" in said
    assert "[[a red circle###]]" in said and "words" in said
    shown, tokens = shown_sample(config, 0, "talks", ("model.language.weights=???", "data.template=hf_chat"))
    said = sample_text(shown, tokens, Paint(io.StringIO()))
    assert "user: <video> <audio> what color is it ?\nassistant: a red circle" in said and "no chat template" in said


def test_a_question_of_an_evaluation(world: MiniWorld, tmp_path: Path):
    """fails when the prompt of a task is shown with its answer, or with a medium that is taken away"""
    content = {"model": world.model(), "run": {"output_dir": str(tmp_path)}, "evaluation": {"tasks": world.tasks()}}
    config = write_yaml(tmp_path / "eval.yaml", content)
    shown, tokens = shown_sample(config, 1, "joint_without_sound")
    assert [medium.modality for medium in shown.media] == ["video"]
    assert shown.segments[-1].text.endswith("###Assistant:") and shown.answer == "green"
    assert "correct answer: green" in sample_text(shown, tokens, Paint(io.StringIO()))
    with pytest.raises(ConfigError, match="an evaluation has no order"):
        shown_sample(config, 1)


def test_colours_are_for_terminals(config: Path):
    """fails when a pipe gets escape sequences, or a terminal gets brackets"""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, tokens = shown_sample(config, 0, "talks")
    assert "\x1b[" not in sample_text(shown, tokens, Paint(io.StringIO()))
    coloured = sample_text(shown, tokens, Paint(Terminal()))
    assert "\x1b[1;32ma red circle###\x1b[0m" in coloured and "[[" not in coloured


def test_numbers_outside_the_source_are_refused(config: Path):
    """fails when a number too large gives another sample, or a traceback"""
    with pytest.raises(ConfigError, match="samples 0 to 4"):
        shown_sample(config, 5, "pairs")


def test_a_run_that_cannot_be_ordered_says_what_to_repair(world: MiniWorld, tmp_path: Path):
    """fails when somebody who asks for a conversation of a run has to guess what is wrong with its data"""
    source = {"name": "web_pairs", "modality": "image", "shards": str(tmp_path / "gone.tar")}
    with pytest.raises(ConfigError, match="gone.tar does not exist") as caught:
        show.main([str(write_run(world, tmp_path / "run.yaml", {"pictures": source})), "0"])
    assert "--source NAME" in str(caught.value)


def test_special_tokens_have_names_and_words_are_not_glued(world: MiniWorld, tmp_path: Path):
    """fails when a special token is shown as a number or by another model's name, or words stick to a media item"""
    file = write_json(tmp_path / "r.jsonl", [{"messages": [
        {"role": "user", "content": [{"type": "text", "text": "compare"}, {"type": "image", "path": "i0.jpg"},
                                     {"type": "text", "text": "with"}, {"type": "image", "path": "i1.jpg"}]},
        {"role": "assistant", "content": "red"}]}])  # fmt: skip
    source = {"name": "records", "file": str(file), "root": str(world.folder / "images")}
    config = write_run(world, tmp_path / "run.yaml", {"two": source}, template="hf_chat")
    tokenizer = json.loads((world.folder / "lm/tokenizer_config.json").read_text())
    folder = tmp_path / "named"
    shutil.copytree(world.folder / "lm", folder)
    template = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": template}))
    shown, tokens = shown_sample(config, 0, "two", (f"model.language.tokenizer={folder}",))
    said = sample_text(shown, tokens, Paint(io.StringIO()))
    assert "<s>user: compare <image> with <image></s>" in said and "red]][[</s>]]" in said
    assert shown.conversation[0].text == "compare with"
    for name, content, words in (
        ("gone", None, "there is no file"),
        ("bad", b"\xff\xfe{", "not UTF-8"),
        ("none", b"", "empty"),
    ):
        given = tmp_path / f"{name}.jinja"
        if content is not None:
            given.write_bytes(content)
        options = (f"model.language.tokenizer={folder}", f"model.language.chat_template={given}")
        _, tokens = shown_sample(config, 0, "two", options)
        assert tokens.layout is None and "chat_template" in tokens.note and words in tokens.note
