"""`chatbridge review answers`: released lines, chunks in one file, and what becomes of it when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli import answer_generation
from chatbridge.cli.review import answers
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.review.answer_lines import LETTERS, peeled
from chatbridge.review.input_files import read_answers
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.tiny_media import jpeg, wav, write_json
from tests.helpers.tiny_models import AUDIO, PERCEIVER, ROUTES, VISION

NUM_QUESTIONS = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama, two images (one has COCO's prefix) and a sound."""
    folder = tmp_path_factory.mktemp("world")
    write_language_model(folder / "lm")
    for name in ("i0.jpg", "COCO_val2014_000000000007.jpg"):
        (folder / name).write_bytes(jpeg(200, side=32))
    (folder / "a0.wav").write_bytes(wav(300.0, seconds=0.3))
    return folder


@pytest.fixture
def given(world: Path, tmp_path: Path) -> list[str]:
    """The command line over five questions: an image by its name, by its name without COCO's prefix, one that is
    missing, a text-only question, and audio."""
    asked = [{"image": "i0.jpg"}, {"image": "000000000007.jpg"}, {"image": "gone.jpg"}, {}, {"audio": "a0.wav"}]
    model = {"encoders": {"vision": VISION, "audio": AUDIO}, "bridges": {"perceiver": PERCEIVER},
             "language": {"name": "causal_lm", "weights": str(world / "lm"), "template": "vicuna_v0"},
             "routes": {modality: dict(route) for modality, route in ROUTES.items()}}  # fmt: skip
    evaluation = {"generation": {"sample": True, "temperature": 0.7, "max_new_tokens": 4},
                  "question": {"media": "after_text", "separator": "\n"}}  # fmt: skip
    config = {"model": model, "evaluation": evaluation, "run": {"output_dir": "unused"}}
    questions = [
        {"question_id": n, "text": "what color is it ?", "category": "conv", **one} for n, one in enumerate(asked)
    ]
    return ["review", "answers", str(write_yaml(tmp_path / "tiny.yaml", config)), "--questions",
            str(write_json(tmp_path / "q.jsonl", questions)), "--image-folder", str(world), "--workers", "0",
            "--out", str(tmp_path / "a.jsonl")]  # fmt: skip


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """The model that the first command of this file has built; the others take it."""
    return []


