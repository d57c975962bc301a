"""The page: complete, self-contained, and without markup from foreign text."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli import train
from chatbridge.report.charts import Series, bar, line_chart
from chatbridge.report.examples import find_examples
from chatbridge.report.page import page, write_page
from chatbridge.report.run_folders import read_runs
from chatbridge.report.tree import read_tree, short
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.report_parts import write_runs

VOID = {"meta", "img", "br", "line", "polyline", "link", "input"}


class Checker(HTMLParser):
    """Collects what a page fetches, and whether its elements close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "poster", "data") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wrong = {"image": lambda record: "<b>green</b>" if record["image_id"] == "b.jpg" else record["answer"]}
    return write_runs(tmp_path_factory.mktemp("report") / "runs", wrong)


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return page(read_runs(root))


def part(text: str, key: str) -> str:
    """One section of the page."""
    return "<h2 " + text.partition(f'<h2 id="{key}"')[2].partition("<h2 ")[0]


def test_the_page_needs_nothing_but_itself(text):
    """fails when the page fetches a font, script or media file, or leaves an element open"""
    found = Checker(text)
    assert found.open == []
    assert all(url.startswith(("data:", "#")) for url in found.fetched) and "@import" not in text
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"data:[^\"]*", "", text).replace("http://www.w3.org", ""))


def test_answers_load_nothing(tmp_path):
    """fails when an answer, a question or a file name becomes markup that loads something, or half an emoji in one ends
    the report"""
    evil = "<img src='http://elsewhere.example/x.png'> half \ud83d"
    runs = write_runs(tmp_path / "<img src=x>", {"image": lambda record: evil})
    written = write_page(read_runs(runs)).read_text(encoding="utf-8")
    assert all(url.startswith(("data:", "#")) for url in Checker(written).fetched)
    assert "&lt;img src=&#x27;http://elsewhere.example/x.png&#x27;&gt; half \ufffd" in written
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', written)
    assert policy and policy[1].startswith("default-src 'none'; img-src data:; media-src data:;")


def test_every_section_is_there(text):
    """fails when a part of the report is lost"""
    ids = re.findall(r'<h2 id="([\w-]+)"', text)
    assert ids == ["results", "modalities", "loss", "examples", "items", "confusions", "what-was-trained"]
    assert re.findall(r'<a href="#([\w-]+)"', text) == ids
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_titles_and_targets_come_from_the_settings(root, text):
    """fails when the page invents a heading or a target, or leaves out those of the evaluation"""
    assert "<th>Questions that need both</th>" in text and "<th>audio_video</th>" in text
    assert text.count('<span class="goal met">reaches 75%') == 2  # a tile, and a line of the table
    assert text.count('class="target"') == 1 + 3  # the key, and the bars of three tasks with targets
    bare = replace(read_runs(root), tasks=tuple(replace(task, node={}) for task in read_runs(root).tasks))
    assert "Questions that need both" not in page(bare) and page(bare).count('class="target"') == 1


def test_media_are_embedded(text):
    """fails when an example cannot be seen or heard, or audio has no spectrogram"""
    text = part(text, "examples")
    tags = Checker(text).tags
    assert text.count("data:image/jpeg;base64,/9j/") == 2
    assert tags.count("video") == 1 and "data:video/mp4;base64," in text
    assert tags.count("audio") == 1 and text.count('class="mel"') == 2  # of the audio file, and of the video's track


def test_examples_show_answer_and_reference(text):
    """fails when an incorrect answer looks correct, the reference is missing, or an answer becomes markup"""
    assert "<b>green</b>" not in text and html.escape("<b>green</b>") in text
    text = part(text, "examples")
    assert text.count('class="exchange wrong"') == 2 and '<div class="r">correct: blue</div>' in text
    assert text.count('class="exchange"') == 2 + 1 + 2 + 1


def test_examples_are_chosen_by_rule(tmp_path):
    """fails when only correct answers are shown, or the questions about one item are separated"""
    runs = read_runs(write_runs(tmp_path / "runs", {"audio_video_joint": lambda record: "down and low"}))
    kinds = find_examples(runs)
    assert list(kinds) == [("image",), ("audio",), ("video", "audio")]
    (pair,) = kinds["video", "audio"]
    assert [one.is_correct for one in pair.exchanges] == [True, True, False] and not pair.is_correct


