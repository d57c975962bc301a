"""The receipt of an evaluation changes when, and only when, something changes that its numbers depend on."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge import __main__ as commands
from chatbridge.cli import evaluate
from chatbridge.common.errors import DataError
from chatbridge.common.source_digest import source_digest
from chatbridge.experiment import receipt as receipts
from chatbridge.experiment.build import build_chat, planned_chat
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Evaluation
from chatbridge.tasks.metrics.base import METRICS
from chatbridge.tasks.receipt import (
    TaskReceipt,
    changed_predictions,
    differences,
    environment_differences,
    read_receipt,
    summary,
)
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg

TASK = "evaluation.tasks.joint_qa"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature world with eval.yaml; `planned` reads it."""
    folder = tmp_path_factory.mktemp("world")
    write_config(MiniWorld(folder), folder)
    return folder


def write_config(world: MiniWorld, folder: Path, output: str = "out") -> Path:
    tasks = {name: world.tasks()[name] for name in ("joint_qa", "image_qa")}
    content = {
        "model": world.model(),
        "evaluation": {"tasks": tasks, "num_workers": 0},
        "run": {"output_dir": str(folder / output)},
    }
    return write_yaml(folder / "eval.yaml", content)


def planned(folder: Path, *options: str, task: str = "joint_qa") -> TaskReceipt:
    """The receipt of a task without weights, tokenizer and template."""
    opened = open_config(Evaluation, folder / "eval.yaml", options)
    tasks = {task: open_data(opened).tasks[task]}
    found = receipts.planned_receipt(opened.config, opened.config.model, tasks, None, torch.device("cpu"))
    return found.tasks[task]


def changed(before: TaskReceipt, after: TaskReceipt) -> set[str]:
    return {part for part, value in before.parts.items() if after.parts[part] != value}


@pytest.fixture(scope="module")
def original(folder) -> TaskReceipt:
    return planned(folder)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([f"{TASK}.max_new_tokens=5"], {"decoding"}),
        ([f"{TASK}.num_beams=2"], {"decoding"}),
        ([f"{TASK}.repetition_penalty=1.1"], {"decoding"}),
        ([f"{TASK}.sample=true", f"{TASK}.seed=3"], {"decoding"}),
        ([f"{TASK}.drop_media=[audio]"], {"task", "prompt", "data"}),
        ([f"{TASK}.dataset.prompt=Answer this <QUESTION>"], {"prompt"}),
        ([f"{TASK}.prompts=[Answer this <QUESTION>, What about <QUESTION>]"], {"data", "prompt", "scoring"}),
        ([f"{TASK}.dataset.limit=3"], {"data", "prompt"}),
        ([f"{TASK}.dataset.frames=2"], {"media"}),
        (["model.routes.video.frames.count=3"], {"media", "model"}),
        (["model.bridges.perceiver.num_queries=5"], {"model"}),
        (["evaluation.media.max_pixels=1000"], {"media"}),
        (["evaluation.media.sound_note=silent"], {"media"}),
        (["run.precision=bf16"], {"numerics"}),
        (["run.compute_dtype={encoders.vision: bf16}"], {"numerics"}),
        ([f"{TASK}.batch_size=1", "evaluation.num_workers=1", "run.threads=1", "run.seed=7"], set()),
        ([f"{TASK}.group_by=[kind]", f"{TASK}.report.title=x", "run.output_dir=elsewhere"], set()),
        ([f"{TASK}.metrics=[anls]"], {"scoring"}),
        ([f"{TASK}.metrics={{anls: {{threshold: 0.4}}, exact_match: {{}}}}"], {"scoring"}),
        ([f"{TASK}.resample_by=[kind]"], {"scoring"}),
        (["model.trainable=[]", f"{TASK}.dataset.failure_budget=0.5"], set()),
        (["evaluation.tasks.image_qa.max_new_tokens=9"], set()),  # of the other task
    ],
)
def test_a_setting_changes_the_parts_that_it_belongs_to(folder, original, options, parts):
    """fails when a setting that changes answers is in no hash, or one that does not changes a hash"""
    assert changed(original, planned(folder, *options)) == parts


def test_content_counts_and_names_do_not(folder, original, tmp_path):
    """fails when a changed answer, question or media file keeps the receipt, or a copy in another folder with another
    layout of the file has a different one"""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / "eval.yaml").read_text().replace(str(folder), str(copy))
    (copy / "eval.yaml").write_text(text)
    file = copy / "tva_questions.json"
    records = json.loads(file.read_text())
    file.write_text(json.dumps([dict(reversed(one.items())) for one in records], indent=3))
    same = planned(copy)
    assert changed(original, same) == set()
    assert same.files["annotations"]["sha256"] != original.files["annotations"]["sha256"]

    pictures = planned(copy, task="image_qa")
    (copy / "images/i1.jpg").write_bytes(jpeg(33, side=32))
    assert changed(pictures, planned(copy, task="image_qa")) == {"data"}
    file.write_text(json.dumps([{**records[0], "answer": "blue"}, *records[1:]]))
    assert changed(original, planned(copy)) == {"data"}
    file.write_text(json.dumps([{**records[0], "question": "what ?"}, *records[1:]]))
    assert "prompt" in changed(original, planned(copy))


