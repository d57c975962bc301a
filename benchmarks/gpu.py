"""The parts of benchmarks/gpu.sh: what a GPU makes of a stage-1 step, one part per process, a JSON file per part.

    python -m benchmarks.gpu step --size 7b --out FOLDER    image-text steps with random weights, by component
    python -m benchmarks.gpu step --size modern_8b ...      the same of configs/models/modern_8b.yaml, images only
    python -m benchmarks.gpu attention --out FOLDER         kernels for packed rows against the dense mask
    python -m benchmarks.gpu compile --size 7b --out FOLDER the same steps with compiled decoder layers
    python -m benchmarks.gpu summary --out FOLDER           one table of the files that are there

`--tiny` runs a part with a small network on any device, to test this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_models import SIZES, Size, batches, build, tiny
from chatbridge.common.safe_files import replace_text
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.flops import BatchShape, StepFlops, total

AIMS = {"7b": 171.0, "13b": 99.0}  # samples/s on one H200
MOST_WAIT = 0.03  # share of a step that waits for data
WARM_UP = 3  # steps
KERNELS = ("sdpa", "varlen", "flex_attention", "flash_attention_2", "flash_attention_3")  # the first two on any device


class Clock:
    """Marks in the stream of the device; on a CPU, wall clock."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        """The work since the mark before belongs to `name`."""
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((name, event))
        else:
            self.marks.append((name, time.perf_counter()))

    def milliseconds(self) -> dict[str, float]:
        """Milliseconds by name; empties the clock."""
        if self.is_cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self.marks, self.marks[1:], strict=False):
            taken = before.elapsed_time(after) if self.is_cuda else 1e3 * (after - before)
            found[name] = found.get(name, 0.0) + taken
        self.marks.clear()
        return found


def instrumented(model: ChatModel, clock: Clock) -> None:
    """Let the model's parts mark the clock. In the backward pass, the gradient of the bridge's tokens marks the end of
    language model and loss."""
    encoder, bridge = seeing(model)
    after_bridge = _marks(clock, f"forward bridges.{bridge}")

    def bridge_done(module: nn.Module, args: Any, tokens: Tensor) -> None:
        after_bridge(module, args, tokens)
        if tokens.requires_grad:
            tokens.register_hook(lambda gradient: clock.mark("backward language and head"))

    model.encoders[encoder].register_forward_hook(_marks(clock, f"forward encoders.{encoder}"))
    model.bridges[bridge].register_forward_hook(bridge_done)
    model.language.register_forward_hook(_marks(clock, "forward language"))


def seeing(model: ChatModel) -> tuple[str, str]:
    """The names of the encoder and the bridge of images."""
    route = model.config.routes["image"]
    return route.encoder, route.bridge


def _marks(clock: Clock, name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, args, result: clock.mark(name)


def steps(model: ChatModel, loader: Iterator[Batch], count: int, device: torch.device) -> list[dict[str, float]]:
    """Milliseconds of each step by part, after WARM_UP steps; `data` is the wait for the batch."""
    clock = Clock(device)
    instrumented(model, clock)
    behind = f"backward bridges.{seeing(model)[1]}"
    parameters = list(trainable_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.05, fused=device.type == "cuda")
    found = []
    for number in range(WARM_UP + count):
        start = time.perf_counter()
        batch = next(loader)
        wait = 1e3 * (time.perf_counter() - start)
        begin = time.perf_counter()
        batch = batch.to(device)
        clock.mark("start")
        loss = model(batch)
        clock.mark("forward head")
        (loss.total / loss.count).backward()
        clock.mark(behind)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.mark("optimizer")
        parts = clock.milliseconds()
        if number >= WARM_UP:
            found.append({**parts, "data": wait, "step": 1e3 * (time.perf_counter() - begin) + wait})
    return found


def measure_steps(size: Size, count: int, device: torch.device, compiled: bool = False) -> dict[str, Any]:
    """Samples and tokens per second, share of the matmul rate by component, memory, and the wait for data."""
    model = build(size, device)
    if compiled:
        for layer in model.language.decoder_layers:
            layer.compile(dynamic=True)
    counted = StepFlops(model)
    loader = batches(size, model)
    shape = BatchShape.of(next(loader))
    flops = counted(shape)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = steps(model, loader, count, device)
    median = {name: statistics.median(one.get(name, 0.0) for one in taken) for name in taken[0]}
    rate = matmul_rate(device)
    wait = sum(one["data"] for one in taken) / sum(one["step"] for one in taken)
    return {
        "size": size.name,
        "batch": size.batch,
        "shape": {"rows": shape.rows, "length": shape.length, "points": shape.points},
        "parameters": sum(one.numel() for one in model.parameters()),
        "samples/s": size.batch / (median["step"] / 1e3),
        "tokens/s": shape.rows * shape.length / (median["step"] / 1e3),
        "ms": median,
        "matmul TFLOP/s": rate / 1e12,
        "TFLOP": total(flops).total / 1e12,
        "MFU": total(flops).total / (median["step"] / 1e3) / rate,
        "MFU by component": _shares(flops, median, rate, f"bridges.{seeing(model)[1]}"),
        "data wait": wait,
        "peak bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "planned bytes": planned_bytes(size, shape, device),
        "profile": profile(model, loader, device),
    }


def _shares(flops: Any, ms: dict[str, float], rate: float, bridge: str) -> dict[str, float]:
    forward = {name: (cost.forward, ms.get(f"forward {name}", 0.0)) for name, cost in flops.items()}
    behind = flops["language"].backward + flops["head"].backward
    parts = {f"forward {name}": pair for name, pair in forward.items()} | {
        "backward language and head": (behind, ms.get("backward language and head", 0.0)),
        f"backward {bridge}": (flops[bridge].backward, ms.get(f"backward {bridge}", 0.0)),
    }
    return {name: cost / (taken / 1e3) / rate for name, (cost, taken) in parts.items() if taken > 0}


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of a large bf16 product on the device, the best of five."""
    size = 8192 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(6):
        clock = Clock(device)
        clock.mark("start")
        _ = a @ a
        clock.mark("product")
        best = min(best, clock.milliseconds()["product"] / 1e3)
    return 2 * size**3 / best


