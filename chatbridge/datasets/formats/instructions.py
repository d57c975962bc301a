"""Text-only instructions.

alpaca     alpaca_data.json: [{"instruction", "input" (often empty), "output"}]; also GPT-4-LLM's and Code Alpaca's.
           `input_header` is the text between instruction and input. `preamble: true` puts Alpaca's opening sentence,
           one with and one without input, before it as the system's.
dolly      databricks-dolly-15k.jsonl: {"instruction", "context" (often empty), "response", "category"} per line.
baize      quora_chat_data.json and its like: [{"topic", "input": "The conversation between human and AI
           assistant.\\n[|Human|] Hi\\n[|AI|] Hello\\n[|Human|] "}]; an open question at the end is left out.
           `line_breaks: remove` deletes the line breaks of questions and answers, as Multimodal-GPT did.
sharegpt   as in formats/dialogues.py.
"""

from __future__ import annotations

import re

from chatbridge.datasets.formats.dialogues import LineBreaks, in_lines, sharegpt
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.records import DialogueRecord, Format, Turn, each, rounds

PREAMBLES = {  # by whether there is an input; the published prompts of Stanford Alpaca
    True: "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
}
INPUT_HEADER = "\n\n"
SPEAKER = re.compile(r"\[\|(Human|AI)\|\]")


def _alpaca(fields: Fields, preamble: bool = False, input_header: str = INPUT_HEADER) -> DialogueRecord:
    text, turns = fields.texts("input"), _turns(fields, "input", "output", input_header)
    system = (("system", PREAMBLES[bool(text)]),) if preamble else ()
    return DialogueRecord(turns=(*system, *turns), details=fields.kept("category"))


def _dolly(fields: Fields, input_header: str = INPUT_HEADER) -> DialogueRecord:
    return DialogueRecord(turns=_turns(fields, "context", "response", input_header), details=fields.kept("category"))


def _turns(fields: Fields, context: str, answer: str, header: str) -> tuple[Turn, ...]:
    """The instruction, followed by the header and its input if there is any, and the answer."""
    parts = fields.text("instruction").strip(), "\n".join(fields.texts(context)).strip()
    return rounds([(header.join(filter(None, parts)), fields.text(answer))])


def _baize(fields: Fields, line_breaks: LineBreaks = "keep") -> DialogueRecord:
    _, *pieces = SPEAKER.split(fields.text("input"))
    if not pieces:
        raise BadRecord("'input' has no [|Human|] and [|AI|]")
    turns = (
        ("user" if speaker == "Human" else "assistant", in_lines(text, line_breaks).strip())
        for speaker, text in zip(pieces[::2], pieces[1::2])
    )
    return DialogueRecord(turns=tuple(turn for turn in turns if turn[1]), details=fields.kept("topic"))


INSTRUCTION_FORMATS = {
    "alpaca": Format(each(_alpaca, ""), ("preamble", "input_header")),
    "dolly": Format(each(_dolly, ""), ("input_header",)),
    "baize": Format(each(_baize, ""), ("line_breaks",)),
    "sharegpt": Format(sharegpt),
}
