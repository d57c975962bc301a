"""Count turns, images, tokens and the diversity of records, for all messages, those of users and of assistants.

    python -m dataset_prep.textbind stats data/textbind/train.json --out data/textbind/stats.json

turns      pairs of messages (messages / 2), per conversation
images     per conversation
tokens     per conversation, without the images: words and punctuation marks, or Moses tokens (--tokenizer moses, by the
           package sacremoses, as the released tool counts)
diversity  for each position of a message, the sum over n = 2, 3, 4 of different n-grams / n-grams of all conversations;
           the mean over the positions, at most 3
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.record_files import Record, read_records

IMAGE = "<image>"
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
SIZES = (2, 3, 4)  # of n-grams
WHO = ("all", "user", "assistant")
Tokenizer = Callable[[str], Sequence[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("records", type=arguments.existing_file, metavar="FILE.json", help="of `reformat` or `split`")
    add("--tokenizer", choices=("words", "moses"), default="words", help="default: words")
    add("--out", type=Path, metavar="STATS.json", help="also write the numbers there")


def run(asked: argparse.Namespace) -> int:
    """raises DataError for a file of something else"""
    if asked.out:
        arguments.refuse_own_input(asked.out, asked.records)
    records = read_records(asked.records)
    conversations = [_messages(asked.records, number, record) for number, record in enumerate(records)]
    found = statistics(conversations, moses() if asked.tokenizer == "moses" else WORD.findall)
    print(f"{asked.records}: {found['conversations']:,} conversations, {found['different_images']:,} different images")
    print(f"{'':<12}" + "".join(f"{who:>12}" for who in WHO))
    for name in ("turns", "images", "tokens", "diversity"):
        values = found[name]
        print(f"{name:<12}" + "".join(f"{values[who]:>12.2f}" if who in values else f"{'':>12}" for who in WHO))
    if asked.out:
        print(write_json(asked.out, {"tokenizer": asked.tokenizer, **found}))
    return 0


def _messages(path: Path, number: int, record: Record) -> list[dict[str, Any]]:
    messages = record.get("conversation")
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) and one.get("role") for one in messages
    ):
        raise DataError(
            f'{path}: record {number} has no "conversation" of {{"role", "content"}}; make the file with `reformat`'
        )
    return [one for one in messages if one["role"] != "system"]


def moses() -> Tokenizer:
    """raises ImportError without the package sacremoses"""
    return need("sacremoses", "Moses tokens").MosesTokenizer(lang="en").tokenize


def statistics(conversations: Sequence[Sequence[dict[str, Any]]], tokens_of: Tokenizer) -> dict[str, Any]:
    """Means per conversation, in the order of the docstring above, and the number of messages at each position."""
    texts = [[tokens_of(one["content"].replace(IMAGE, " ")) for one in messages] for messages in conversations]
    names = {name for messages in conversations for one in messages for name in one.get("image_list") or ()}
    return {
        "conversations": len(conversations),
        "different_images": len(names),
        "turns": {"all": _mean(len(messages) / 2 for messages in conversations)},
        "images": {who: _mean(sum(one["content"].count(IMAGE) for one in messages if _is(one, who))
                              for messages in conversations) for who in WHO},
        "tokens": {who: _mean(sum(len(words) for words, one in zip(found, messages, strict=True) if _is(one, who))
                              for found, messages in zip(texts, conversations, strict=True)) for who in WHO},
        "diversity": {who: diversity(texts, conversations, who) for who in WHO},
        "messages": dict(Counter(str(len(messages)) for messages in conversations)),
    }  # fmt: skip


def diversity(
    texts: Sequence[Sequence[Sequence[str]]], conversations: Sequence[Sequence[dict[str, Any]]], who: str
) -> float:
    """The mean over positions of the sum over n of different n-grams / n-grams, of the messages of `who`."""
    grams: dict[int, dict[int, Counter[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(Counter))
    for found, messages in zip(texts, conversations, strict=True):
        for position, (words, one) in enumerate(zip(found, messages, strict=True)):
            if _is(one, who):
                for size in SIZES:
                    grams[position][size].update(zip(*(words[at:] for at in range(size))))
    return _mean(
        sum(len(counts) / counts.total() for counts in by_size.values() if counts) for by_size in grams.values()
    )


def _is(message: dict[str, Any], who: str) -> bool:
    return who in ("all", message["role"])


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