@pytest.fixture(autouse=True)
def one_model(models: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inner = answer_generation.build_chat

    def built(*given: Any, **more: Any) -> Any:
        if not models:
            models.append(inner(*given, **more))
        return models[0]

    monkeypatch.setattr(answer_generation, "build_chat", built)


def lines(given: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(given[given.index("--out") + 1]).read_text().splitlines()]


def test_released_lines_chunks_and_resume(given: list[str], capsys: pytest.CaptureFixture, monkeypatch: Any):
    """fails when a field is missing, a file with COCO's prefix is not found, a failure is silent or ends the command,
    chunks disturb each other or change an answer, or answered questions are asked again"""
    assert commands.main(given) == 1
    whole = lines(given)
    assert "question 2 has no answer: " in (said := capsys.readouterr()).err and "gone.jpg" in said.err
    assert "4 of 5 questions are answered in" in said.out
    assert [row["question_id"] for row in whole] == [0, 1, 3, 4]
    assert [list(row) for row in whole] == [["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]] * 4
    assert {row["model_id"] for row in whole} == {"tiny"} and whole[0]["prompt"] == "what color is it ?"
    assert all(len(row["answer_id"]) == 22 and set(row["answer_id"]) <= set(LETTERS) for row in whole)
    assert len({row["answer_id"] for row in whole}) == 4

    path = Path(given[given.index("--out") + 1])
    path.unlink()
    path.with_name("a.jsonl.settings.json").unlink()
    assert commands.main([*given, "--num-chunks", "2", "--chunk-idx", "1"]) == 0
    assert [row["question_id"] for row in lines(given)] == [3, 4]
    path.write_text(path.read_text()[:-30])  # killed while it wrote
    assert commands.main([*given, "--num-chunks", "2", "--chunk-idx", "0"]) == 1
    asked: list[int] = []
    inner = answer_generation.iter_predictions
    monkeypatch.setattr(
        answer_generation, "iter_predictions", lambda *given, **more: asked.extend(given[5]) or inner(*given, **more)
    )
    assert commands.main(given) == 1 and asked == [2, 4]
    assert lines(given) == whole
    assert [one.question_id for one in read_answers(path)] == [0, 1, 3, 4]  # what the judge reads


def test_the_question_has_the_form_of_the_model(given: list[str], monkeypatch: pytest.MonkeyPatch):
    """fails when evaluation.question does not place the media, or evaluation.generation and --task do not generate"""
    found: dict[str, Any] = {}

    def no_predictions(config: Any, task: Any, left: list[int], *more: Any) -> Any:
        parts = task.dataset.record(0, None).conversation[0].parts
        found.update(parts=parts, config=task.config)
        return iter(())

    monkeypatch.setattr(answers, "predictions", no_predictions)
    commands.main(given)
    text, media = found["parts"]
    assert text.text == "what color is it ?\n" and media.modality == "image" and media.ref.name == "i0.jpg"
    assert found["config"].sample and found["config"].temperature == 0.7 and found["config"].max_new_tokens == 4
    commands.main([*given, "--overwrite", "--task", "sample=false", "max_new_tokens=3"])
    assert not found["config"].sample and found["config"].temperature == 1.0 and found["config"].max_new_tokens == 3


def test_answers_of_different_settings_are_never_mixed(given: list[str], monkeypatch: pytest.MonkeyPatch):
    """fails when answers of another setting, model or program are kept as if they were of this command"""
    monkeypatch.setattr(answers, "predictions", lambda config, task, left, *more: iter(
        {"index": n, "id": str(n), "prediction": "### Assistant: red"} for n in left))  # fmt: skip
    assert commands.main([*given, "--num-chunks", "2", "--chunk-idx", "1"]) == 0
    assert {row["text"] for row in lines(given)} == {"red"}
    with pytest.raises(DataError, match="made with a different generation; choose another --out"):
        commands.main([*given, "--task", "temperature=0.9"])
    with pytest.raises(DataError, match="made with a different peel; remove .*a.jsonl to start all chunks again"):
        commands.main([*given, "--peel", "--num-chunks", "2", "--overwrite"])
    assert [row["question_id"] for row in lines(given)] == [3, 4]
    assert commands.main([*given, "--overwrite", "--peel"]) == 0
    assert {row["text"] for row in lines(given)} == {"### Assistant: red"} and len(lines(given)) == NUM_QUESTIONS
    Path(given[given.index("--out") + 1]).write_text("mine\n")
    with pytest.raises(DataError, match="line 1 is not a JSON object"):
        commands.main(given)


def test_mistakes_are_messages(given: list[str], capsys: pytest.CaptureFixture):
    """fails when a wrong option, file or folder ends in a traceback, or --check hides missing files"""
    assert commands.main([*given, "--check"]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 questions" in out and "1 of them cannot be answered; the first: " in out and "gone.jpg" in out
    with pytest.raises(DataError, match="--chunk-idx is 3, expected 0 to 1"):
        commands.main([*given, "--num-chunks", "2", "--chunk-idx", "3"])
    with pytest.raises(ConfigError, match="name one YAML, run folder or checkpoint"):
        commands.main([*given, "--cfg-path", "x.yaml"])
    with pytest.raises(ConfigError, match="got 'drop_media=1'"):
        commands.main([*given, "--task", "drop_media=1"])
    with pytest.raises(ConfigError, match="(?s)temperture.*temperature"):
        commands.main([*given, "--task", "temperture=1"])
    with pytest.raises(DataError, match="is the file of the questions"):
        commands.main([*given, "--out", given[given.index("--questions") + 1]])


def test_words_of_the_format_are_peeled():
    """fails when words of a format stay before an answer, or words within it are lost"""
    assert peeled("###Assistant: Response: ### A cat. Assistant: no") == "A cat. Assistant: no"
    assert peeled(" ###", ("###",)) == "" and peeled("### x", ()) == "### x"
