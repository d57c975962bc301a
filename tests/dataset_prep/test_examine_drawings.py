"""The examination of a model that draws, with models whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.conversation.messages import Conversation, Drawing, Part, Text
from chatbridge.serve.answer import Answer
from dataset_prep.tiny_world import drawing_talk, examine_drawings, world, write_textbind
from dataset_prep.tiny_world.generators.tiny_renderer import TinyRenderer, read_caption
from dataset_prep.tiny_world.seen_scene import seen_scene
from dataset_prep.tiny_world.world import Scene

RENDERER = TinyRenderer(TinyRenderer.Config())
NUM = 6


class Painter:
    """Answers without a model. It draws what a request names, and red circles for what the request leaves open."""

    def __init__(self, reads: str = "image", draws: bool = True) -> None:
        self.reads, self.draws, self.asked_first = reads, draws, dict[str, Scene]()

    def answer(self, conversation: Conversation) -> Answer:
        return Answer(self._second(conversation) if len(conversation) > 1 else self._first(conversation[0].text))

    def _first(self, text: str) -> tuple[Part, ...]:
        found = [name for name, words in drawing_talk.ASKING.items() if text.startswith(words[:5])]
        if not found or not self.draws:
            return (Text("I only talk"),)
        wishes = [set(part.replace(",", " ").strip(".").split()) for part in text.split(" and then ")]
        drawn = [self._drawing(words) for words in wishes]
        if len(drawn) == 2:
            return Text("Here: "), drawn[0], Text(" and "), drawn[1]
        after = Text(f" The shape is {'red' if found[0] == 'first' else 'big'}.")
        return {"last": (Text("Here: "), drawn[0]), "first": (drawn[0], after)}.get(
            found[0], (Text("Here: "), drawn[0], after)
        )

    def _drawing(self, words: set[str]) -> Drawing:
        named = {name: next(iter(words & set(options)), options[0]) for name, options in IMAGE.items()}
        caption = "a {size} {color} {shape} at the {place}".format(**named)
        return Drawing(caption, RENDERER.render([caption], [0])[0])

    def _second(self, conversation: Conversation) -> tuple[Part, ...]:
        (drawing,) = (part for part in conversation[1].parts if isinstance(part, Drawing))
        scene = seen_scene(drawing.ref) if self.reads == "image" else read_caption(drawing.caption)
        assert scene is not None
        (name,) = (name for name, texts in world.QUESTIONS["image"].items() if conversation[-1].text in texts)
        return (Text(scene[name]),)


IMAGE = world.ATTRIBUTES["image"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_textbind.write_questions(folder, seed=3, count=NUM)
    return folder / "heldout/textbind.jsonl"


def examined(painter: Any, questions: Path, folder: Path) -> dict[str, dict[str, float]]:
    return examine_drawings.examine(painter, questions, folder)


def test_a_painter_that_reads_images(questions: Path, tmp_path: Path):
    """Fails when a met request, a placement or a true answer does not count, or images and results are not written."""
    found = examined(Painter(), questions, tmp_path)
    for kind in ("full", "partial"):
        assert {found[kind][name] for name in ("shown", "placed", "met", "named")} == {1.0}
        assert found[kind]["met_of"] == NUM and found[kind]["met_chance_of"] == NUM * (NUM - 1)
    assert found["full"]["met_chance"] <= 0.2 and found["full"]["named_of"] == NUM
    assert found["partial"]["open"] == found["partial"]["swapped"] == 1.0 > found["partial"]["swapped_own"]
    assert 0.15 < found["partial"]["open_chance"] < 0.5 and "open" not in found["full"]
    assert found["two"]["met_of"] == NUM and found["two"]["met"] == 1.0
    assert found["changed"]["met"] < 1.0  # it does not look at the image it is given
    assert found["seen"] == {"drawn": 0.0, "drawn_of": NUM, "right": 0.0, "right_of": NUM}
    assert 0.0 < found["full"]["told"] < 1.0  # it says red and big of every image
    assert json.loads((tmp_path / "drawings.json").read_text()) == found
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 5 * NUM


def test_a_painter_that_reads_captions_is_found_out(questions: Path, tmp_path: Path):
    """Fails when the control passes a model that answers second questions from its caption."""
    found = examined(Painter(reads="caption"), questions, tmp_path)["partial"]
    assert found["open"] == found["swapped_own"] == 1.0 > found["swapped"]


def test_missing_images_are_not_met(questions: Path, tmp_path: Path):
    """Fails when an image that is not drawn leaves the denominator."""
    found = examined(Painter(draws=False), questions, tmp_path)
    assert found["full"] == {"shown": 0.0, "shown_of": NUM, "placed": 0.0, "placed_of": NUM, "met": 0.0, "met_of": NUM,
                             "met_chance": 0.0, "met_chance_of": NUM * (NUM - 1)}  # fmt: skip
    assert found["two"]["met"] == 0.0 and found["two"]["met_of"] == NUM


def test_images_are_drawn_where_none_is_asked_for(questions: Path, tmp_path: Path):
    """Fails when a false drawing, or one whose picture shows no scene, is not counted."""
    gray = TinyRenderer(TinyRenderer.Config()).render(["?"], [0])[0]
    always = Painter()
    always._first = lambda text: (Drawing("?", gray),)
    found = examined(always, questions, tmp_path)
    assert found["text"]["drawn"] == found["seen"]["drawn"] == found["full"]["shown"] == 1.0
    assert found["full"]["met"] == 0.0 and "named" not in found["full"]


def test_faults_of_the_questions(questions: Path, tmp_path: Path):
    """Fails when a missing or foreign file ends in a traceback, or does not say how to write it."""
    path = tmp_path / "textbind.jsonl"
    with pytest.raises(DataError, match=r"no file .*textbind\.jsonl.*write_textbind"):
        examine_drawings.questions_of(path)
    good = questions.read_text().splitlines()[0]
    no_wish = json.loads(good)
    no_wish["details"].pop("wanted")
    for line in ("{", "[]", '{"id": "a"}', json.dumps(no_wish)):
        path.write_text(f"{good}\n{line}\n")
        with pytest.raises(DataError, match=r"textbind\.jsonl, line 2: not a question .*write_textbind"):
            examine_drawings.questions_of(path)
    assert len(examine_drawings.questions_of(questions)) == 6 * NUM