def planned_bytes(size: Size, shape: BatchShape, device: torch.device) -> int | None:
    """What `chatbridge plan` predicts for this batch; None where it cannot."""
    try:
        from chatbridge.experiment.plan.memory import MemoryPlanner  # pyright: ignore[reportMissingImports]
        from chatbridge.runners.config import RunConfig
        from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch  # pyright: ignore[reportMissingImports]

        planned = PlannedBatch(
            rows=shape.rows,
            length=shape.length,
            points=shape.points,
            media=shape.media,
            pixel_bytes=frozenset({"image"}),
        )
        planner = MemoryPlanner(build(size, torch.device("meta")), torch.bfloat16, has_gpu=device.type == "cuda")
        return planner.peak(RunConfig(output_dir=Path("runs/gpu"), max_steps=1), planned, 1).total
    except Exception as error:  # a benchmark on a lent machine reports what it has
        print(f"no plan: {error!r}")
        return None


def profile(model: ChatModel, loader: Iterator[Batch], device: torch.device) -> list[dict[str, Any]]:
    """The 25 operations that take most of one step, on the device or on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
    batch = next(loader).to(device)
    with torch.profiler.profile(activities=activities, acc_events=True) as found:
        loss = model(batch)
        (loss.total / loss.count).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda one: -getattr(one, key))
    return [{"name": one.key[:100], "ms": getattr(one, key) / 1e3, "calls": one.count} for one in events[:25]]


def attention(size: Size, device: torch.device) -> dict[str, Any]:
    """Loss, gradient and time of packed rows by attention implementation; sdpa with a dense mask is what they equal."""
    from benchmarks.step_shapes import SMALL, packed, samples

    shapes = SMALL if size.is_tiny else replace(SMALL, vocabulary=8000, width=1024, heads=8, mlp_width=2816)
    batch = packed(samples("dialogues", 32, shapes, seed=1), 32)[0]
    found: dict[str, Any] = {}
    for name in KERNELS if device.type == "cuda" else KERNELS[:2]:
        try:
            found[name] = _packed_row(name, shapes, batch, device)
        except Exception as error:  # not installed, or not on this device: named in the summary
            found[name] = {"reason": f"{type(error).__name__}: {error}"[:300]}
    dense = found["sdpa"]
    for one in found.values():
        if "loss" in one:
            one["relative to sdpa"] = abs(one["loss"] / dense["loss"] - 1.0)
    return found


def _packed_row(name: str, shapes: Any, batch: Batch, device: torch.device) -> dict[str, float]:
    from chatbridge.models.language.causal_lm import CausalLM

    torch.manual_seed(0)
    sizes = {
        "model_type": "llama", "vocab_size": shapes.vocabulary, "hidden_size": shapes.width, "num_hidden_layers": 4,
        "intermediate_size": shapes.mlp_width, "num_attention_heads": shapes.heads,
    }  # fmt: skip
    config = parse(CausalLM.Config, {"architecture": sizes, "attention": name})
    language = CausalLM(config).to(device, torch.bfloat16)
    batch = batch.to(device)
    times, loss, norm = [], 0.0, 0.0
    for _ in range(4):
        embeds = language.embed(batch.ids).detach().requires_grad_()
        clock = Clock(device)
        clock.mark("start")
        states = language(embeds, batch.positions, batch.segments).flatten(0, 1)[batch.predict_at]
        total = nn.functional.cross_entropy(language.logits(states).float(), batch.target)
        total.backward()
        clock.mark("step")
        times.append(clock.milliseconds()["step"])
        assert embeds.grad is not None
        loss, norm = float(total.detach()), float(embeds.grad.float().norm())
    return {"loss": loss, "gradient": norm, "ms": min(times)}


def environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"torch": torch.__version__, "numpy": np.__version__, "device": name, "threads": torch.get_num_threads()}


def summary(folder: Path) -> str:
    """The figures of the files that are there, with their aims."""
    lines = [
        "| part | samples/s | aim | tokens/s | MFU | data wait | peak GB | planned GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(folder.glob("step_*.json")) + sorted(folder.glob("compile_*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        aim = AIMS.get(one["size"])
        cells = (
            file.stem, f"{one['samples/s']:.1f}", "" if aim is None else f"{aim:.0f}", f"{one['tokens/s']:,.0f}",
            f"{one['MFU']:.1%}",
            f"{one['data wait']:.1%}{' above ' + format(MOST_WAIT, '.0%') if one['data wait'] > MOST_WAIT else ''}",
            _gigabytes(one["peak bytes"]), _gigabytes(one["planned bytes"]),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    kernels = folder / "attention.json"
    if kernels.is_file():
        lines += ["", "| attention of packed rows | ms | loss, relative to sdpa |", "|---|---|---|"]
        for name, one in json.loads(kernels.read_text(encoding="utf-8")).items():
            figures = (f"{one['ms']:.2f}", f"{one['relative to sdpa']:.1e}") if "ms" in one else (one["reason"], "")
            lines.append(f"| {name} | {figures[0]} | {figures[1]} |")
    return "\n".join(lines)


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("environment", "step", "attention", "compile", "summary"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--size", default="7b", choices=sorted(SIZES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = tiny(SIZES[given.size]) if given.tiny else SIZES[given.size]
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part == "summary":
        print(summary(given.out))
        return 0
    name, result = given.part, dict[str, Any]()
    if given.part == "environment":
        result = environment(device)
    elif given.part == "attention":
        result = attention(size, device)
    else:
        name = f"{given.part}_{given.size}"
        result = measure_steps(size, given.steps, device, compiled=given.part == "compile")
    replace_text(given.out / f"{name}.json", json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
