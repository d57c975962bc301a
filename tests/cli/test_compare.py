"""`chatbridge compare`: folders, files of predictions and files of scores, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from chatbridge.cli import compare
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.report.comparison import task
from chatbridge.tasks.receipt import Receipt, TaskReceipt, file_sha256
from tests.helpers.mini_world import write_yaml
from tests.helpers.report_parts import write_runs
from tests.report.test_page import Checker


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two evaluations of the same data; B answers three of four questions about images incorrectly."""
    folder = tmp_path_factory.mktemp("compare")
    a = write_runs(folder / "runs")
    b = folder / "others"
    wrong = {"image": lambda record: "red" if record["answer"] == "red" else "<u>blue</u>"}
    shutil.copytree(write_runs(folder / "again" / "runs", wrong), b)
    text = (b / "eval" / "resolved.yaml").read_text().replace(str(folder / "again"), str(folder))
    (b / "eval" / "resolved.yaml").write_text(text.replace("tag: ta", "limit: 1\n        tag: ta"))
    return a, b


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four items are enough for an interval."""
    monkeypatch.setattr(task, "FEWEST", 4)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert compare.main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_two_evaluations(roots, tmp_path, capsys):
    """fails when a task, a setting that differs, a changed item, or its media are missing"""
    a, b = roots
    text = run(capsys, a / "eval", b, "--json", tmp_path / "o.json", "--html", tmp_path / "deep/o.html")
    assert "image: 4 common items" in text and "A is better" in text and "too few items" in text
    assert "evaluation.tasks.caption_audio.dataset.limit" in text
    found = json.loads((tmp_path / "o.json").read_text())
    assert list(found["tasks"]) == ["image", "caption_audio", "audio_video", "audio_video_joint",
                                    "audio_video_without_audio"]  # fmt: skip
    score = found["tasks"]["image"]["scores"]["exact_match"]
    assert (score["a"], score["b"], score["b_worse"], score["test_of_items"]) == (1.0, 0.25, 3, "mcnemar")
    assert len(found["tasks"]["image"]["changed"]) == 3 and found["tasks"]["image"]["groups"]["kind"]["shape"]["b"] == 0
    page = (tmp_path / "deep/o.html").read_text()
    assert Checker(page).open == [] and page.count("data:image/") == 2  # the questions about one image share it
    assert "&lt;u&gt;blue" in page and "<u>" not in page


def test_files_of_predictions_and_scores(roots, tmp_path, capsys):
    """fails when a single file cannot be compared, or the same answers give other numbers than in their folder"""
    (a, b), found = roots, []
    for first, second in (("predictions_image.jsonl", "predictions_image.jsonl"),
                          ("scores_image.json", "predictions_image.jsonl"),
                          ("scores_image.json", "scores_image.json")):  # fmt: skip
        run(capsys, a / "eval" / first, b / "eval" / second, "--group-by", "", "--json", tmp_path / "o.json")
        found.append(json.loads((tmp_path / "o.json").read_text())["tasks"]["image"]["scores"])
    assert found[0] == found[1] == found[2]
    joint = (a / f"eval/predictions_{name}.jsonl" for name in ("audio_video", "audio_video_without_audio"))
    text = run(capsys, *joint)
    assert "audio_video / audio_video_without_audio: 2 common items" in text
    assert "evaluation.tasks.audio_video.drop_media" in text and '["audio"]' in text  # what explains a difference
    for name, answers in (("x", ("red", "red", "x", "blue")), ("y", ("red", "blue", "blue", "blue"))):
        lines = ({"id": k, "prediction": one, "references": ["blue"]} for k, one in enumerate(answers))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = run(capsys, tmp_path / "x.jsonl", tmp_path / "y.jsonl", "--metrics", "exact_match")
    lines = ({"id": k, "prediction": one} for k, one in enumerate(("red", "blue", "blue", "blue")))
    (tmp_path / "z.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bare = run(capsys, tmp_path / "x.jsonl", tmp_path / "z.jsonl", "--metrics", "exact_match")
    assert "25.00%  75.00%  +50.00" in bare and "4 items of B have no references" in bare  # those of A are used
    assert "x / y: 4 common items" in text and "25.00%  75.00%  +50.00" in text


def test_groups_and_tasks_can_be_chosen(roots, capsys):
    """fails when --task or --group-by has no effect"""
    a, b = roots
    text = run(capsys, a / "eval", b / "eval", "--task", "image", "--group-by", "image_id")
    assert "image_id a.jpg (2)" in text and "kind color" not in text and "audio_video" not in text


def test_bad_input_names_the_next_step(roots, tmp_path):
    """fails when a wrong path, task, field, metric or file ends in a traceback or in numbers"""
    (a, b), bare = roots, tmp_path / "bare.jsonl"
    bare.write_text('{"id": 1, "prediction": "x", "references": ["y"]}\n')
    whole = [a / "eval", b / "eval"]
    stopped = shutil.copytree(a / "eval", tmp_path / "stopped")
    (stopped / "metrics.json").unlink()
    cases = [
        (["x/eval", b], "there is no folder"),
        ([a / "evil", b], r"did you mean .*eval"),
        ([stopped, b], r"no metrics.json: the evaluation is incomplete"),
        ([a.parent, b], r"holds [23] evaluations|holds no run"),
        ([*whole, "--task", "imag"], "did you mean image"),
        ([*whole, "--task", "image", "--group-by", "kinds"], r"--group-by kinds[\s\S]*did you mean kind\?"),
        ([*whole, "--resample-by", "nobody"], r"--resample-by nobody[\s\S]*image_id"),
        ([*whole, "--metrics", "exact_matc"], r"--metrics[\s\S]*did you mean exact_match"),
        ([*whole, "--metrics", ","], r"--metrics[\s\S]*names no metric"),
        ([bare, bare], r"metrics of bare are not known[\s\S]*--metrics"),
        ([bare, a / "eval/predictions_image.jsonl"], "have no item of bare in common"),
        ([a / "eval/scores_image.json", bare, "--metrics", "exact_match"], "scores without answers"),
        ([a / "eval/resolved.yaml", b], "line 1"),
        ([a / "eval/predictions_image.jsonl", b, "--task", "audio_video"], "--task audio_video: .* is a file of image"),
        ([a / "eval/scores_image.json", a / "eval/predictions_audio_video.jsonl"], "no item of image in common"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises((ConfigError, DataError), match=message):
            compare.main([str(one) for one in arguments])
    for wrong in ("--resamples=3", "--items=-1"):
        with pytest.raises(SystemExit):
            compare.main([*map(str, whole), wrong])


def receipt_of(folder: Path, weights: str, device: str = "cpu") -> None:
    answers = folder / "predictions_image.jsonl"
    task = TaskReceipt(
        {"data": {"records": "same"}, "weights": {"bridges": weights}},
        predictions={"file": answers.name, "sha256": file_sha256(answers) or ""},
    )
    Receipt({"image": task}, {"device": device}).write(folder)


def test_receipts_tell_why_numbers_differ(roots, tmp_path, capsys):
    """fails when other weights are not named, or the same receipt with other answers raises no doubt"""
    a, b = (shutil.copytree(root / "eval", tmp_path / name) for root, name in zip(roots, "ab", strict=True))
    receipt_of(a, "w1")
    receipt_of(b, "w2", device="H200")
    text = run(capsys, a, b, "--task", "image")
    row = next(line for line in text.splitlines() if line.startswith("weights: bridges"))
    assert row.split()[2:] == ["w1", "w2"] and "image_folder" not in text and "device is" in text
    receipt_of(b, "w1")
    text = run(capsys, a, b, "--task", "image")
    assert "same receipt, so the same numbers are expected: image" in text
    assert "image: 3 answers differ although the receipts are the same" in text
    shutil.copy(b / "predictions_image.jsonl", b / "predictions_image.without_image.jsonl")
    text = run(capsys, b / "predictions_image.jsonl", b / "predictions_image.without_image.jsonl")
    assert "image, condition" in text and "same receipt" not in text  # a condition of a modality report
    (b / "predictions_image.jsonl").write_text((a / "predictions_image.jsonl").read_text())
    assert "B: the predictions of image are not the ones of its receipt" in run(capsys, a, b, "--task", "image")
    (b / "receipt.json").write_text((b / "receipt.json").read_text().replace('"w1"', '"w9"'))
    text = run(capsys, a, b, "--task", "image")
    assert "the receipt of B is not used" in text and "was edited" in text and "no item" not in text


def test_metrics_that_differ_are_named(roots, tmp_path, capsys):
    """fails when two systems are scored with different metrics of one name"""
    a, b = (shutil.copytree(root / "eval", tmp_path / name) for root, name in zip(roots, "ab", strict=True))
    path = b / "resolved.yaml"
    path.write_text(path.read_text().replace("group_by: []", "group_by: []\n      main_metric: exact_match", 1))
    text = run(capsys, a, b, "--task", "caption_audio")
    assert "the metrics of A and B differ; both are scored with those of A" in text


def test_a_judge_is_not_asked_again(roots, tmp_path, capsys):
    """fails when the grades of A's answers are looked up for B, or a judge's score is missing although both have it"""
    folders = [shutil.copytree(root / "eval", tmp_path / name) for root, name in zip(roots, "ab", strict=True)]
    for folder, value in zip(folders, (1.0, 0.5), strict=True):
        (folder / "grades.jsonl").write_text("{}\n")
        settings = yaml.safe_load((folder / "resolved.yaml").read_text())
        judge = {"judge": {"file": str(folder / "grades.jsonl")}}
        settings["evaluation"]["tasks"]["image"]["metrics"] = {"exact_match": {}, **judge}
        write_yaml(folder / "resolved.yaml", settings)
        scores = json.loads((folder / "scores_image.json").read_text())
        ids = scores["per_item"]["exact_match"]
        scores["per_item"]["judge_accuracy"] = dict.fromkeys(ids, value)
        (folder / "scores_image.json").write_text(json.dumps(scores))
    text = run(capsys, *folders, "--task", "image")
    row = next(line for line in text.splitlines() if line.startswith("judge_accuracy"))
    assert row.split()[1:4] == ["100.00%", "50.00%", "-50.00"]
    assert "judge_nonsense, judge_score are left out" in text and "metrics of A and B differ" not in text


def test_a_task_without_references_is_left_out(roots, tmp_path, capsys):
    """fails when a test split, whose answers are on a server, ends the comparison of the other tasks"""
    folders = [shutil.copytree(root / "eval", tmp_path / name) for root, name in zip(roots, "ab", strict=True)]
    for folder in folders:
        path = folder / "predictions_audio_video.jsonl"
        rows = [{**json.loads(line), "references": []} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run(capsys, *folders)
    assert "audio_video: has no score on either side" in text and "image: 4 common items" in text
    with pytest.raises(DataError, match="no reference answers"):
        compare.main([*map(str, folders), "--task", "audio_video"])


def test_files_that_are_compared_are_never_replaced(tmp_path):
    """fails when --json or --html replaces a side, an evaluation's own file, or each other"""
    for name in ("a.jsonl", "predictions_b.jsonl"):
        (tmp_path / name).write_text('{"id": "x", "prediction": "red", "references": ["red"]}\n')
    before = (tmp_path / "a.jsonl").read_bytes()
    sides = [str(tmp_path / "a.jsonl")] * 2
    for options in (
        ["--json", "a.jsonl"], ["--html", "a.jsonl"], ["--json", "predictions_b.jsonl"],
        ["--json", "o", "--html", "x/../o"], ["--html", "."],
    ):  # fmt: skip
        options = [one if one.startswith("--") else str(tmp_path / one) for one in options]
        with pytest.raises(ConfigError, match="which it would replace|is the same file as --json|is a folder"):
            compare.main([*sides, "--metrics", "exact_match", *options])
    assert (tmp_path / "a.jsonl").read_bytes() == before and not (tmp_path / "o").exists()


@pytest.mark.parametrize("wrong", [
    {"score_info": 3}, {"score_info": {"exact_match": []}}, {"score_info": {"exact_match": {"unit": "dollars"}}},
    {"scores": {"exact_match": [1]}}, {"per_item": {"exact_match": {"x": float("nan")}}},
    {"per_item": {"exact_match": {"x": 10**400}}},
])  # fmt: skip
def test_a_file_of_scores_with_odd_values(tmp_path, wrong):
    """fails when a value of another type ends in a traceback, or NaN leaves an item out without a word"""
    file = tmp_path / "odd.json"
    file.write_text(json.dumps({"scores": {"exact_match": 1.0}, "per_item": {"exact_match": {"x": 1.0}}, **wrong}))
    with pytest.raises(DataError, match=r"odd\.json: .*writes it again"):
        compare.main([str(file), str(file)])