def test_a_page_without_media_and_training_runs(tmp_path):
    """fails when a report needs the data or the training runs"""
    root = write_runs(tmp_path / "runs")
    for file in (tmp_path / "media").iterdir():
        file.unlink()
    for stage in ("pretrain", "instruct"):
        (root / stage).rename(tmp_path / stage)
    text = page(read_runs(root))
    assert re.findall(r'<h2 id="([\w-]+)"', text) == ["results", "modalities", "items", "confusions"]
    assert Checker(text).open == []


def test_loss_curves_hold_every_source(text):
    """fails when a training run or a source has no curve, or the values at the pointer are not those of the run"""
    charts = [json.loads(html.unescape(one)) for one in re.findall(r'data-chart="([^"]+)"', text)]
    assert len(charts) == 2
    assert charts[0]["names"] == ["pictures", "sounds", "all sources"]
    assert [row["y"] for row in charts[0]["rows"]] == [[3.0, 5.0, 4.0], [1.5, 2.5, 2.0], [1.0, 1.6667, 1.3333]]


@pytest.mark.parametrize(("values", "is_log"), [((4.0, 2.0, 1.0), False), ((4.0, 0.4, 0.1), True)])
def test_a_chart_draws_larger_values_higher(values, is_log):
    """fails when an axis is reversed, a point is outside the chart, or a small range is logarithmic"""
    svg = line_chart([Series("a", tuple(enumerate(values, 1)), is_main=True)], "step", "loss")
    points = [tuple(map(float, one.split(","))) for one in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert [y for _, y in points] == sorted(y for _, y in points) and [x for x, _ in points] == sorted(
        x for x, _ in points
    )
    assert all(0 <= y <= 300 and 0 <= x <= 540 for x, y in points)
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)</text>', svg)]
    assert (0 in ticks) is not is_log and len(ticks) >= 3 and ticks == sorted(set(ticks))
    assert re.findall(r'text-anchor="middle">([\d.]+)</text>', svg) == ["1", "2", "3"]  # steps are whole numbers
    assert {0.1, 0.2, 0.5, 1.0, 2.0} <= set(ticks) if is_log else ticks == [0, 1, 2, 3, 4]


def test_odd_charts_do_not_break():
    """fails when a run of one step, a loss that is not finite, or no run at all stops the report"""
    assert "polyline" in line_chart([Series("a", ((1, 2.0),))], "step", "loss")
    assert "nan" not in line_chart([Series("a", ((1, 2.0), (2, float("nan")), (3, 0.0)))], "step", "loss").lower()
    assert "no points" in line_chart([], "step", "loss")
    assert 'style="width:0.0%"' in bar(0) and 'class="target" style="left:95.0%"' in bar(0.4, 0.1, 0.95)


def test_the_tree_counts_what_was_trained(root):
    """fails when trained and frozen counts are swapped, lost, or counted twice"""
    tree = read_tree(read_runs(root).trainings[-1])
    assert (tree.trained, tree.frozen) == (200, 1800)
    perceiver = tree.children["bridges"].children["perceiver"]
    assert perceiver.trained == 200 and perceiver.children["queries"].children["visual"].shape == (8, 16)
    assert tree.children["language"].children == {} and short(1_234_567) == "1.23 M"


def test_report_of_a_real_run(tmp_path, capsys):
    """fails when the report cannot read the files that training and evaluation write"""
    world = MiniWorld(tmp_path / "world")
    run = write_yaml(tmp_path / "train.yaml", world.experiment(tmp_path / "runs/instruct", max_steps=2))
    assert train.main(["--cfg-path", str(run)]) == 0
    settings = {"output_dir": str(tmp_path / "runs/eval"), "init_from": str(tmp_path / "runs/instruct")}
    content = {"model": world.model(), "evaluation": {"tasks": world.tasks(), "num_workers": 0}, "run": settings}
    path = write_yaml(tmp_path / "eval.yaml", content)
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    capsys.readouterr()
    assert commands.main(["report", "--root", str(tmp_path / "runs")]) == 0
    found = json.loads((tmp_path / "runs/results.json").read_text())
    assert list(found["qa"]) == ["image", "joint"] and list(found["caption"]) == ["audio"]
    assert list(found["ablation"]["joint"]) == ["full", "without_audio"] and list(found["wall_s"]) == ["instruct"]
    text = (tmp_path / "runs/report.html").read_text()
    assert Checker(text).open == [] and "what-was-trained" in text and text.count("<video") >= 2
    assert "report.html" in capsys.readouterr().out
