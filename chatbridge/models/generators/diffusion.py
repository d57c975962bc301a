"""Images from a text-to-image pipeline of diffusers, with an optional refiner for the last steps.

Stable Diffusion XL as published: a base model and a refiner that shares text_encoder_2 and the VAE of the base; the
base denoises the first 80 % of 40 steps, the refiner the rest, both with the same prompt (Podell et al. 2023, section
2.5: https://arxiv.org/abs/2307.01952; diffusers' "ensemble of expert denoisers").
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from chatbridge.common.errors import Problem
from chatbridge.config.constraints import Range
from chatbridge.models.generators._pipeline import Pipeline, device_named, loaded, pixels_of, unfit_settings
from chatbridge.models.generators._pipeline_folder import pipeline_problems, read_pipeline_folder
from chatbridge.models.generators.base import GENERATORS, Generator, GeneratorConfig, RenderError
from chatbridge.models.hf_folder import resolve_cached_ids
from chatbridge.models.tensor_headers import readable_size

SHARED = ("text_encoder_2", "vae")  # parts of the base that a refiner of Stable Diffusion XL uses
SMALLER = "set offload: model, slicing: true, a smaller size, or another device for model.generator"
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@GENERATORS.register("diffusion")
class Diffusion(Generator):
    """Any text-to-image pipeline of diffusers, from a local folder."""

    @dataclass(frozen=True, kw_only=True)
    class Config(GeneratorConfig):
        # folder of a text-to-image pipeline (with model_index.json), or an owner/name in the local Hugging Face cache
        weights: Path
        # the same of an image-to-image pipeline for the last steps; null: the base does all
        refiner: Path | None = None
        split: Annotated[float, Range(above=0, below=1)] = 0.8  # with a refiner: share of the denoising by the base
        refiner_shares: tuple[str, ...] = SHARED  # parts that the refiner takes from the base instead of its folder
        steps: Annotated[int, Range(low=1)] = 40  # denoising steps, those of the refiner included
        guidance: Annotated[float | None, Range(low=0)] = None  # classifier-free guidance; null: the pipeline's default
        negative_prompt: str = ""  # what images should not show
        width: Annotated[int | None, Range(low=8)] = None  # pixels, a multiple of 8; null: the pipeline's default
        height: Annotated[int | None, Range(low=8)] = None  # pixels, a multiple of 8; null: the pipeline's default
        # auto: the device of the model; or its own: cpu, cuda, cuda:1
        device: str = "auto"
        dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # auto: fp16 on a GPU, fp32 on a CPU
        # images rendered at once when several are asked for. With 1, an image depends on its caption and seed alone;
        # with more, the last bits may differ with the size of the batch
        batch_size: Annotated[int, Range(low=1)] = 1
        # where weights wait. model: each part is on the GPU only while it computes; sequential: each layer, much slower
        offload: Literal["none", "model", "sequential"] = "none"
        slicing: bool = False  # attention in slices, and images decoded one by one: less memory, slower
        tiling: bool = False  # decode large images in tiles: less memory, seams may be visible
        safety_checker: bool = True  # use the pipeline's own, if it has one; an image it rejects is not shown
        load: Literal["first", "start"] = "first"  # read the weights for the first image, or when the model is loaded

        def __post_init__(self) -> None:
            resolve_cached_ids(self, "weights", "refiner")

        @property
        def base_without(self) -> tuple[str, ...]:
            """Parts that are not read from the folder of the base."""
            return () if self.safety_checker else ("safety_checker",)

        @property
        def refiner_without(self) -> tuple[str, ...]:
            """Parts that are not read from the folder of the refiner."""
            return (*self.base_without, *self.refiner_shares)

        @property
        def reads_half(self) -> bool:
            """Whether files in the variant fp16 are preferred, on a GPU."""
            return self.dtype in ("auto", "fp16")

        def problems(self) -> Iterator[Problem]:
            yield from pipeline_problems("weights", self.weights, self.base_without)
            if self.refiner is not None:
                yield from pipeline_problems("refiner", self.refiner, self.refiner_without)
                yield from self._split_problems()
            for name in ("width", "height"):
                if (value := getattr(self, name)) is not None and value % 8:
                    near = f"{value // 8 * 8} or {value // 8 * 8 + 8}"
                    yield Problem(name, f"is {value}, expected a multiple of 8", hint=f"{near} would work")
            if self.device != "auto" and not DEVICE.fullmatch(self.device):
                yield Problem("device", f"is {self.device!r}", allowed=("auto", "cpu", "cuda", "cuda:0, cuda:1 ..."))
            if self.offload != "none" and self.device == "cpu":
                yield Problem("offload", "has no effect on device cpu", hint="remove it, or choose a GPU")

        def _split_problems(self) -> Iterator[Problem]:
            first = round(self.steps * self.split)
            if not 0 < first < self.steps:
                message = f"is {self.split:g}: of {self.steps} steps the base would do {first}, the refiner"
                hint = "raise steps, choose another split, or leave the refiner out"
                yield Problem("split", f"{message} {self.steps - first}; both need one", hint=hint)

        def describe(self) -> str:
            base = _described(self.weights, self.base_without, self.reads_half)
            steps = f"{self.steps} steps"
            if self.refiner is not None:
                base += f", refined by {_described(self.refiner, self.refiner_without, self.reads_half)}"
                steps += f", the base does {self.split:.0%} of the denoising"
            return f"{base}; {steps}"

        def faults(self) -> Iterator[str]:
            if self.device != "auto" and (fault := device_named(self.device)[1]):
                yield f"device {fault}"
            yield from unfit_settings(self)

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self._base: Pipeline | None = None
        self._refiner: Pipeline | None = None
        self._turn = threading.Lock()  # several chats share the pipeline

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Check package, device and settings; the weights follow now or with the first image, see `load`.

        raises   ValueError when the pipeline cannot be used as configured
        """
        config = self.config
        if faults := list(config.faults()):
            raise ValueError("; ".join(faults))
        self._device = device if config.device == "auto" else torch.device(config.device)
        chosen = ("fp32" if self._device.type == "cpu" else "fp16") if config.dtype == "auto" else config.dtype
        self._dtype = DTYPES[chosen]
        when = "read with the first image"
        if config.load == "start":
            try:
                self._pipelines()
            except torch.OutOfMemoryError:
                raise ValueError(f"the memory of {self._device} is full; {SMALLER}") from None
            when = "loaded"
        notes = "; offload has no effect on a CPU" if config.offload != "none" and self._device.type == "cpu" else ""
        return f"generator: diffusion, {config.describe()}, {chosen} on {self._device}, {when}{notes}"

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """uint8[3, H, W] each, see `Generator.render`. raises RenderError for NaN, a black or rejected image"""
        images: list[Tensor] = []
        with self._turn:
            for begin in range(0, len(captions), self.config.batch_size):
                span = slice(begin, begin + self.config.batch_size)
                images += self._batch(list(captions[span]), seeds[span], begin / len(captions), len(captions))
        return images

    def _batch(self, captions: list[str], seeds: Sequence[int], done: float, num_captions: int) -> list[Tensor]:
        share = len(captions) / num_captions
        self.report(done)
        try:
            base, refiner = self._pipelines()
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            first = self.config.split if refiner is not None else 1.0
            settings = base.settings(self.config, captions, generators)
            with torch.autocast(self._device.type, enabled=False):
                if refiner is None:
                    found = base(settings, lambda part: self.report(done + share * part))
                else:
                    early = {"output_type": "latent", "denoising_end": self.config.split}
                    latents = base(settings | early, lambda part: self.report(done + share * first * part))
                    late = {"image": latents.images, "denoising_start": self.config.split}
                    settings = refiner.settings(self.config, captions, generators) | late
                    found = refiner(settings, lambda part: self.report(done + share * (first + (1 - first) * part)))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise RenderError(f"the memory of {self._device} is full; {SMALLER}") from None
        return pixels_of(found, self._dtype)

    def _pipelines(self) -> tuple[Pipeline, Pipeline | None]:
        """The base and the refiner, read now if they are not yet. raises ValueError for files that cannot be read"""
        config = self.config
        if self._base is None:
            base = loaded(config.weights, config, self._device, self._dtype, config.base_without)
            if config.refiner is not None:
                shared = {name: part for name in config.refiner_shares if (part := base.part(name)) is not None}
                without = tuple(name for name in config.refiner_without if name not in config.refiner_shares)
                self._refiner = loaded(config.refiner, config, self._device, self._dtype, without, shared)
            self._base = base
        return self._base, self._refiner


def _described(folder: Path, without: Sequence[str], is_half: bool) -> str:
    try:
        found = read_pipeline_folder(folder)
    except ValueError:
        return str(folder)
    half = found.has_half(without) and is_half
    return f"{found.kind} of {folder} ({readable_size(found.size(half, without))})"
