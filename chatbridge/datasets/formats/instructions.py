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

from chatbridge.datasets.formats.dialogues import rounds, sharegpt
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.records import DialogueRecord, Format, Turn, each

PREAMBLES = {  # by whether there is an input; the published prompts of Stanford Alpaca
    True: "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
}
SPEAKER = re.compile(r"\[\|(Human|AI)\|\]")


def _alpaca(fields: Fields, preamble: bool = False) -> DialogueRecord:
    text, turns = fields.texts("input"), _turns(fields, "input", "output")
    system = (("system", PREAMBLES[bool(text)]),) if preamble else ()
    return DialogueRecord(turns=(*system, *turns), details=fields.kept("category"))


def _dolly(fields: Fields) -> DialogueRecord:
    return DialogueRecord(turns=_turns(fields, "context", "response"), details=fields.kept("category"))


def _turns(fields: Fields, context: str, answer: str) -> tuple[Turn, ...]:
    """The instruction, followed by its input on lines of its own, and the answer."""
    parts = fields.text("instruction").strip(), "\n".join(fields.texts(context)).strip()
    return rounds([("\n\n".join(filter(None, parts)), fields.text(answer))])


def _baize(fields: Fields) -> DialogueRecord:
    _, *pieces = SPEAKER.split(fields.text("input"))
    if not pieces:
        raise BadRecord("'input' has no [|Human|] and [|AI|]")
    turns = (
        ("user" if speaker == "Human" else "assistant", text.strip())
        for speaker, text in zip(pieces[::2], pieces[1::2])
    )
    return DialogueRecord(turns=tuple(turn for turn in turns if turn[1]), details=fields.kept("topic"))


INSTRUCTION_FORMATS = {
    "alpaca": Format(each(_alpaca, ""), ("preamble",)),
    "dolly": Format(each(_dolly, "")),
    "baize": Format(each(_baize, "")),
    "sharegpt": Format(sharegpt),
}
