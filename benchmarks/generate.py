"""Our decode loop against transformers' generate, and a batch against one prompt at a time.

`python benchmarks/generate.py [--json FILE] [--device cuda]` prints two tables, in under a minute on a quiet 2-core
machine:

    families    a small random model of each in fp32: whether greedy ids equal transformers', alone and in a batch of
                prompts of different lengths, and the time of our loop and of transformers' for one prompt
    throughput  a model in bf16 whose weights are larger than the processor's cache, so that reading them is what a
                token costs: one prompt by both loops, eight prompts together against one after the other, and a
                dialogue of four turns against the reference's way, which reads it again at every turn. (In fp32
                torch 2.11 multiplies eight rows by a matrix at two to four times the cost of one, on the processor
                this was written on: no loop could give eight prompts four times the throughput of one.)

All sides of a ratio run in turns in one process, and a ratio is the median over rounds. Times are by the wall clock:
run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.safe_files import replace_text
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation

SIZES = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "eos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen3": {},
    "gpt2": {"n_embd": 128, "n_layer": 4, "n_head": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 256, "word_embed_proj_dim": 128},
    "gemma2": {"sliding_window": 8},
}
LARGE = {**SIZES, "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
         "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64}  # fmt: skip
WANTED = {"transformers / ours": 1.0, "batch of 8 / one at a time": 4.0, "dialogue, reference / ours": 1.0}


def random_model(family: str, sizes: dict[str, Any], device: str, dtype: torch.dtype) -> CausalLM:
    """Weights four times as large as transformers draws them: answers then differ from token to token."""
    torch.manual_seed(0)
    language = CausalLM(CausalLM.Config(architecture={"model_type": family, **sizes})).eval()
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return language.to(device, dtype)


def prompts(sizes: dict[str, Any], device: str, longest: int) -> list[Tensor]:
    """Eight of different lengths."""
    draw = torch.Generator().manual_seed(1)
    lengths = [longest - 2 * row for row in range(8)]
    return [torch.randint(3, sizes["vocab_size"], (length,), generator=draw).to(device) for length in lengths]


def ours(language: CausalLM, rows: Sequence[Tensor], num_new: int) -> list[list[int]]:
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(longest, device=row.device) >= longest - len(row) for row in rows])
    with torch.no_grad():
        given = EmbeddedPrompts(language.embed(ids), mask if len(rows) > 1 else None)
    growing = start_generation(language, given, GenerateOptions(max_new_tokens=num_new))
    while not growing.is_done:
        growing.step()
    return growing.answers


def of_transformers(language: CausalLM, row: Tensor, num_new: int) -> list[int]:
    settings = {"do_sample": False, "max_new_tokens": num_new, "min_new_tokens": num_new, "pad_token_id": 0}
    return language.lm.generate(row[None], attention_mask=torch.ones_like(row)[None], **settings)[
        0, len(row) :
    ].tolist()


def dialogue(language: CausalLM, turns: Sequence[Tensor], num_new: int) -> list[list[int]]:
    """Our answers to the turns of one dialogue; the cache keeps what was read."""
    cache, found = language.new_cache(), list[list[int]]()
    for turn in turns:
        unread = turn if not found else torch.cat([turn.new_tensor(found[-1][-1:]), turn])
        with torch.no_grad():
            given = EmbeddedPrompts(language.embed(unread[None]), None)
        growing = start_generation(language, given, GenerateOptions(max_new_tokens=num_new), cache=cache)
        while not growing.is_done:
            growing.step()
        found.append(growing.answers[0])
    return found


def dialogue_of_reference(language: CausalLM, turns: Sequence[Tensor], num_new: int) -> list[list[int]]:
    """As the demo of MiniGPT-4 and ChatBridge answers: every turn reads the whole dialogue again, through transformers'
    generate with embeddings and a criterion that compares the last ids with two stop sequences after every token."""
    from transformers import StoppingCriteriaList

    stops = [turns[0].new_tensor([-5]), turns[0].new_tensor([-6, -7])]

    def is_stop(ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return any(bool((ids[0, -len(stop) :] == stop).all()) for stop in stops if ids.shape[1] >= len(stop))

    whole, found = turns[0][:0], list[list[int]]()
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": num_new, "min_new_tokens": num_new,
                                "pad_token_id": 0}  # fmt: skip
    for turn in turns:
        whole = torch.cat([whole, turn])
        with torch.no_grad():
            embeds = language.embed(whole[None])
            mask = torch.ones_like(whole)[None]
            criteria = StoppingCriteriaList([is_stop])  # pyright: ignore[reportArgumentType]
            new = language.lm.generate(
                inputs_embeds=embeds, attention_mask=mask, stopping_criteria=criteria, **settings
            )
        found.append(new[0].tolist())
        whole = torch.cat([whole, new[0]])
    return found


def seconds(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every side in every round; the first round is not counted."""
    found = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            taken = seconds(run, device)
            if number:
                found[name].append(taken)
    return found


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def family_row(family: str, device: str, num_new: int = 24) -> dict[str, Any]:
    sizes = {key: value for key, value in {**SIZES, **FAMILIES[family]}.items() if value is not None}
    language, rows = random_model(family, sizes, device, torch.float32), prompts(sizes, device, 24)
    language.lm.config.eos_token_id = language.lm.generation_config.eos_token_id = None
    alone = [of_transformers(language, row, num_new) for row in rows]
    one = rows[0]
    sides = {"ours": lambda: ours(language, [one], num_new), "hf": lambda: of_transformers(language, one, num_new)}
    return {
        "family": family,
        "equal alone": [ours(language, [row], num_new)[0] for row in rows] == alone,
        "equal in a batch": ours(language, rows, num_new) == alone,
        "different ids": len({new for answer in alone for new in answer}),
        "transformers / ours": ratio(in_turns(sides, 3, device), "hf", "ours"),
    }


