"""Scores of items: what counts, what is left out, parts, and the settings that choose metrics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.tasks import metric_settings
from chatbridge.tasks.base import TASKS, Task, TaskConfig, task_for_scoring
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metric_settings import built_metrics, named_settings
from chatbridge.tasks.metrics.base import METRICS, Item, Metric
from chatbridge.tasks.scores_file import scores_content, with_scores
from chatbridge.tasks.scoring import Scored

EXACT = built_metrics({"exact_match": {}})


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    """The settings of a task of the kind vqa."""
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": "a", "messages": [{"role": "user", "content": "?"}]}))
    return {"name": "vqa", "dataset": {"name": "records", "file": str(path), "unanswered": "keep"}}


def item(key: str, prediction: str, *references: str, problem: str | None = None, **details: Any) -> Item:
    return Item(key, prediction, references, details, {"prediction": prediction}, problem)


def test_an_item_with_a_list_is_in_the_group_of_each_value():
    """fails when columns that overlap in a published table (ScienceQA's TXT and IMG) are made disjoint groups"""
    items = [item("1", "a", "a", context=["text", "image"]), item("2", "b", "a", context=["image"]),
             item("3", "a", "a", context=[]), item("4", "b", "a")]  # fmt: skip
    groups = Scored.of(EXACT, items).by("context")
    found = {name: (len(part.items), part.values["exact_match"]) for name, part in groups.items()}
    assert found == {"image": (2, 0.5), "text": (1, 1.0), "(none)": (2, 0.5)}


def test_word_statistics_of_a_group_are_its_own():
    """fails when the CIDEr of a domain of NoCaps depends on the images of the other domains"""
    texts = ("a cat sits on a mat", "a dog runs on grass", "a red bus stops", "two men ride bikes")
    items = [item(str(at), text, text.replace("a ", "the "), domain="near" if at < 3 else "out")
             for at, text in enumerate(texts)]  # fmt: skip
    metrics = built_metrics({"cider": {}, "bleu": {}})
    near = Scored.of(metrics, items).by("domain")["near"]
    alone = Scored.of(metrics, items[:3])
    assert near.values == alone.values and near.per_item() == alone.per_item()
    assert (
        near.values["cider"]
        != Scored.of(metrics, items).part(lambda one: one.details["domain"] == "near").values["cider"]
    )


def test_an_item_without_references_is_not_scored_and_an_unreadable_one_is():
    """fails when one without references counts as wrong, or an unreadable one, with references or not, is left out"""
    items = [
        item("a", "red", "red"),
        item("b", "red"),
        item("c", "", "red", problem="data/x.jpg: no such file"),
        item("d", "", problem="my data/y.jpg: no such file"),
    ]
    scored = Scored.of(EXACT, items)
    assert scored.values == {"exact_match": 1 / 3} and scored.measured == {"exact_match": 3}
    assert scored.per_item() == {"exact_match": {"a": 1.0, "c": 0.0, "d": 0.0}}
    assert scored.unreadable == {"no such file": 2} and scored.notes == {"items without references": 1}


def test_a_test_split_has_no_scores():
    """fails when the unreadable questions of a split without references give a score of 0"""
    scored = Scored.of(EXACT, [item("a", "red"), item("b", "", problem="gone")])
    assert scored.values == {} and scored.headline is None
    assert Scored.of(EXACT, [item("b", "", problem="gone")]).values == {"exact_match": 0.0}


def test_parts_have_the_scores_of_their_items():
    """fails when a group is scored over other items, or one without a field is lost"""
    items = [item("a", "red", "red", kind="x"), item("b", "red", "blue", kind="x"), item("c", "red", "red")]
    scored = Scored.of(EXACT, items)
    groups = scored.by("kind")
    assert {name: one.values["exact_match"] for name, one in groups.items()} == {"(none)": 1.0, "x": 0.5}
    assert groups["x"].per_item() == {"exact_match": {"a": 1.0, "b": 0.0}}
    assert scored.part(lambda one: one.id == "b").values == {"exact_match": 0.0}


def test_intervals_resample_what_belongs_together():
    """fails when four questions about one image count as four independent ones"""
    items = [item(f"{n}", "red", "red" if n < 20 else "blue", image=n // 4) for n in range(40)]
    scored = Scored.of(EXACT, items)
    alone, together = (scored.intervals(by)["exact_match"] for by in ((), ("image",)))
    assert alone[0] < 0.5 < alone[1]
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])
    assert scored.intervals(("image",))["exact_match"] == together
    asked = [item(f"{n}", "red", "red" if n < 20 else "blue", item=f"i{n // 4}", prompt=n % 4 + 1) for n in range(40)]
    assert Scored.of(EXACT, asked).intervals(("base",))["exact_match"] == together, "prompts of one question"


def test_a_field_of_resample_by_that_no_item_has(caplog: pytest.LogCaptureFixture):
    """fails when a misspelled field makes intervals of dependent items narrow without a word"""
    scored = Scored.of(EXACT, [item("a", "red", "red", image=1), item("b", "red", "blue", image=1)])
    scored.intervals(("image",))
    assert not caplog.records
    scored.intervals(("imgae",))
    assert "no item has imgae in its details" in caplog.text


def test_a_score_that_is_not_defined_is_left_out():
    """fails when NaN reaches a file, which JSON does not have"""
    content = scores_content(Scored.of(EXACT, []), {})
    assert content["scores"] == {} and json.dumps(content, allow_nan=False)


def test_scores_are_joined_to_the_lines(tmp_path: Path):
    """fails when lines of today without their file of scores are shown as 0, or those of an earlier version refused"""
    path = tmp_path / "scores_a.json"
    with pytest.raises(DataError, match=r"scores_a.json is missing; `chatbridge score"):
        with_scores([{"id": "a"}], path)
    assert with_scores([{"id": "a", "scores": {"x": 1.0}}], path) == [{"id": "a", "scores": {"x": 1.0}}]
    path.write_text(json.dumps({"scores": {}, "per_item": {"x": {"a": 0.5}}}))
    assert with_scores([{"id": "a"}, {"id": "b"}], path) == [
        {"id": "a", "scores": {"x": 0.5}},
        {"id": "b", "scores": {}},
    ]
    for wrong in ("{", "[]", '{"scores": {}}', '{"scores": {}, "per_item": {"x": 1}}',
                  '{"scores": {}, "per_item": {"x": {"a": "1"}}}'):  # fmt: skip
        path.write_text(wrong)
        with pytest.raises(DataError, match=r"scores_a.json"):
            with_scores([{"id": "a"}], path)


# ---------------------------------------------------------------- settings


def test_chosen_metrics_keep_the_settings_of_their_kind():
    """fails when `metrics: [names_all]` of a captioning task forgets its must_name"""
    defaults = {"names_all": {"must_name": "words"}, "exact_match": {}}
    assert named_settings(None, defaults) == defaults
    assert named_settings(["names_all"], defaults) == {"names_all": {"must_name": "words"}}
    assert named_settings({"names_all": {"must_name": "x"}, "mme": None}, defaults) == {
        "names_all": {"must_name": "x"}, "mme": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "package"),
    [("anls", "rapidfuzz"), ("word_error_rate", "jiwer"), ("spice", "pycocoevalcap")],
)
def test_a_missing_package_is_reported_before_anything_is_asked(
    node: dict[str, Any], metric: str, package: str, monkeypatch: pytest.MonkeyPatch
):
    """fails when hours of generation end in an import that fails"""
    there = metric_settings.find_spec
    monkeypatch.setattr(metric_settings, "find_spec", lambda name: None if name == package else there(name))
    with pytest.raises(ConfigError) as error:
        parse(EvaluationConfig, {"tasks": {"qa": {**node, "metrics": [metric]}}})
    (problem,) = error.value.problems
    assert problem.message == f"{metric} needs the package {package!r}, which is not installed"
    assert "pip install" in problem.hint and f"leave {metric} out" in problem.hint
    parse(EvaluationConfig, {"tasks": {"qa": {**node, "metrics": ["exact_match"]}}})