def test_preprocessing_that_cannot_be_read_or_described_ends_nothing(folder, monkeypatch):
    """fails when --check ends for a file that loading the weights reports, or for the processor of a plugin"""
    config = open_config(Evaluation, folder / "eval.yaml", []).config

    class Opaque:
        def __init__(self) -> None:
            self.cannot = (one for one in ())

        def __call__(self, ref: Any, rng: Any = None) -> None: ...

    kind = type(config.model)
    monkeypatch.setattr(kind, "processors", lambda *_, train: {"image": Opaque()})
    found = receipts._media_settings(config, config.model)
    assert found is not None and found["image"]["class"].endswith("Opaque") and "not described" in found["image"]

    def missing(*_: Any, train: bool) -> None:
        raise OSError("no preprocessor_config.json")

    monkeypatch.setattr(kind, "processors", missing)
    one = planned(folder)
    assert one.parts["media"] is None and one.digest is None and one.parts["data"] is not None


def test_answers_of_other_code_are_not_kept(folder, monkeypatch):
    """fails when a stopped evaluation keeps answers that code made which its receipt does not name"""
    config = open_config(Evaluation, folder / "eval.yaml", []).config
    before = evaluate.answers_made_with(config, config.model)
    monkeypatch.setattr(evaluate, "code_settings", lambda plugins: {"chatbridge": "other"})
    after = evaluate.answers_made_with(config, config.model)
    assert {name for name in before if before[name] != after[name]} == {"code"}


@pytest.fixture(scope="module")
def evaluated(folder) -> Path:
    """The folder of an evaluation."""
    assert commands.main(["evaluate", "--cfg-path", str(folder / "eval.yaml")]) == 0
    return folder / "out"


def test_evaluate_writes_a_complete_receipt_that_check_foresees(folder, evaluated, capsys):
    """fails when a part is missing, --check computes another hash than the evaluation, or the predictions are not those
    of the receipt"""
    assert commands.main(["evaluate", "--cfg-path", str(folder / "eval.yaml"), "--check"]) == 0
    shown = capsys.readouterr().out
    found = read_receipt(evaluated)
    assert found is not None
    for name, one in found.tasks.items():
        known = [f"{part} {str(value)[:8]}" for part, value in one.parts.items() if part != "weights"]
        assert all(text in shown for text in [*known, f"  {name}: ", "weights not read yet"])
        assert None not in one.parts.values() and one.digest is not None and one.answers != one.digest
        assert str((one.settings["prompt"] or {})["first"]).startswith("user: <")  # a person can read it
    assert "checkpoint" in found.environment
    assert changed_predictions(evaluated, found) == []
    assert found.environment["processes"] == 1 and found.environment["versions"]["torch"]
    path = evaluated / "predictions_joint_qa.jsonl"
    text = path.read_text()
    path.write_text(text + "\n")
    assert changed_predictions(evaluated, found) == ["joint_qa"]
    path.write_text(text)


def test_two_tasks_share_lines_and_only_common_tasks_are_compared(evaluated):
    """fails when --check repeats what all tasks share, or batch sizes of tasks of one side alone are differences"""
    found = read_receipt(evaluated)
    assert found is not None
    tasks = {name: TaskReceipt({"data": {"x": name}, "code": {}, "weights": None}) for name in "ab"}
    code, a, b = (one[:8] for one in (tasks["a"].parts["code"], *(tasks[name].parts["data"] for name in "ab")) if one)
    lines = [f"all tasks: code {code}, weights not read yet", f"a: data {a}", f"b: data {b}"]
    assert summary(replace(found, tasks=tasks)) == lines
    alone = {"joint_qa": found.tasks["joint_qa"]}
    more = replace(found, tasks=alone, environment={**found.environment, "batch_size": {"joint_qa": 7, "other": 3}})
    assert [one.setting for one in environment_differences(found, more)] == ["environment.batch_size.joint_qa"]


def test_weights_tokenizer_and_template_count(folder, evaluated):
    """fails when a single changed value of the model, an added word or another template keeps the receipt"""
    opened = open_config(Evaluation, folder / "eval.yaml", [])
    tasks = open_data(opened).tasks
    built = build_chat(opened.config, seed=42)
    one = receipts.weights_digest(built.model)
    with torch.no_grad():
        next(iter(built.model.language.parameters())).view(-1)[7] += 1e-6
    other = receipts.weights_digest(built.model)
    assert {name for name in one if one[name] != other[name]} == {"language"}
    assert one["language"]["dtype"] == "float32" and sum(part["values"] for part in one.values()) > 1000

    def of(*options: str) -> TaskReceipt:
        config = open_config(Evaluation, folder / "eval.yaml", options).config
        plan = planned_chat(config)
        return receipts.planned_receipt(config, plan.model, tasks, plan.layout, torch.device("cpu")).tasks["joint_qa"]

    before = of()
    assert changed(before, of("evaluation.template=caption")) == {"template"}
    assert changed(before, of("model.added_tokens=[<new>]")) == {"model", "tokenizer"}


