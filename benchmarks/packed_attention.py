"""What packed rows cost on this processor, by the implementation of attention.

`python benchmarks/packed_attention.py [--json FILE]`: forward and backward of a small Llama over eight dialogues of one
to three rounds with 32 media positions each, padded to the longest, and packed into one row: with a dense mask (sdpa),
and by the borders of conversations (varlen). FlexAttention runs forward alone, compiled where there is a compiler:
torch 2.11 has no backward of it on a CPU. Losses are compared first. One thread, processor time, sides in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import in_rounds, spread
from torch.nn import functional as F

from chatbridge.common.safe_files import replace_text
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation import varlen_attention
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import pack
from chatbridge.models.language.causal_lm import CausalLM

SIZES = {
    "model_type": "llama", "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 8, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
MEDIA, QUESTION, ANSWER, SIGMA = 32, 12, 35, 0.6  # positions; medians of log-normal lengths


def dialogues(count: int) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [_dialogue(rng) for _ in range(count)]


def _dialogue(rng: np.random.Generator) -> TokenSequence:
    ids = rng.integers(3, 8000, MEDIA).tolist()
    sequence = TokenSequence(ids)
    for _ in range(rng.integers(1, 4)):
        question, answer = (max(1, int(median * np.exp(rng.normal(0, SIGMA)))) for median in (QUESTION, ANSWER))
        ids += rng.integers(3, 8000, question + answer).tolist()
        sequence.predict_at += range(len(ids) - answer - 1, len(ids) - 1)
        sequence.target += ids[-answer:]
    sequence.positions = list(range(len(ids)))
    return sequence


def loss(model: CausalLM, batch: Batch) -> torch.Tensor:
    hidden = model(model.embed(batch.ids), batch.positions, batch.segments).flatten(0, 1)
    return F.cross_entropy(model.logits(hidden[batch.predict_at]), batch.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    varlen_attention.register()
    model = CausalLM(CausalLM.Config(architecture=SIZES))
    found = compare(model, dialogues(asked.batch), asked.rounds)
    print(f"\n{found['tokens']} tokens of {asked.batch} dialogues\n\n| | positions | seconds |\n|---|---|---|")
    for name, one in found["sides"].items():
        print(f"| {name} | {one['positions']} | {one['seconds']} |")
    if asked.json:
        replace_text(asked.json, json.dumps(found, indent=2))


def compare(model: CausalLM, rows: list[TokenSequence], rounds: int) -> dict[str, Any]:
    samples = [Sample(str(number), "s", ()) for number in range(len(rows))]
    padded, packed = stack(samples, rows, 0), stack(samples, [pack(rows)], 0)

    def step(name: str, batch: Batch, has_backward: bool = True) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            model.lm.set_attn_implementation(name)
            if not has_backward:
                with torch.no_grad():
                    return loss(model, batch)
            model.zero_grad()
            value = loss(model, batch)
            value.backward()
            return value.detach()

        return run

    sides = {
        "padded, sdpa": step("sdpa", padded),
        "packed, sdpa with a dense mask": step("sdpa", packed),
        "packed, varlen": step("varlen", packed),
        "forward: padded, sdpa": step("sdpa", padded, False),
        "forward: packed, sdpa with a dense mask": step("sdpa", packed, False),
        "forward: packed, varlen": step("varlen", packed, False),
        "forward: packed, flex_attention": step("flex_attention", packed, False),
    }
    want = sides["padded, sdpa"]()
    for name in list(sides):
        try:
            torch.testing.assert_close(sides[name](), want, rtol=1e-5, atol=1e-5)
        except (RuntimeError, NotImplementedError) as error:  # no compiler, or no kernel
            print(f"{name}: {str(error).splitlines()[0]}")
            del sides[name]
    times = in_rounds(sides, rounds)
    positions = {name: (packed if "packed" in name else padded).num_positions for name in sides}
    measured = {name: {"seconds": str(spread(times[name])), "rounds": times[name], "positions": positions[name]}
                for name in sides}  # fmt: skip
    return {"tokens": padded.num_tokens, "sides": measured}


if __name__ == "__main__":
    main()
