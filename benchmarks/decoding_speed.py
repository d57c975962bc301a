"""Tokens per second of the decode loop beside transformers' generate, on the same model and prompts.

`python benchmarks/decoding_speed.py [--json FILE] [--device cuda] [--sizes tiny,small,large,long]` prints a table, in
about a minute on a quiet 2-core machine:

    transformers, 1 / 8   `generate`, greedy, with one prompt and with eight prompts of the same length
    ours, 1 / 8           the same prompts as one batch of `start_generation`
    joined, 8             eight sequences that were admitted one by one to a running decoding, with prompts of eight
                          lengths up to that one, and released; as the chat engine runs them

Sizes: `tiny` costs what the loop costs (fp32); `small` costs what the processor's products cost; `large` is in bf16 and
larger than the processor's cache, so that reading weights is what a token costs; `long` has a prompt of 1,000 tokens.
Seconds are of whole calls, prompts included; all sides run in turns, and a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generate import in_turns, random_model, ratio
from chatbridge.common.safe_files import replace_text
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.language.decode import Decoding
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and how much it reads and writes."""

    width: int
    layers: int
    vocabulary: int
    prompt: int
    new: int
    dtype: str = "float32"

    def model(self, device: str) -> CausalLM:
        sizes = {
            "vocab_size": self.vocabulary, "hidden_size": self.width, "intermediate_size": self.width * 11 // 4,
            "num_hidden_layers": self.layers, "num_attention_heads": self.width // 32,
            "num_key_value_heads": self.width // 32, "head_dim": 32, "pad_token_id": 0, "tie_word_embeddings": False,
            "max_position_embeddings": 4096,
        }  # fmt: skip
        language = random_model("llama", sizes, device, getattr(torch, self.dtype))
        language.lm.config.eos_token_id = language.lm.generation_config.eos_token_id = None
        return language


SIZES = {
    "tiny": Size(width=64, layers=2, vocabulary=512, prompt=32, new=64),
    "small": Size(width=256, layers=4, vocabulary=2048, prompt=32, new=48),
    "large": Size(width=1024, layers=8, vocabulary=8192, prompt=32, new=24, dtype="bfloat16"),
    "long": Size(width=128, layers=4, vocabulary=512, prompt=1000, new=128),
}
WANTED = {"ours, 1 / transformers, 1": 1.0, "joined, 8 / transformers, 1": 4.0}
RATIOS = (*WANTED, "ours, 8 / transformers, 1", "joined, 8 / transformers, 8", "transformers, 8 / transformers, 1")


def of_transformers(language: CausalLM, ids: Tensor, num_new: int) -> list[list[int]]:
    """Answers to prompts of one length, int64[B, L]."""
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": num_new, "pad_token_id": 0}
    found = language.lm.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found[:, ids.shape[1] :].tolist()


def as_a_batch(language: CausalLM, ids: Tensor, num_new: int) -> list[list[int]]:
    """Answers to prompts of one length, int64[B, L]."""
    with torch.no_grad():
        prompts = EmbeddedPrompts(language.embed(ids))
    growing = start_generation(language, prompts, GenerateOptions(max_new_tokens=num_new))
    while not growing.is_done:
        growing.step()
    return growing.answers


def joined(language: CausalLM, ids: Tensor, num_new: int) -> list[list[int]]:
    """Answers to the rows of int64[B, L], each without one more token of its beginning than the row before."""
    decoding, options = Decoding(language), GenerateOptions(max_new_tokens=num_new)
    with torch.no_grad():
        rows = [decoding.admit(EmbeddedPrompts(language.embed(one[None, at:])), options) for at, one in enumerate(ids)]
    while not decoding.is_done:
        decoding.step()
    found = decoding.answers
    for row in rows:
        decoding.release(row)
    return found


def sides(language: CausalLM, size: Size, device: str) -> dict[str, Callable[[], list[list[int]]]]:
    """What is compared; each returns its answers."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, size.vocabulary, (8, size.prompt), generator=draw).to(device)
    return {
        "transformers, 1": lambda: of_transformers(language, ids[:1], size.new),
        "ours, 1": lambda: as_a_batch(language, ids[:1], size.new),
        "transformers, 8": lambda: of_transformers(language, ids, size.new),
        "ours, 8": lambda: as_a_batch(language, ids, size.new),
        "joined, 8": lambda: joined(language, ids, size.new),
    }


def measured(size: Size, device: str, rounds: int) -> dict[str, Any]:
    """Tokens per second of each side, and the ratios of throughputs."""
    compared = sides(size.model(device), size, device)
    times = in_turns(compared, rounds, device)
    number = {name: int(name[-1]) for name in times}
    found: dict[str, Any] = {
        "tokens/s": {name: number[name] * size.new / statistics.median(taken) for name, taken in times.items()}
    }
    for name in RATIOS:
        over, under = name.split(" / ")
        found[name] = ratio(times, under, over) * number[over] / number[under]
    found["equal"] = compared["transformers, 8"]() == compared["ours, 8"]()
    return found


def print_table(found: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(found.values()))["tokens/s"])
    print(f"| tokens/s | {' | '.join(found)} |\n|---" + "|---" * len(found) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(f"{one['tokens/s'][name]:,.0f}" for one in found.values()) + " |")
    for name in RATIOS:
        wanted = f" (wanted {WANTED[name]:.1f})" if name in WANTED else ""
        print(f"| {name}{wanted} | " + " | ".join(f"{one[name]:.2f}" for one in found.values()) + " |")
    print("| same ids | " + " | ".join("yes" if one["equal"] else "NO" for one in found.values()) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted")
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {', '.join(SIZES)}")
    given = parser.parse_args()
    names = given.sizes.split(",")
    if unknown := [name for name in names if name not in SIZES]:
        parser.error(f"--sizes: {', '.join(unknown)} is none of {', '.join(SIZES)}")
    torch.set_num_threads(given.threads)
    found = {name: measured(SIZES[name], given.device, given.rounds) for name in names}
    print_table(found)
    if given.json is not None:
        settings = {"device": given.device, "threads": given.threads, "torch": torch.__version__}
        sizes = {name: {**asdict(SIZES[name]), **found[name]} for name in names}
        replace_text(given.json, json.dumps({**settings, "sizes": sizes}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
