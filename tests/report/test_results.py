"""Chance levels, results.json and the confusion matrices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.report.chance import chance, chance_by_kind, chance_knowing
from chatbridge.report.confusion import OTHER, confusions
from chatbridge.report.results import ablations, results, scores, text_table
from chatbridge.report.run_folders import read_runs
from tests.helpers.report_parts import rows_of, write_runs

KIND = "kind"  # field of the annotation with the kind of question


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All answers are correct except one color; without the audio, questions about it are answered incorrectly."""
    return write_runs(
        tmp_path / "runs",
        {
            "image": lambda record: "Red." if record["kind"] == "color" else record["answer"],
            "audio_video_without_audio": lambda record: "up",
        },
    )


# ---------------------------------------------------------------- chance


def test_chance_is_the_most_frequent_answer_of_each_kind():
    """fails when kinds are pooled, count equally whatever their size, or the rarest answer is taken"""
    rows = rows_of([("color", "red", ""), ("color", "red", ""), ("color", "blue", ""), ("size", "big", "")])
    assert chance(rows, KIND) == pytest.approx(3 / 4) and chance(rows) == 0.5
    assert chance_by_kind(rows, KIND) == {"color": pytest.approx(2 / 3), "size": 1.0}
    assert chance(rows_of([("", "red", ""), ("", "blue", "")]), KIND) == 0.5
    assert chance_by_kind(rows_of([("", "red", "")]), KIND) == {} and chance([]) == 0.0


def test_chance_of_options_whose_texts_occur_once():
    """fails when questions with options have a chance level of one over their number"""
    options = {"options": {"A": "a", "B": "b", "C": "c", "D": "d"}}
    rows = [{**row, **options} for row in rows_of([("", str(number), "") for number in range(10)])]
    assert chance(rows) == 0.25 and chance_by_kind(rows, None) == {}
    assert chance([*rows[:5], *rows_of([("", "x", "")] * 5)]) == 0.5
    named = [{**row, "details": {KIND: "name"}} for row in rows]
    both = [*named, *rows_of([("sure", "yes", "")] * len(rows))]
    assert chance(both, KIND) == pytest.approx((0.25 + 1) / 2), "each kind has the better of its two guesses"


def test_chance_compares_as_the_scores_do():
    """fails when "A red one." and "red one" are different answers, or a second reference does not count"""
    assert chance(rows_of([("x", "A red one.", ""), ("x", "red one", "")])) == 1.0
    rows = [{"references": ["red", "crimson"], "details": {}}, {"references": ["crimson"], "details": {}}]
    assert chance(rows) == 1.0


def test_chance_of_captions_is_their_most_frequent_combination():
    """fails when captions with different wording have a chance level of one over their number"""
    words = [["big", "red"], ["big", "red"], ["small", ["blue", "navy"]], ["small", "red"]]
    rows = [{"references": [f"caption {k}"], "details": {"must_name": one}} for k, one in enumerate(words)]
    assert chance(rows) == 0.5
    renamed = [
        {"references": row["references"], "details": {"attributes": row["details"]["must_name"]}} for row in rows
    ]
    assert chance(renamed, must_name="attributes") == 0.5 and chance(renamed) == 0.25


def test_chance_with_one_known_part():
    """fails when the remaining media are assumed to be useless, or text after a comma counts as known"""
    rows = rows_of(
        [("j", "up and high", ""), ("j", "up and high", ""), ("j", "up and low", ""), ("j", "left and low", "")]
    )
    assert chance(rows) == 0.5
    assert chance_knowing(rows, KIND, 0) == 0.75  # up: high, left: low
    assert chance_knowing(rows, KIND, 1) == 0.75  # high: up, low: up or left
    follows = rows_of(
        [("f", "up and rising, yes", ""), ("f", "down and rising, no", ""), ("f", "up and rising, yes", "")]
    )
    assert chance_knowing(follows, KIND, 1) == pytest.approx(2 / 3)
    assert chance_knowing(rows_of([("x", "red", "")]), KIND, 0) is None


# ---------------------------------------------------------------- results.json


def test_results_have_the_promised_shape(root):
    """fails when a key of results.json is renamed, or a number is not the fraction of the correct rows"""
    found = results(read_runs(root))
    assert list(found) == ["qa", "caption", "ablation", "chance", "wall_s"]
    assert found["qa"] == {"image": 0.75, "audio_video": 1.0, "audio_video_joint": 1.0}
    assert found["caption"] == {"audio": 1.0}
    assert found["ablation"] == {
        "audio_video": {
            "full": 1.0, "without_audio": 0.5,
            "about": {"audio": {"full": 1.0, "without_audio": 0.0}, "video": {"full": 1.0, "without_audio": 1.0}},
        }
    }  # fmt: skip
    assert found["chance"]["qa"]["image"] == 0.75 and found["chance"]["caption"] == {"audio": 1.0}
    assert found["chance"]["by_kind"]["image"] == {"color": 0.5, "shape": 1.0}
    json.dumps(found)


