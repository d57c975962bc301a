"""Odd annotation files: JSON lists and lines for the builders `questions` and `records`. None has media to open."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tests.torture.files import Odd

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
    Odd("plain.json", partial(_json, value=[GOOD])),
    Odd("number_as_id.json", partial(_json, value=[{**GOOD, "image_id": 1}])),
    Odd("more_keys.json", partial(_json, value=[{**GOOD, "licence": 4, "nested": {"a": [1]}}])),
    Odd("byte_order_mark.json", partial(_text, text="\ufeff" + json.dumps([GOOD]))),
    Odd("lines.jsonl", lambda path: _lines(path, GOOD, GOOD)),
    Odd("blank_lines.jsonl", partial(_text, text=f"\n{json.dumps(GOOD)}\n\n\r\n{json.dumps(GOOD)}")),
    Odd("cut.json", partial(_text, text=json.dumps([GOOD])[:40]), reads=False, says="is not valid JSON"),
    Odd("cut.jsonl", partial(_text, text=json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:30]), reads=False, says="line 2"),
    Odd("comma_behind_last.json", partial(_text, text="[1, 2,]"), reads=False, says="line 1"),
    Odd("one_record.json", partial(_json, value=GOOD), reads=False, says="expected a list"),
    Odd("words.json", partial(_json, value=["What is it?"]), reads=False, says="expected an object"),
    Odd("no_id.json", partial(_json, value=[_without("image_id")]), reads=False, says="has no"),
    Odd(
        "misspelled.json",
        partial(_json, value=[GOOD, _without("question", qestion="x")]),
        reads=False,
        says="did you mean",
    ),
    Odd("null_answer.json", partial(_json, value=[{**GOOD, "answer": None}]), reads=False, says="answer"),
    Odd(
        "uneven_lists.json",
        partial(_json, value=[{**GOOD, "question": ["a", "b"], "answer": ["c"]}]),
        reads=False,
        says="2 questions",
    ),
    Odd("id_is_list.json", partial(_json, value=[{**GOOD, "image_id": ["1"]}]), reads=False, says="image_id"),
    Odd("empty_list.json", partial(_json, value=[]), reads=False, says="no samples"),
    Odd("empty.json", partial(_text, text=""), reads=False, says="is empty"),
    Odd(
        "latin_1.json",
        partial(_text, text='[{"question": "Größe"}]', encoding="latin-1"),
        reads=False,
        says="latin_1.json",
    ),
    Odd("zeros.json", lambda path: path.write_bytes(bytes(999)), reads=False, says="zeros.json"),
    Odd("too_deep.json", partial(_text, text=_DEEP), reads=False, says="too_deep.json"),
    Odd("page.json", partial(_text, text="<html>Sign in to continue</html>"), reads=False, says="web page"),
)

RECORDS = (
    Odd("plain.jsonl", lambda path: _lines(path, {"messages": TURNS})),
    Odd("misspelled_key.jsonl", lambda path: _lines(path, {"mesages": TURNS}), reads=False, says="line 1"),
    Odd(
        "unknown_role.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "robot", "content": "x"}]}),
        reads=False,
        says="robot",
    ),
    Odd("nobody_answers.jsonl", lambda path: _lines(path, {"messages": TURNS[:1]}), reads=False, says="line 1"),
    Odd(
        "unknown_part.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "user", "content": [{"type": "smell"}]}, TURNS[1]]}),
        reads=False,
        says="smell",
    ),
    Odd(
        "part_without_path.jsonl",
        lambda path: _lines(path, {"messages": [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]]}),
        reads=False,
        says="path",
    ),
    Odd(
        "second_line_wrong.jsonl",
        lambda path: _lines(path, {"messages": TURNS}, {"messages": "hello"}),
        reads=False,
        says="line 2",
    ),
    Odd("list_inside.jsonl", lambda path: _lines(path, [TURNS]), reads=False, says="line 1"),
)
