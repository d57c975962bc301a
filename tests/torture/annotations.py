"""Odd annotation files: JSON lists and lines for the builders `questions` and `records`. None has media to open."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tests.torture.odd_file import OddFile

GOOD = {"image_id": "1", "question": "What is it?", "answer": "A square."}
TURNS = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]


def _text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.write_bytes(text.encode(encoding))


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _lines(path: Path, *values: object) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def _without(key: str, **more: object) -> dict[str, object]:
    return {**{name: value for name, value in GOOD.items() if name != key}, **more}


_DEEP = "[" * 100_000 + "]" * 100_000

QUESTIONS = (
    OddFile("plain.json", partial(_json, value=[GOOD])),
    OddFile("number_as_id.json", partial(_json, value=[{**GOOD, "image_id": 1}])),
    OddFile("more_keys.json", partial(_json, value=[{**GOOD, "licence": 4, "nested": {"a": [1]}}])),
    OddFile("byte_order_mark.json", partial(_text, text="\ufeff" + json.dumps([GOOD]))),
    OddFile("lines.jsonl", lambda path: _lines(path, GOOD, GOOD)),
    OddFile("blank_lines.jsonl", partial(_text, text=f"\n{json.dumps(GOOD)}\n\n\r\n{json.dumps(GOOD)}")),
    OddFile("cut.json", partial(_text, text=json.dumps([GOOD])[:40]), reads=False, message="is not valid JSON"),
    OddFile(
        "cut.jsonl", partial(_text, text=json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:30]), reads=False, message="line 2"
    ),
    OddFile("comma_after_last.json", partial(_text, text="[1, 2,]"), reads=False, message="line 1"),
    OddFile("one_record.json", partial(_json, value=GOOD), reads=False, message="expected a list"),
    OddFile("words.json", partial(_json, value=["What is it?"]), reads=False, message="expected an object"),
    OddFile("no_id.json", partial(_json, value=[_without("image_id")]), reads=False, message="has no"),
    OddFile(
        "misspelled.json",
        partial(_json, value=[GOOD, _without("question", qestion="x")]),
        reads=False,
        message="did you mean",
    ),
    OddFile("null_answer.json", partial(_json, value=[{**GOOD, "answer": None}]), reads=False, message="answer"),
    OddFile(
        "uneven_lists.json",
        partial(_json, value=[{**GOOD, "question": ["a", "b"], "answer": ["c"]}]),
        reads=False,
        message="2 questions",
    ),
    OddFile("id_is_list.json", partial(_json, value=[{**GOOD, "image_id": ["1"]}]), reads=False, message="image_id"),
    OddFile("empty_list.json", partial(_json, value=[]), reads=False, message="no samples"),
    OddFile("empty.json", partial(_text, text=""), reads=False, message="is empty"),
    OddFile(
        "latin_1.json",
        partial(_text, text='[{"question": "Größe"}]', encoding="latin-1"),
        reads=False,
        message="latin_1.json",
    ),
    OddFile("zeros.json", lambda path: path.write_bytes(bytes(999)), reads=False, message="zeros.json"),
    OddFile("too_deep.json", partial(_text, text=_DEEP), reads=False, message="too_deep.json"),
    OddFile("page.json", partial(_text, text="<html>Sign in to continue</html>"), reads=False, message="web page"),
)

RECORDS = (
    OddFile("plain.jsonl", lambda path: _lines(path, {"messages": TURNS})),
    OddFile("misspelled_key.jsonl", lambda path: _lines(path, {"mesages": TURNS}), reads=False, message="line 1"),
    OddFile(
        "unknown_role.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "robot", "content": "x"}]}),
        reads=False,
        message="robot",
    ),
    OddFile("no_answer.jsonl", lambda path: _lines(path, {"messages": TURNS[:1]}), reads=False, message="line 1"),
    OddFile(
        "unknown_part.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "user", "content": [{"type": "smell"}]}, TURNS[1]]}),
        reads=False,
        message="smell",
    ),
    OddFile(
        "part_without_path.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]]}),
        reads=False,
        message="path",
    ),
    OddFile(
        "second_line_wrong.jsonl",
        lambda path: _lines(path, {"messages": TURNS}, {"messages": "hello"}),
        reads=False,
        message="line 2",
    ),
    OddFile("list_inside.jsonl", lambda path: _lines(path, [TURNS]), reads=False, message="line 1"),
)
