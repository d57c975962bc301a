"""The file of raw conversations that `ask` writes: a line per sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, some
from chatbridge.review.json_lines_file import NOT_OURS, JsonLinesFile, Row
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.reply_cache import Reply
from dataset_prep.textbind.image_tags import pairs, turns
from dataset_prep.textbind.record_files import Record

FIELDS = ("id", "response", "image", "image_idx", "url", "request")  # of every line


@dataclass(frozen=True)
class Order:
    """One conversation to ask for.

    sample     the record of `sample`
    examples   ids of the chosen ones
    text       of the request
    """

    sample: Record
    examples: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        return str(self.sample["id"])


def fault_of(reply: Reply) -> str | None:
    """Why a reply is not a conversation with an image; the filters of `clean` look closer."""
    if not reply.content.strip():
        return "empty reply" if reply.finish_reason != "content_filter" else "refused by the content filter"
    if reply.finish_reason == "length":
        return "cut at the token limit"
    if not turns(reply.content):
        return "no turn begins with Human:"
    return None if pairs(reply.content) else "no image is shown"


def row_of(order: Order, reply: Reply, settings: JudgeSettings) -> dict[str, Any]:
    """The raw record of the recipe, then where it comes from.

    request   names model, instructions, examples and images
    """
    given = {key: order.sample[key] for key in ("image", "image_idx", "url")}
    others = {key: value for key, value in order.sample.items() if key not in (*given, "id", "response")}
    return {
        "id": order.id,
        "response": reply.content,
        **given,
        **others,
        "examples": list(order.examples),
        "model": reply.model or settings.model,
        "finish_reason": reply.finish_reason,
        "fault": fault_of(reply),
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
        "request": settings.key(order.text),
    }


def kept_rows(rows: Sequence[Row], orders: Sequence[Order], path: Path, retry_faulty: bool) -> dict[str, Row]:
    """id -> line of the file that stays.

    raises   DataError when a line is about other images than its sample: it belongs to another file of samples
    """
    samples = {order.id: order.sample for order in orders}
    mine = [row for row in rows if str(row["id"]) in samples]
    wrong = [row["id"] for row in mine if row["image"] != samples[str(row["id"])]["image"]]
    if wrong:
        raise DataError(f"{path} holds conversations over other images ({some(wrong)}); {NOT_OURS}")
    return {str(row["id"]): row for row in mine if not (retry_faulty and row.get("fault"))}


def faulty_file(path: Path) -> JsonLinesFile:
    """The replies that were asked for again, beside the file of raw conversations."""
    return JsonLinesFile(path.with_name(f"{path.name.partition('.')[0]}.faulty.jsonl"), FIELDS)


def summary(file: JsonLinesFile, rows: Sequence[Row], total: int) -> str:
    """What the file holds, and what all replies cost so far, those that were asked for again included."""
    faults = Counter(str(row["fault"]) for row in rows if row.get("fault"))
    replaced = faulty_file(file.path).rows(skip_others=True)
    prompt, completion = (
        sum((row.get("usage") or {}).get(name) or 0 for row in (*rows, *replaced))
        for name in ("prompt_tokens", "completion_tokens")
    )
    lines = [f"{file.path}: {len(rows):,} of {total:,} samples; {prompt:,} prompt and {completion:,} completion tokens"
             f" in all, {len(replaced):,} faulty replies replaced"]  # fmt: skip
    lines += [f"  {number:,} are not conversations: {fault}" for fault, number in sorted(faults.items())]
    return "\n".join(lines)