def test_wall_time_comes_from_a_script_or_the_training_runs(root):
    """fails when measured seconds are not in results.json"""
    assert results(read_runs(root))["wall_s"] == {"pretrain": 6.0, "instruct": 6.0}
    (root / "wall_s.json").write_text('{"stage 1": 310.5}')
    assert results(read_runs(root))["wall_s"] == {"stage 1": 310.5}


def test_an_ablation_belongs_to_the_task_with_its_questions(root):
    """fails when an ablation is listed as a result, or compared with other questions"""
    runs = read_runs(root)
    assert [score.label for score in scores(runs)] == ["image", "audio", "audio_video", "audio_video_joint"]
    assert [(line.base, line.about) for line in ablations(runs)] == [
        ("audio_video", None), ("audio_video", "audio"), ("audio_video", "video"),
    ]  # fmt: skip


def test_targets_are_met_or_missed(root):
    """fails when a target is compared in the wrong direction, or is not read from the settings of its task"""
    met = {(score.group, score.label): score.is_met for score in scores(read_runs(root))}
    assert met[("qa", "image")] is False and met[("qa", "audio_video")] is True and met[("caption", "audio")] is True
    assert met[("qa", "audio_video_joint")] is None  # its settings have no target
    table = text_table(read_runs(root))
    named = {line[:28].strip(): line for line in table.splitlines()}
    assert all(line[28:36].endswith("%") for name, line in named.items() if name)  # one column for the scores
    assert "missed" in table.splitlines()[1] and "without audio 50.0%" in table


@pytest.mark.parametrize("name", ["metrics.json", "resolved.yaml", "predictions_image.jsonl"])
def test_a_missing_file_is_named(root, name):
    """fails when an incomplete evaluation gives a traceback or an incomplete report"""
    (root / "eval" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}[\s\S]*python -m chatbridge evaluate"):
        read_runs(root)


def test_an_unfinished_run_can_be_read(root, caplog):
    """fails when an incomplete line of metrics.jsonl stops the report, or is not reported"""
    path = root / "pretrain" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    assert len(read_runs(root).trainings[0].records) == 3
    path.write_text("{broken\n" + path.read_text())
    assert len(read_runs(root).trainings[0].records) == 3
    assert "metrics.jsonl: 2 torn lines are skipped (line 1, 5)" in caplog.text


def test_unicode_separators_do_not_end_a_line(root):
    """fails when an answer with a line separator of Unicode, which JSON does not escape, is split into two lines"""
    path = root / "eval" / "predictions_image.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    row = {**json.loads(first), "prediction": "red\u2028\x85red"}
    path.write_text("\n".join([json.dumps(row, ensure_ascii=False), *rest, ""]), encoding="utf-8")
    (found,) = (task for task in read_runs(root).tasks if task.name == "image")
    assert found.rows[0]["prediction"] == row["prediction"] and len(found.rows) == 1 + len(rest)


# ---------------------------------------------------------------- confusions


def test_a_matrix_per_kind_of_question():
    """fails when kinds are mixed, rows are given answers, or an answer that is never correct is dropped"""
    given = [("color", "red", "red"), ("color", "red", "Blue."), ("color", "blue", "green"), ("size", "big", "big")]
    color, size = confusions(rows_of(given), KIND)
    assert (color.kind, size.kind) == ("color", "size")
    assert color.table == {"blue": {"green": 1}, "red": {"blue": 1, "red": 1}}
    assert color.columns == ("blue", "red", "green")


def test_rare_answers_share_a_column():
    """fails when a question with many answers fills the page, or rare answers are not counted"""
    rows = rows_of([("name", f"right {k}", f"wrong {k}") for k in range(30)])
    (matrix,) = confusions(rows, KIND)
    assert len(matrix.columns) <= 13 and matrix.columns[-1] == OTHER
    assert sum(sum(given.values()) for given in matrix.table.values()) == 30


def test_long_answers_have_no_column():
    """fails when a model that repeats itself widens the page"""
    (matrix,) = confusions(rows_of([("shape", "square", "square " * 20), ("shape", "square", "star")]), KIND)
    assert matrix.columns == ("square", "star", OTHER)


def test_answers_of_two_parts_have_a_matrix_per_part():
    """fails when dozens of combinations make one unreadable matrix, or an answer with one part counts as complete"""
    pairs = [(shape, sound) for shape in ("circle", "star", "cross") for sound in ("noise", "siren", "tone")]
    rows = rows_of([("shape and sound", f"{a} and {b}", f"{a} and siren") for a, b in pairs])
    rows += rows_of([("shape and sound", "star and noise", "star")])
    shape, sound = confusions(rows, KIND, ("video", "audio"))
    assert (shape.kind, sound.kind) == ("shape and sound: video", "shape and sound: audio")
    assert len(confusions(rows, KIND)) == 1 and shape.table["star"] == {"star": 4}
    assert sound.table["noise"] == {"siren": 3, OTHER: 1}
