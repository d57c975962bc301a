"""MME: scores equal to the official tool's on the files it reads, and nothing lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.formats.mme import COGNITION, PERCEPTION, SUBJECTS
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import summary_line
from chatbridge.tasks.metrics.yes_no import yes_or_no
from chatbridge.tasks.mme import MME
from tests.helpers.choice_sets import write_mme
from tests.helpers.scored import results_of
from tests.helpers.scripted_model import ScriptedModel

ANSWERS = ("Yes", "yes, it is", "No", "no.", "Not here", "I know", "It is yes", "", "y", "Maybe\tno", "yEs\nno")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mme(tmp_path_factory.mktemp("mme"))


def task(place: Path, /, **dataset: Any) -> MME:
    node = {"name": "mme", "dataset": {"name": "mme", "folder": str(place), **dataset}}
    choice = parse(EvaluationConfig, {"tasks": {"mme": node}}).tasks["mme"]
    return choice.part(choice.config, "mme")  # pyright: ignore[reportReturnType]


def official(place: Path) -> dict[str, tuple[float, float, float]]:
    """Subject -> accuracy, accuracy+ and score of its results file, written out as the official tool computes them."""
    found = {}
    for file in place.glob("*.txt"):
        lines = [line.split("\t") for line in file.read_text().splitlines()]
        assert all(len(line) == 4 for line in lines)
        right = []
        for _, _, correct, answer in lines:
            answer = answer.lower()
            if answer in ("yes", "no"):
                label = answer
            elif "yes" in answer[:4]:
                label = "yes"
            elif "no" in answer[:4]:
                label = "no"
            else:
                label = "other"
            right.append(label == correct.lower())
        pairs = [(lines[k], lines[k + 1], right[k] and right[k + 1]) for k in range(0, len(lines), 2)]
        assert all(one[0] == two[0] for one, two, _ in pairs), "both questions of an image follow each other"
        accuracy, plus = sum(right) / len(right), sum(pair[2] for pair in pairs) / len(pairs)
        found[file.stem] = accuracy, plus, 100 * accuracy + 100 * plus
    return found


def test_scores_equal_the_official_tool(folder: Path, tmp_path: Path):
    """fails when accuracy, accuracy+, a subject's score or a sum differs from the tool's on the written files"""
    rng, mme = np.random.default_rng(3), task(folder)

    def drawn(text: str) -> str:
        usual = ("Yes", "No")[" missing?" in text]
        return str(rng.choice([*ANSWERS, *[usual] * 20]))

    rows = ScriptedModel(drawn).predictions(mme)
    found = results_of(mme, rows)
    (place,) = mme.write(rows, tmp_path)
    expected = official(place)
    assert expected.keys() == set(SUBJECTS) and len(rows) == len(SUBJECTS) * 4
    for subject, (accuracy, plus, score) in expected.items():
        group = found["by"]["subject"][subject]
        assert (group["accuracy"], group["accuracy_plus"]) == (accuracy, plus)
        assert group["totals"]["score"] == pytest.approx(score)
    for name, subjects in (("perception", PERCEPTION), ("cognition", COGNITION)):
        assert found["totals"][name] == pytest.approx(sum(expected[subject][2] for subject in subjects))
    assert found["accuracy"] == pytest.approx(np.mean([one[0] for one in expected.values()]))
    assert found["measured"] == {"accuracy_plus": 2 * len(SUBJECTS)} and found["count"] == 4 * len(SUBJECTS)
    assert sum(found["answers"].values()) == len(rows) and found["answers"]["other"] > 0
    assert len({one[2] for one in expected.values()}) > 3, "the answers are too much alike to test anything"
    line = summary_line("mme", found)
    assert line.startswith("mme: accuracy") and f"perception {found['totals']['perception']:.1f}" in line


@pytest.mark.parametrize(("answer", "verdict"), [("Yes", "yes"), ("no", "no"), ("know", "no"), (" yes", "yes"),
                                                 ("  yes", "other"), ("yesno", "yes"), ("", "other")])  # fmt: skip
def test_the_first_four_characters_decide(answer: str, verdict: str):
    """fails when the rule of the official tool is bent"""
    assert yes_or_no(answer) == verdict


def test_an_unreadable_image_stays_in_every_denominator(folder: Path, tmp_path: Path):
    """fails when a missing or damaged image shrinks the count of its subject, or is lost in the results file"""
    copy = write_mme(tmp_path / "mme", ("count", "OCR"), images=2)
    (copy / "count/0000.jpg").unlink()
    (copy / "OCR/0001.png").write_bytes(b"no image")
    mme = task(copy, subjects=["count", "OCR"])
    assert "1 text file has no image (the first: count/0000.jpg)" in (mme.dataset.note() or "")
    rows = ScriptedModel(lambda text: "no" if "missing" in text else "yes").predictions(mme)
    found = results_of(mme, rows)
    assert (found["count"], found["unreadable"], found["accuracy"], found["accuracy_plus"]) == (8, 4, 0.5, 0.5)
    for subject in ("count", "OCR"):
        group = found["by"]["subject"][subject]
        assert (group["count"], group["unreadable"], group["totals"]["score"]) == (4, 2, 100.0)
    assert found["totals"] == {}, "a sum over some of its subjects would look like a low score"
    (place,) = mme.write(rows, tmp_path)
    assert {name: one[2] for name, one in official(place).items()} == {"count": 100.0, "OCR": 100.0}


def test_prompt_and_limit(folder: Path):
    """fails when the released prompt changes, a limit separates the questions of an image, or a prompt has no effect"""
    mme, model = task(folder, limit=3), ScriptedModel(lambda text: "yes")
    rows = model.predictions(mme)
    assert len(rows) == 6 and results_of(mme, rows)["measured"] == {"accuracy_plus": 3}
    image, text = model.conversations[0][-1].parts
    assert image.modality == "image" and text.text == rows[0]["details"]["asked"]
    turned = task(folder, prompt="<QUESTION> Look: <image>", limit=1)
    model = ScriptedModel(lambda text: "yes")
    model.predictions(turned)
    text, image = model.conversations[0][-1].parts
    assert text.text.endswith("yes or no. Look:") and image.modality == "image"


@pytest.mark.parametrize(("settings", "message"), [
    ({"subjects": ["ocr"]}, "did you mean OCR"),
    ({"prompt": "<QUESTION>"}, "has no <image>, expected it once"),
    ({"prompt": "<image> <QUESTON>"}, "has no field <QUESTON>"),
    ({"folder": "nowhere"}, "nowhere"),
])  # fmt: skip
def test_wrong_settings(folder: Path, settings: dict[str, Any], message: str):
    """fails when a mistake in the settings of the data set is not reported"""
    with pytest.raises(ConfigError, match=message):
        task(folder, **settings)


def test_another_data_set_is_refused(folder: Path):
    """fails when the task takes a data set without subjects"""
    node = {"name": "mme", "dataset": {"name": "records", "file": str(folder)}}
    with pytest.raises(ConfigError, match="takes the data set 'mme'"):
        parse(EvaluationConfig, {"tasks": {"mme": node}})


def test_several_prompts_are_scored_apart(folder: Path, tmp_path: Path) -> None:
    """fails when an image needs correct answers with every prompt, or the official tool gets questions twice"""
    node = {"name": "mme", "dataset": {"name": "mme", "folder": str(folder)},
            "prompts": ["<image> <QUESTION>", "<image> Well: <QUESTION>"]}  # fmt: skip
    choice: Any = parse(EvaluationConfig, {"tasks": {"mme": node}}).tasks["mme"]
    asked = choice.part(choice.config, "mme")
    rows = ScriptedModel(lambda text: "Yes" if "Well" in text or "here" in text else "No").predictions(asked)
    results = asked.results(asked.scored(rows))
    each = results["prompts"]["scores"]["accuracy_plus"]["each"]
    assert each == [1.0, 0.0] and results["accuracy_plus"] == 0.5
    asked.write(rows, tmp_path)
    assert official(tmp_path / "mme_mme")["count"] == (1.0, 1.0, 200.0)
