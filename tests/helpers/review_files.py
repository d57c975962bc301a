"""A small review in the released layouts: six questions about three images, two files of answers, rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.tiny_media import write_json

CATEGORIES = ("conv", "detail")


class ReviewWorld:
    """Paths of the files, and the command line of a review."""

    def __init__(self, folder: Path, count: int = 6) -> None:
        self.folder, self.count = folder, count
        self.questions = [self.question(number) for number in range(count)]
        contexts = [{"id": f"{n}", "image": f"{n:012}.jpg", "captions": [f"caption {n}", "another"],
                     "instances": [{"category": "cat", "bbox": [0.1, 0.25, 0.5, 1.0]}]}
                    for n in range((count + 1) // 2)]  # fmt: skip
        self.write("questions", self.questions)
        self.write("context", contexts)
        self.write("one", [{"question_id": n, "text": f"answer one {n}"} for n in range(count)])
        self.write("two", [self.answer(n) for n in range(count)])
        rules = {name: {"role": "Assistant", "prompt": f"Rate the {name}."} for name in (*CATEGORIES, "default")}
        write_json(folder / "rules.json", rules)

    def question(self, number: int) -> dict[str, Any]:
        return {"question_id": number, "image": f"{number // 2:012}.jpg", "text": f"question {number} ?",
                "category": CATEGORIES[number % 2]}  # fmt: skip

    def answer(self, number: int) -> dict[str, Any]:
        return {"question_id": number, "prompt": f"question {number} ?", "text": f"answer two {number}",
                "answer_id": f"id{number}", "model_id": "tiny", "metadata": {}}  # fmt: skip

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def write(self, name: str, records: list[dict[str, Any]]) -> Path:
        return write_json(self.path(name), records)

    def command(self, url: str, *more: str) -> list[str]:
        """`chatbridge review judge` without waiting between requests."""
        return ["review", "judge", "--questions", str(self.path("questions")), "--context", str(self.path("context")),
                "--answers", str(self.path("one")), str(self.path("two")), "--rules", str(self.folder / "rules.json"),
                "--model", "judge-1", "--base-url", url, "--out", str(self.path("reviews")), "--first-wait", "0.02",
                "--requests-per-minute", "1000000", *more]  # fmt: skip