@pytest.mark.parametrize(("settings", "path", "message"), [
    ({"metrics": ["exact_macth"]}, "metrics", "there is no metric named 'exact_macth'"),
    ({"metrics": {"names_all": {"must_nam": "x"}}}, "metrics.names_all.must_nam", "is not a valid key"),
    ({"metrics": {"names_all": {"must_name": ["x"]}}}, "metrics.names_all.must_name", "expected text"),
    ({"metrics": ["mme", "mmbench"]}, "metrics", "mme and mmbench both give a score named accuracy"),
    ({"metrics": ["choice_likelihood"]}, "metrics", "which tasks of this kind do not write"),
    ({"main_metric": "exact"}, "main_metric", "give no score named 'exact'"),
    ({"metrics": 3}, "metrics", "expected"),
    ({"report": {"published": [{"model": "A", "metric": "exact_macth", "value": 61.0}]}},
     "report.published.0.metric", "give no score named 'exact_macth'"),
])  # fmt: skip
def test_wrong_metrics_are_reported_before_anything_is_asked(
    node: dict[str, Any], settings: Any, path: str, message: str
):
    """fails when a mistake in the metrics is found only after hours of generation"""
    with pytest.raises(ConfigError) as error:
        parse(EvaluationConfig, {"tasks": {"qa": {**node, **settings}}})
    found = {problem.path: problem.message for problem in error.value.problems}
    assert message in found[f"tasks.qa.{path}"]


