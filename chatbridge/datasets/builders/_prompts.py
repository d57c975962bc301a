"""Prompt lists by task tag: {"ti-cap": ["Describe the image.", ...], "ti-shortqa": ["... <QUESTION>", ...]}.

A .txt file is a list of MiniGPT-4, for the tag ti-cap: `<Img><ImageHere></Img> Describe this image.` on every line.
<ImageHere> is the position of the image; <Img> and </Img> belong to the template.

Requests of the builder web_pairs may have the marker of their media, anywhere: `Describe <image>`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from chatbridge.common.errors import Problem, nearest
from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.common.text_repair import repaired_value
from chatbridge.config.shipped import SHIPPED
from chatbridge.conversation.messages import Media, Part, Text
from chatbridge.conversation.modalities import MODALITIES

QUESTION = "<QUESTION>"
IMAGE = "<ImageHere>"


def published_prompts() -> Path:
    """The file with the 105 prompts of ChatBridge, in configs/prompts."""
    files = [root / "prompts" / "multis.json" for root in SHIPPED]
    return next((file for file in files if file.is_file()), files[0])


def _shipped_with(tag: str) -> Path | None:
    """The file in configs/prompts that has prompts for a tag."""
    files = (file for root in SHIPPED for file in sorted((root / "prompts").glob("*.json")))
    return next((file for file in files if tag in read_prompts(file)), None)


@cache
def read_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """tag -> prompts. raises OSError for a file that cannot be read, ValueError for one that is not such a mapping"""
    if (what := other_kind(head_of(path), path)) is not None:
        raise ValueError(f"it {what}")
    if path.suffix == ".txt":
        return {"ti-cap": _alignment_prompts(path.read_text(encoding="utf-8"))}
    table = repaired_value(json.loads(path.read_text(encoding="utf-8-sig")))
    if not isinstance(table, dict):
        raise ValueError("expected a mapping from tags to lists of prompts")
    for tag, prompts in table.items():
        if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"expected a list of prompts for {tag!r}")
    return {tag: tuple(prompts) for tag, prompts in table.items()}


def _alignment_prompts(content: str) -> tuple[str, ...]:
    """The text after the image of every line that has one; other lines are not prompts, as in the reference."""
    prompts = []
    for number, line in enumerate(content.splitlines(), start=1):
        before, marker, text = line.partition(IMAGE)
        if not marker:
            continue
        if before.removesuffix("<Img>").strip():
            raise ValueError(f"line {number} has text before {IMAGE}; a prompt begins with the image")
        prompts.append(text.removeprefix("</Img>").strip())
    if not prompts:
        raise ValueError(f"no line has {IMAGE}")
    return tuple(prompts)


def prompt_problem(path: Path, tag: str, with_question: bool) -> Problem | None:
    """Why this file cannot be used for this tag, or None."""
    try:
        table = read_prompts(path)
    except OSError as error:
        return Problem("prompts", f"{path} cannot be read: {error.strerror}")
    except ValueError as error:
        return Problem("prompts", f"{path} is not a prompt file: {error}")
    if tag not in table:
        shipped, message = _shipped_with(tag), f"{path} has no prompts for the tag {tag!r}"
        hint = f"set prompts: configs/prompts/{shipped.name}" if shipped else None
        return Problem("prompts", message, allowed=tuple(table), nearest=nearest(tag, table), hint=hint)
    for prompt in table[tag]:
        if (QUESTION in prompt) != with_question:
            expected = f"must contain {QUESTION}" if with_question else f"must not contain {QUESTION}"
            return Problem("prompts", f"{path}: a prompt of {tag!r} {expected}: {prompt!r}")
    return None


def request_problem(path: Path, tag: str, modality: str) -> Problem | None:
    """Why this file has no requests with media of one modality, or None."""
    if not tag:
        return Problem("prompts", f"is not used: no tag names {modality} alone", hint="leave it out")
    if (problem := prompt_problem(path, tag, with_question=False)) is not None:
        return problem
    marker = MODALITIES.get(modality).marker
    for prompt in read_prompts(path)[tag]:
        if (count := prompt.count(marker)) > 1:
            return Problem("prompts", f"{path}: a prompt of {tag!r} has {count} {marker}, expected one: {prompt!r}")
    return None


def with_request(item: Media, request: str) -> tuple[Part, ...]:
    """The parts of a question about one item, which is at the marker in the request, without one before it."""
    before, marker, after = request.partition(MODALITIES.get(item.modality).marker)
    texts = (before, after) if marker else ("", request)
    return tuple(part for part in (Text(texts[0]), item, Text(texts[1])) if part is item or part != Text(""))
