"""A small pool of captions in three topics, and a language model's server that writes conversations over its images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOPICS = {
    "bread": ("a loaf of {} bread from the village bakery", "{} bread in the window of a bakery"),
    "boats": ("a {} sailing boat on the sea", "a {} fishing boat far out at sea"),
    "birds": ("a {} bird on the branch of a tree", "a {} bird in the nest of a tree"),
}
COLORS = ("brown", "white", "dark", "small", "large", "old", "pale", "grey")


def captions() -> list[tuple[str, str]]:
    """(topic, caption), 16 of each topic."""
    return [(topic, form.format(color)) for color in COLORS for topic, forms in TOPICS.items() for form in forms]


def write_pairs(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"image": f"{number}.jpg", "caption": caption, "url": f"http://example.invalid/{number}.jpg"}
            for number, (_, caption) in enumerate(captions())]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def given_images(body: dict[str, Any]) -> list[str]:
    """The tagged images that a request ends with."""
    text = body["messages"][-1]["content"]
    return re.findall(r"<img\d+>.*?</img\d+>", text[text.rindex("Images:") :])


def conversation(body: dict[str, Any]) -> str:
    """A conversation over the images of a request; the first two are shown."""
    first, second = given_images(body)[:2]
    return (
        f"Human: Look. {first} What is it?\nAssistant: It is {len(first)}.\nHuman: Another?\nAssistant: Yes. {second}"
    )


def model(odd: dict[int, Any] | None = None) -> Callable[[int, dict[str, Any]], Any]:
    """How a server behaves: conversations, but for the requests of these numbers."""
    return lambda number, body: (odd or {}).get(number) or conversation(body)