def test_differences_are_named_and_an_edited_receipt_is_refused(folder, evaluated, original, tmp_path):
    """fails when a difference has no setting and values, or a receipt whose settings were edited is believed"""
    found = differences(original, planned(folder, f"{TASK}.max_new_tokens=5", f"{TASK}.num_beams=2"))
    assert [str(one) for one in found] == ["decoding: max_new_tokens is 4 and 5", "decoding: num_beams is 1 and 2"]
    assert differences(original, original) == []
    content: dict[str, Any] = json.loads((evaluated / "receipt.json").read_text())
    content["tasks"]["joint_qa"]["settings"]["decoding"]["num_beams"] = 5
    (tmp_path / "receipt.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="was edited: the hashes of joint_qa"):
        read_receipt(tmp_path)
    (tmp_path / "receipt.json").write_text(json.dumps({**content, "tasks": {}, "environment": ["torch"]}))
    with pytest.raises(DataError, match="cannot be read as a receipt"):
        read_receipt(tmp_path)
    (tmp_path / "receipt.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as a receipt"):
        read_receipt(tmp_path)
    (tmp_path / "receipt.json").unlink()
    assert read_receipt(tmp_path) is None


def test_scoring_again_keeps_the_receipt_and_other_metrics_change_its_scoring(evaluated, tmp_path, capsys):
    """fails when the same scoring has another receipt, other metrics keep it or change more than the scoring, or edited
    answers still have one"""
    again = tmp_path / "again"
    shutil.copytree(evaluated, again)
    before = read_receipt(again)
    assert commands.main(["score", str(again)]) == 0
    assert before is not None and read_receipt(again) == before
    assert f"receipt of joint_qa: {before.tasks['joint_qa'].digest}" in capsys.readouterr().out

    assert commands.main(["score", str(again), "--task", "joint_qa", "--metrics", "gqa_accuracy"]) == 0
    after = read_receipt(again)
    assert after is not None and changed(before.tasks["joint_qa"], after.tasks["joint_qa"]) == {"scoring"}
    assert after.tasks["image_qa"] == before.tasks["image_qa"]
    assert after.tasks["joint_qa"].answers == before.tasks["joint_qa"].answers

    path = again / "predictions_joint_qa.jsonl"
    path.write_text(path.read_text().replace('"prediction": "', '"prediction": "x', 1))
    assert commands.main(["score", str(again)]) == 0
    assert "receipt of joint_qa: none: predictions_joint_qa.jsonl was changed" in capsys.readouterr().out


def test_a_file_of_anybody_has_a_receipt_of_its_scores(tmp_path):
    """fails when equal files scored alike have different receipts, or another file or setting has the same one"""

    def receipt(name: str, text: str, *options: str) -> dict[str, Any]:
        (tmp_path / name).write_text(json.dumps({"id": "a", "prediction": text, "references": ["red"]}) + "\n")
        out = tmp_path / "out.json"
        command = ["score", str(tmp_path / name), "--metrics", "anls", "--json", str(out)]
        assert commands.main([*command, *(["--options", *options] if options else [])]) == 0
        return json.loads(out.read_text())["receipt"]

    first = receipt("a.jsonl", "red")
    assert receipt("b.jsonl", "red") == first
    digests = {
        first["digest"],
        receipt("a.jsonl", "rod")["digest"],
        receipt("a.jsonl", "red", "anls.threshold=0.4")["digest"],
    }
    assert len(digests) == 3


def test_the_code_of_plugins_counts(tmp_path, monkeypatch):
    """fails when a changed metric or encoder of a plugin keeps the receipt"""
    (tmp_path / "my_lab_of_receipts/metrics").mkdir(parents=True)
    file = tmp_path / "my_lab_of_receipts/metrics/mine.py"
    file.write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = receipts.code_settings(("my_lab_of_receipts",))
    file.write_text("x = 2")
    source_digest.cache_clear()
    after = receipts.code_settings(("my_lab_of_receipts",))
    assert set(before) == {"chatbridge", "my_lab_of_receipts"} and before["chatbridge"] == after["chatbridge"]
    assert before["my_lab_of_receipts"] != after["my_lab_of_receipts"]
    file.write_text("class Mine: ...")
    part = importlib.import_module("my_lab_of_receipts.metrics.mine").Mine
    known = receipts.plugin_code(part)
    file.write_text("class Mine:\n    x = 1")
    assert set(known) == {"code"} and receipts.plugin_code(part) != known
    assert receipts.plugin_code(METRICS.get("anls")) == {}
