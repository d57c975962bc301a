"""VQA accuracy equals the official script, whose rules are written down here a second time, step by step."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

import numpy as np
import pytest

from chatbridge.tasks.metrics._vqa_answer import CONTRACTIONS, normal_form
from chatbridge.tasks.metrics.base import METRICS, Item

# of the official table, without its entries that have capitals or change nothing
TABLE = "853d25c89947b7f6d41f6c5f81b2d6c3119927f4b16f557fc1b03af6ef45605e"
MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
WORDS = r"""a an the A The none None zero one two ten eleven Two yes Yes no 2 10 1,000 0.5 .5 5. 3-4 dont don't Id've
couldnt've youve y'allll somebody'd it's its red Red / - ? ! ; : ' " ( ) [ ] @ , . .. ... ,, u.s.a. a.m. t-shirt 1,2,3
café ٣,٤ 三 x,y 7/8 (a) _ + = < > ` \ { }"""


def one_score(answer: str, people: list[str], script: str = "official", problem: str | None = None) -> float:
    """The metric's value for one item, percent."""
    metric = METRICS.get("vqa_accuracy")
    item = Item("1", answer, tuple(people), problem=problem)
    (score,) = metric(metric.Config(script=script)).scores([item])  # type: ignore[attr-defined]
    assert score.per_item[0] == pytest.approx(score.value) and score.unit == "percent"
    return score.value


def rewritten(text: str) -> str:
    """Punctuation of the official script."""
    result = text
    for mark in MARKS:
        if (mark + " " in text or " " + mark in text) or re.search(r"(\d)(\,)(\d)", text) is not None:
            result = result.replace(mark, "")
        else:
            result = result.replace(mark, " ")
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", result, int(re.UNICODE))


def reworded(text: str) -> str:
    """Numbers, articles and contractions of the official script."""
    numbers = dict(zip("none zero one two three four five six seven eight nine ten".split(), [0, *range(11)]))  # noqa: SIM905
    kept = []
    for word in text.lower().split():
        word = str(numbers.get(word, word))
        if word not in ["a", "an", "the"]:
            kept.append(word)
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def expected(answer: str, people: list[str], is_earlier: bool = False) -> float:
    """The accuracy of the official script, 0 to 100."""
    answers = [{"answer": one, "answer_id": number} for number, one in enumerate(people)]
    if not is_earlier:
        for one in answers:
            one["answer"] = str(one["answer"]).replace("\n", " ").replace("\t", " ").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    differ = len({one["answer"] for one in answers}) > 1
    if differ or is_earlier:
        answer = reworded(rewritten(answer))
    if differ:
        for one in answers:
            one["answer"] = rewritten(str(one["answer"]))
            if not is_earlier:
                one["answer"] = reworded(str(one["answer"]))
    accuracies = []
    for left_out in answers:
        others = [one for one in answers if one != left_out]
        accuracies.append(min(1, float(len([one for one in others if one["answer"] == answer])) / 3))
    return round(100 * float(sum(accuracies)) / len(accuracies), 2)


def random_text(rng: random.Random) -> str:
    return rng.choice(["", " ", " ", "\t", "\n"]).join(rng.choice(WORDS.split()) for _ in range(rng.randint(0, 4)))


@pytest.mark.parametrize("script", ["official", "earlier"])
def test_equals_the_official_script_on_random_answers(script):
    """fails when any step differs from the script: marks, full stops, words, leaving one out, the condition on equal
    answers"""
    rng, items = random.Random(7), []
    for number in range(1500):
        few = [random_text(rng) for _ in range(rng.randint(1, 3))]
        few += [one.upper() for one in few] if rng.random() < 0.2 else []
        people = [rng.choice(few) for _ in range(rng.choice([10, 10, 10, 3, 5]))]
        items.append(Item(str(number), rng.choice([*few, *few, random_text(rng), normal_form(few[0])]), tuple(people)))
    metric: Any = METRICS.get("vqa_accuracy")
    found = metric(metric.Config(script=script)).scores(items)[0].per_item
    for item, value in zip(items, found, strict=True):
        people = list(item.references)
        assert round(value, 2) == expected(item.prediction, people, script == "earlier"), (item.prediction, people)
    assert np.count_nonzero((found > 0) & (found < 100)) > 150  # which only some of the people give


@pytest.mark.parametrize(
    ("answer", "people", "value"),
    [
        ("2", ["2"] * 10, 100),
        ("two", ["2"] * 9 + ["3"], 100),  # numbers become digits
        ("two", ["2"] * 10, 0),  # all alike: nothing is normalised
        ("Yes", ["yes"] * 10, 0),  # not even case
        ("yes\n", ["yes"] * 10, 100),  # only blanks around it go
        ("The red.", ["red"] * 9 + ["blue"], 100),
        ("a", ["a"] * 9 + ["b"], 100),  # both become empty
        ("red", ["red"] + ["blue"] * 9, 30),
        ("red", ["red"] * 2 + ["blue"] * 8, 60),
        ("red", ["red"] * 3 + ["blue"] * 7, 90),
        ("red", ["red"] * 4 + ["blue"] * 6, 100),
        ("dont know", ["don't know"] * 4 + ["no"] * 6, 100),
        ("id've", ["I'd've"] * 4 + ["no"] * 6, 0),  # this entry of the table has capitals and never matches
        ("1,000-2,000", ["10002000"] * 4 + ["no"] * 6, 100),  # the comma removes every mark
        ("1000-2000", ["1000 2000"] * 4 + ["no"] * 6, 100),  # which else becomes a blank
        ("a- b", ["b"] * 4 + ["no"] * 6, 100),
        ("x - y-z", ["x yz"] * 4 + ["no"] * 6, 100),  # one touches a blank, so all of them go
        (".5", [".5"] * 4 + ["5"] * 6, 100),
        ("5.", ["5"] * 4 + ["no"] * 6, 100),
        ("x" + "." * 33, ["x."] * 4 + ["x"] * 6, 0),  # 32 go, and the reference loses its own
        ("x" + "." * 33, ["x" + "." * 33] * 4 + ["x"] * 6, 100),
        ("none", ["0"] * 4 + ["no"] * 6, 100),
        ("ten", ["10"] * 4 + ["no"] * 6, 100),
        ("eleven", ["11"] * 4 + ["no"] * 6, 0),
        ("it's", ["its"] * 4 + ["no"] * 6, 0),  # an apostrophe is no mark
        ("", ["yes"] * 9 + ["no"], 0),
        ("red", ["red"], 0),  # leaving the only person out leaves nobody
    ],
)
def test_edge_cases_of_the_official_script(answer, people, value):
    """fails when one of the script's oddities is repaired"""
    assert one_score(answer, people) == pytest.approx(value)
    assert expected(answer, people) == pytest.approx(value)


def test_the_table_of_contractions_is_the_official_one():
    """fails when an entry is lost, added or changed"""
    assert len(CONTRACTIONS) == 114
    assert hashlib.sha256(json.dumps(sorted(CONTRACTIONS.items())).encode()).hexdigest() == TABLE


def test_the_rules_of_a_okvqa_leave_nobody_out():
    """fails when A-OKVQA's direct answers are normalised or one of them is left out"""
    assert one_score("Cab", ["cab"] * 2 + ["taxi"] * 8, "a_okvqa") == pytest.approx(200 / 3)
    assert one_score("the cab", ["cab"] * 10, "a_okvqa") == 0
    assert one_score("cab", ["cab"], "a_okvqa") == pytest.approx(100 / 3)


@pytest.mark.parametrize("script, value, measured", [("a_okvqa", 100, 1), ("official", 50, 2)])
def test_difficult_direct_answers_of_a_okvqa_do_not_count(script: str, value: float, measured: int):
    """fails when a question that the script of A-OKVQA leaves out lowers the mean, or other scripts leave it out"""
    metric = METRICS.get("vqa_accuracy")
    items = [Item(str(hard), "cab", ("bus" if hard else "cab",) * 10, {"difficult_direct_answer": hard})
             for hard in (True, False)]  # fmt: skip
    (score,) = metric(metric.Config(script=script)).scores(items)  # type: ignore[attr-defined]
    assert (score.value, score.measured) == (value, measured)


def test_an_unreadable_item_scores_0_even_where_the_people_say_nothing(caplog):
    """fails when an unreadable item leaves the denominator or equals an empty reference, or single references that
    cannot score are not reported"""
    assert one_score("", [""] * 10, problem="no such file") == 0
    with caplog.at_level("WARNING", logger="chatbridge"):
        one_score("x", ["x"])
    assert "1 of 1 items have a single reference" in caplog.text
