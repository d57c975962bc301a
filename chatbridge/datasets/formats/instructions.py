"""Text-only instructions.

alpaca     alpaca_data.json: [{"instruction", "input" (often empty), "output"}]; also GPT-4-LLM's and Code Alpaca's.
           `preamble: true` puts Alpaca's opening sentence, one with and one without input, before it as the system's.
dolly      databricks-dolly-15k.jsonl: {"instruction", "context" (often empty), "response", "category"} per line.
baize      quora_chat_data.json and its like: [{"topic", "input": "The conversation between human and AI
           assistant.\\n[|Human|] Hi\\n[|AI|] Hello\\n[|Human|] "}]; an open question at the end is left out.
sharegpt   as in formats/dialogues.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from chatbridge.datasets.formats.dialogues import rounds, sharegpt
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.records import DialogueRecord, Format, Parsed, parsed

PREAMBLES = {  # by whether there is an input; the published prompts of Stanford Alpaca
    True: "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
}
SPEAKER = re.compile(r"\[\|(Human|AI)\|\]")


def alpaca(annotations: Path, preamble: bool = False) -> Iterator[Parsed[DialogueRecord]]:
    """One record per instruction."""
    read = partial(_instruction, names=("instruction", "input", "output"), has_preamble=preamble)
    return parsed(section(annotations, ""), read)


def dolly(annotations: Path) -> Iterator[Parsed[DialogueRecord]]:
    """One record per instruction."""
    return parsed(section(annotations, ""), partial(_instruction, names=("instruction", "context", "response")))


def _instruction(value: Any, names: tuple[str, str, str], has_preamble: bool = False) -> DialogueRecord:
    """The input follows the instruction, on lines of its own."""
    fields = Fields(value)
    given = "\n".join(fields.texts(names[1])).strip()
    question = "\n\n".join(filter(None, (fields.text(names[0]).strip(), given)))
    system = (("system", PREAMBLES[bool(given)]),) if has_preamble else ()
    return DialogueRecord(
        turns=(*system, *rounds([(question, fields.text(names[2]))])), details=fields.kept("category")
    )


def baize(annotations: Path) -> Iterator[Parsed[DialogueRecord]]:
    """One record per dialogue."""
    return parsed(section(annotations, ""), _baize)


def _baize(value: Any) -> DialogueRecord:
    fields = Fields(value)
    _, *pieces = SPEAKER.split(fields.text("input"))
    if not pieces:
        raise BadRecord("'input' has no [|Human|] and [|AI|]")
    turns = (
        ("user" if speaker == "Human" else "assistant", text.strip())
        for speaker, text in zip(pieces[::2], pieces[1::2])
    )
    return DialogueRecord(turns=tuple(turn for turn in turns if turn[1]), details=fields.kept("topic"))


INSTRUCTION_FORMATS = {
    "alpaca": Format(DialogueRecord, alpaca, ("preamble",)),
    "dolly": Format(DialogueRecord, dolly),
    "baize": Format(DialogueRecord, baize),
    "sharegpt": Format(DialogueRecord, sharegpt),
}