def throughput(device: str, rounds: int, num_new: int) -> dict[str, Any]:
    language = random_model("llama", LARGE, device, torch.bfloat16)
    language.lm.config.eos_token_id = language.lm.generation_config.eos_token_id = None
    rows = prompts(LARGE, device, 32)
    found: dict[str, Any] = {}

    def keep(name: str, answers: list[list[int]]) -> None:
        found[name] = answers

    sides = {
        "transformers, 1": lambda: keep("transformers", [of_transformers(language, rows[0], num_new)]),
        "ours, 1": lambda: keep("ours", ours(language, rows[:1], num_new)),
        "ours, 8 one at a time": lambda: keep("apart", [ours(language, [row], num_new)[0] for row in rows]),
        "ours, 8 together": lambda: keep("together", ours(language, rows, num_new)),
    }
    turns = [row[:length] for row, length in zip(prompts(LARGE, device, 128), (96, 16, 16, 16), strict=False)]
    sides |= {
        "reference, 4 turns": lambda: keep("reference", dialogue_of_reference(language, turns, num_new)),
        "ours, 4 turns": lambda: keep("dialogue", dialogue(language, turns, num_new)),
    }
    times = in_turns(sides, rounds, device)
    num_rows = {"transformers, 1": 1, "ours, 1": 1, "ours, 8 one at a time": 8, "ours, 8 together": 8}
    num_rows |= {"reference, 4 turns": 4, "ours, 4 turns": 4}
    return {
        "parameters": sum(parameter.numel() for parameter in language.parameters()),
        "bytes": sum(parameter.nbytes for parameter in language.parameters()),
        "tokens/s": {name: num_rows[name] * num_new / statistics.median(taken) for name, taken in times.items()},
        "transformers / ours": ratio(times, "transformers, 1", "ours, 1"),
        "batch of 8 / one at a time": ratio(times, "ours, 8 one at a time", "ours, 8 together"),
        "dialogue, reference / ours": ratio(times, "reference, 4 turns", "ours, 4 turns"),
        "same ids as the reference": _same(found["dialogue"], found["reference"]),
        "equal to transformers": found["transformers"] == found["ours"],
        "same ids together as apart": _same(found["together"], found["apart"]),
    }


def _same(some: list[list[int]], others: list[list[int]]) -> float:
    """Share of the answers that are equal: in bf16, rounding differs between a batch and a single prompt."""
    return sum(one == other for one, other in zip(some, others, strict=True)) / len(some)


def print_tables(families: list[dict[str, Any]], large: dict[str, Any]) -> None:
    print("| family | equal alone | equal in a batch of 8 | different ids | transformers / ours, 1 prompt |")
    print("|---|---|---|---|---|")
    for row in families:
        alone, together = ("yes" if row[key] else "NO" for key in ("equal alone", "equal in a batch"))
        print(f"| {row['family']} | {alone} | {together} | {row['different ids']} | {row['transformers / ours']:.2f} |")
    print(f"\nLlama of {large['parameters'] / 1e6:.0f} million parameters, {large['bytes'] / 1e6:.0f} MB:\n")
    print("| side | tokens/s |\n|---|---|")
    for name, rate in large["tokens/s"].items():
        print(f"| {name} | {rate:.1f} |")
    print("\n| ratio | measured | wanted |\n|---|---|---|")
    for name, wanted in WANTED.items():
        print(f"| {name} | {large[name]:.2f} | {wanted:.1f} |")
    print(f"\nids equal to transformers: {'yes' if large['equal to transformers'] else 'NO'}; ", end="")
    print(
        f"answers of the batch equal to those one at a time: {large['same ids together as apart']:.0%} (bf16); "
        f"turns of the dialogue equal to the reference's: {large['same ids as the reference']:.0%}"
    )


def main() -> int:
    """Exit code 1 when ids differ, whatever the times are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; 1 gives the most stable times next to other programs"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of the throughput table, after one that is not counted")
    parser.add_argument("--new", type=int, default=24, help="new tokens of an answer in the throughput table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    families = [family_row(family, given.device) for family in FAMILIES]
    large = throughput(given.device, given.rounds, given.new)
    print_tables(families, large)
    if given.json is not None:
        settings = {"device": given.device, "threads": given.threads, "torch": torch.__version__}
        replace_text(given.json, json.dumps({**settings, "families": families, "throughput": large}, indent=2))
    is_equal = all(row["equal alone"] and row["equal in a batch"] for row in families)
    return 0 if is_equal and large["equal to transformers"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
