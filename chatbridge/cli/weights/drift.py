"""`chatbridge weights drift --cfg-path CFG`: how far the language model in 8 or 4 bit is from full precision."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.cli.arguments import add_gpu_id, add_options
from chatbridge.common.errors import ConfigError, Problem, reported_at
from chatbridge.experiment.build import BuiltChat, build_chat
from chatbridge.experiment.open import as_trained, config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.models.component_tensors import stored_bits
from chatbridge.models.language._drift import Drift, drift, next_token_logprobs, weight_bytes
from chatbridge.models.tensor_headers import readable_size

FORMS = {  # name -> settings of the language model
    "8bit": {"load_in_8bit": True, "load_in_4bit": False, "quantizer": "bitsandbytes"},
    "4bit": {"load_in_8bit": False, "load_in_4bit": True, "quantizer": "bitsandbytes"},
    "8bit-torchao": {"load_in_8bit": True, "load_in_4bit": False, "quantizer": "torchao"},
}
FULL = {"load_in_8bit": False, "load_in_4bit": False, "quantizer": "bitsandbytes"}
MOST_TOKENS = 512  # of one text
PROBES = (  # what a chat is about: descriptions, questions, instructions, dialogue, numbers
    "A brown dog runs across a wet street while two people under a red umbrella wait for the bus.",
    "The video shows a woman who cuts an onion, wipes her eyes, and then puts the pieces into a pan with hot oil.",
    "What do you hear? A train passes in the distance, a door closes, and somebody laughs quietly.",
    "Explain in three sentences why the sky is blue during the day and red in the evening.",
    "Question: how many apples are left if there were twelve and five were eaten? Answer: seven.",
    "Human: can you describe the picture? Assistant: it shows a small harbour with four sailing boats at sunset.",
    "The meeting was moved from Monday, 3 May, at 10:30 to Tuesday at 14:00 because the room was not free.",
    "First beat the eggs, then add the flour little by little, and bake the cake for forty minutes at 180 degrees.",
)


@dataclass(frozen=True)
class Measured:
    """One form of the language model on the texts."""

    logprobs: list[Tensor]  # float[n, V] of each text
    num_bytes: int
    bits: int | None
    notes: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the language model in full precision, then in each form, one after the other, and compare the distributions
    of the next token on a set of texts. Adapters and trained tensors of a checkpoint are in it.
    """
    given = _parser().parse_args(arguments)
    if given.cfg_path is None and given.checkpoint is None:
        raise ConfigError([Problem("--cfg-path", "is missing", hint="give it, or --checkpoint with a run folder")])
    texts = _texts(given.texts)
    options = as_trained(given.options) if given.cfg_path is None else given.options
    path = given.cfg_path or config_of(given.checkpoint)
    config = open_chat(path, options, given.checkpoint).config
    ids, full = _measured(config, FULL, texts, given.gpu_id)
    rows = [
        ("form", "memory", "same choice", "KL (nats)", "perplexity"),
        ("full", readable_size(full.num_bytes), "", "", ""),
    ]
    for name in given.forms:
        _, found = _measured(config, FORMS[name], texts, given.gpu_id)
        if found.bits is None:  # bitsandbytes does not run here, as its note tells
            print("\n".join(found.notes))
            rows.append((name, "not in effect", "", "", ""))
            continue
        rows.append((name, readable_size(found.num_bytes), *_cells(drift(ids, full.logprobs, found.logprobs))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(
        "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )
    )
    num_tokens = sum(max(len(one) - 1, 0) for one in ids)
    print(f"{len(ids)} texts, {num_tokens} predicted tokens; perplexity as a multiple of full precision's")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatbridge weights drift", description=main.__doc__)
    parser.add_argument("--cfg-path", type=Path, metavar="X.yaml", help="the model")
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="a run folder or step_*: its trained tensors")
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=list(FORMS), help="default: all of them")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="texts to probe with, one per line; default: eight")
    add_gpu_id(parser)
    add_options(parser)
    return parser


def _texts(file: Path | None) -> list[str]:
    """raises ConfigError for a file that cannot be read or has no text"""
    if file is None:
        return list(PROBES)
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("--texts", f"{file} cannot be read: {error}")]) from None
    if not found:
        raise ConfigError([Problem("--texts", f"{file} has no text", hint="one text per line")])
    return found


def _measured(
    config: Chat, form: dict[str, Any], texts: Sequence[str], gpu_id: int | None
) -> tuple[list[list[int]], Measured]:
    """The ids of the texts, and one form of the model on them; its memory is free afterwards."""
    choice: Any = config.model.language
    if not hasattr(choice.config, "load_in_8bit"):
        message = f"{choice.name} has no weights in 8 or 4 bit"
        raise ConfigError([Problem("model.language", message, hint="use causal_lm")])
    language = replace(choice, config=replace(choice.config, **form))
    changed = replace(config, model=replace(config.model, language=language))
    with reported_at("model.language"):
        built: BuiltChat = build_chat(changed, gpu_id, has_generator=False)
    start = [] if built.layout.tokenizer.bos_id is None else [built.layout.tokenizer.bos_id]
    ids = [[*start, *built.layout.tokenizer.encode(text)][:MOST_TOKENS] for text in texts]
    model = built.model
    with model._precision():
        logprobs = next_token_logprobs(model.language, ids)
    notes = tuple(line for line in built.lines if "NOT in effect" in line)
    found = Measured(logprobs, weight_bytes(model.language), stored_bits(model), notes)
    del built, model
    gc.collect()
    return ids, found


def _cells(found: Drift) -> tuple[str, str, str]:
    return f"{found.same_choice:.1%}", f"{found.kl:.5f}", f"x {found.perplexity_ratio:.4f}"