def test_the_headline_is_the_one_that_is_named(node: dict[str, Any]):
    """fails when main_metric has no effect, or a task without data of its headline has none"""
    task = task_for_scoring("cap", {**node, "name": "captioning", "main_metric": "recall"})
    rows = [{"id": "a", "prediction": "red", "references": ["red"], "details": {"must_name": ["red", "x"]}}]
    assert (task.results(task.scored(rows))["metric"], task.main_metric) == ("recall", "recall")
    bare = [{**rows[0], "details": {}}]
    assert task.results(task.scored(bare))["metric"] == "exact_match"


def test_a_task_of_an_earlier_version_is_refused():
    """fails when a task of somebody's plugin that has `score` loses its scores without a word"""
    with pytest.raises(TypeError, match="Old defines main_metric, score: scores are made by a metric now"):
        type("Old", (Task,), {"main_metric": "x", "score": lambda self: {}})


def test_a_metric_of_ones_own(node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a plugin cannot add a metric, or its name is not found in a YAML"""
    (tmp_path / "metric_lab/metrics").mkdir(parents=True)
    (tmp_path / "metric_lab/metrics/start_of_answer.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "packages", list(METRICS.packages))
    METRICS.add_plugin("metric_lab")
    task = task_for_scoring("qa", {**node, "metrics": {"start_of_answer": {"count": 2}}})
    rows = [{"id": "a", "prediction": "yes it is", "references": ["yes it"], "details": {}}]
    assert task.results(task.scored(rows))["same_start"] == 1.0
    sys.modules.pop("metric_lab.metrics.start_of_answer")


OWN = """
from dataclasses import dataclass

from chatbridge.tasks.metrics.base import METRICS, Metric, mean_score


@METRICS.register("start_of_answer")
class FirstWord(Metric):
    names = ("same_start",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        count: int = 1  # words that must be equal

    def scores(self, items):
        def start(text):
            return text.lower().split()[: self.config.count]

        return [mean_score("same_start", [start(one.prediction) in map(start, one.references) for one in items])]
"""


# ---------------------------------------------------------------- every registered metric

DETAILS = {"subject": "count", "image": "1.jpg", "answer": "A", "options": {"A": "yes", "B": "no"}, "base": "q",
           "copy": 0, "must_name": ["yes"], "question": "Is it?", "answers": ["yes"] * 10}  # fmt: skip
ROW = {"options": {"A": "yes", "B": "no"}, "option_logprobs": {"A": -1.0, "B": -2.0},
       "option_tokens": {"A": 1, "B": 1}, "answer_logprob": -3.0, "answer_tokens": 2}  # fmt: skip


GIVEN = [("yes", ("yes",)), ("no", ("yes",)), ("", ("yes",)), ("a red cat", ("a red dog", "yes"))]
OF_OTHER_KINDS = {
    "yes_no_f1": [("yes", ("yes",)), ("no", ("yes",)), ("", ("yes",)), ("maybe", ("no",))],
    "sentiment_accuracy": [("positive", ("positive",)), ("negative", ("2.4",)), ("", ("positive",)), ("so so", ("0",))],
}
ELSEWHERE = ("circular", "spice")  # whole circles of rotations, and a download: they have tests of their own


def some_items(name: str = "") -> list[Item]:
    given = OF_OTHER_KINDS.get(name, GIVEN)
    found = [
        Item(str(n), text, references, {**DETAILS, "base": str(n), "image": f"{n}.jpg"}, {**ROW, "prediction": text})
        for n, (text, references) in enumerate(given)
    ]
    return [*found, Item("bad", "", given[0][1], {**DETAILS, "base": "bad", "image": "bad.jpg"}, {}, "no file")]


def default_metric(name: str) -> Metric | None:
    """The metric with its defaults; None if it needs a setting or a package that is not here."""
    try:
        return built_metrics({name: {}})[name]
    except ConfigError:
        return None


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_keeps_the_contract(name: str):
    """fails when a metric has other scores than it names, loses an unreadable item, depends on the order of items or
    differs when it is asked twice"""
    metric = default_metric(name)
    if metric is None:
        pytest.skip("has settings without defaults, or needs a package that is not installed")
    if name in ELSEWHERE:
        pytest.skip("cannot score such items alone; its own tests do")
    items = some_items(name)
    scores = {score.name: score for score in metric.scores(items)}
    assert tuple(scores) == metric.names and all(count >= 0 for count in metric.counts(items).values())
    again = {score.name: score for score in metric.scores(items[::-1])}
    for name_, score in scores.items():
        assert score.statistics.shape[0] == len(items) == len(score.per_item)
        assert np.isfinite(score.statistics).all() and not np.isinf(score.per_item).any()
        assert score.value == pytest.approx(again[name_].value, nan_ok=True)
        np.testing.assert_allclose(score.per_item, again[name_].per_item[::-1], equal_nan=True)
    readable = Scored.of({name: metric}, items[:-1])
    headline = metric.names[0]
    lost = Item("lost", "", (), {**DETAILS, "base": "lost", "image": "lost.jpg"}, {}, "no file")  # nor its annotation
    worst = metric.scores([*items, lost])[0].per_item[-2:]
    assert np.array_equal(worst[:1], worst[1:], equal_nan=True)
    assert all(one.higher_is_better == (key not in metric.lower_is_better) for key, one in readable.scores.items())
    if readable.values.get(headline) and headline not in metric.lower_is_better:
        assert Scored.of({name: metric}, items).values[headline] < readable.values[headline]


def test_every_kind_of_task_names_metrics_that_exist():
    """fails when the default metrics of a kind are misspelled, or need what its lines do not have"""
    no_data: Any = None
    for name in TASKS.names():
        config: TaskConfig = TASKS.get(name).Config(dataset=no_data)
        metrics = built_metrics(config.metric_settings)
        assert all(metric.needs <= config.writes for metric in metrics.values()), name


def test_reasons_that_name_their_item_are_counted_together():
    """fails when every missing file, or every length of a video that is too long, is a reason of its own"""
    missing = [
        f"no image file for {name} in /my in/images (tried it as it is and with .jpg){odd}"
        for name, odd in (
            ("'a'", ""),
            ("'it.jpg' or 'x/it.jpg'", ""),
            ('"it\'s in here"', "; 'b' exists, but is not a file"),
        )
    ]
    problems = [*missing, "v1.mp4: it breaks off after 12 frames, frame 30 was wanted",
                "v2.mp4: it breaks off after 1,300 frames, frame 1.5 was wanted", "a.wav: 3 s are missing"]  # fmt: skip
    items = [item(str(at), "", "red", problem=problem) for at, problem in enumerate(problems)]
    assert Scored.of(EXACT, items).unreadable == {
        "no image file in /my in/images": 3, "it breaks off after N frames, frame N was wanted": 2,
        "3 s are missing": 1,
    }  # fmt: skip


def test_equal_options_are_counted():
    """fails when a choice between two equal texts, which is made by chance, is scored without a word"""
    options = [{"A": "red", "B": "red "}, {"A": "red", "B": "Red"}, {"A": "red", "B": "blue"}, ["red", "red"], None]
    items = [item(str(at), "A", "A", options=one) for at, one in enumerate(options)]
    assert Scored.of(EXACT, items).notes == {"items with equal options": 1}


@pytest.mark.parametrize("key, value", [("value", float("inf")), ("scale", float("inf")), ("value", float("-inf"))])
def test_a_published_score_is_a_finite_number(node: dict[str, Any], key: str, value: float):
    """fails when a report compares a score with infinity"""
    published = {"model": "m", "metric": "exact_match", "value": 1.0, key: value}
    with pytest.raises(ConfigError, match=f"published.*{key}(?s:.*)expected a finite number"):
        parse(EvaluationConfig, {"tasks": {"t": {**node, "report": {"published": [published]}}}})
