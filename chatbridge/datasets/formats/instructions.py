"""Instructions in words alone.

alpaca     alpaca_data.json: [{"instruction", "input" (often empty), "output"}]; also GPT-4-LLM's and Code Alpaca's.
           `preamble: true` puts Alpaca's opening sentence, one with and one without input, before it as the system's.
dolly      databricks-dolly-15k.jsonl: {"instruction", "context" (often empty), "response", "category"} per line.
baize      quora_chat_data.json and its like: [{"topic", "input": "The conversation between human and AI
           assistant.\\n[|Human|] Hi\\n[|AI|] Hello\\n[|Human|] "}]; an open question at the end is left out.
sharegpt   as in `dialogues`, text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from chatbridge.datasets.formats.chats import dialogue, rounds, sharegpt
from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, entries
from chatbridge.datasets.formats.json_items import section

PREAMBLES = {  # by whether there is an input; the published prompts of Stanford Alpaca
    True: "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
}
SPEAKER = re.compile(r"\[\|(Human|AI)\|\]")


def alpaca(options: Options) -> Iterator[Entry]:
    read = partial(_instruction, names=("instruction", "input", "output"), with_preamble=options.preamble)
    return entries(section(options.annotations, ""), read)


def dolly(options: Options) -> Iterator[Entry]:
    read = partial(_instruction, names=("instruction", "context", "response"))
    return entries(section(options.annotations, ""), read)


def _instruction(value: Any, names: tuple[str, str, str], with_preamble: bool = False) -> dict[str, Any]:
    """The input stands behind the instruction, on lines of its own."""
    fields = Fields(value)
    told = "\n".join(fields.texts(names[1]))
    words = "\n\n".join(filter(None, (fields.text(names[0]).strip(), told.strip())))
    turns = rounds([(words, fields.text(names[2]))])
    if with_preamble:
        turns.insert(0, {"from": "system", "value": PREAMBLES[bool(told.strip())]})
    return {**dialogue(turns), **fields.kept("category")}


def baize(options: Options) -> Iterator[Entry]:
    return entries(section(options.annotations, ""), _baize)


def _baize(value: Any) -> dict[str, Any]:
    fields = Fields(value)
    _, *pieces = SPEAKER.split(fields.text("input"))
    if not pieces:
        raise Wrong("'input' has no [|Human|] and [|AI|]")
    turns = [
        {"from": "human" if who == "Human" else "gpt", "value": words.strip()}
        for who, words in zip(pieces[::2], pieces[1::2])
    ]
    return {**dialogue([turn for turn in turns if turn["value"]]), **fields.kept("topic")}


INSTRUCTION_FORMATS = {
    "alpaca": Format(alpaca, ("preamble", "unanswered")),
    "dolly": Format(dolly, ("unanswered",)),
    "baize": Format(baize, ("unanswered",)),
    "sharegpt": Format(sharegpt, ("unanswered",)),
}
