"""One pipeline of diffusers in memory: read from a folder, called with captions, its images checked."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import nearest
from chatbridge.common.extras import need
from chatbridge.models.generators._pipeline_folder import PipelineFolder, read_pipeline_folder
from chatbridge.models.generators.base import RenderError
from chatbridge.models.hf_folder import said

PURPOSE = "images drawn by a diffusion pipeline"
RANDOM = ("not initialized from the model checkpoint", "newly initialized", "MISSING")  # of warnings at loading
EDITING = ("Img2Img", "Inpaint", "Upscale", "InstructPix2Pix", "ControlNet")  # in names of classes that need an image


class Pipeline:
    """A pipeline on its device; calls report their steps."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.accepted = inspect.signature(type(pipe).__call__).parameters

    def part(self, name: str) -> Any:
        """A component, for another pipeline to use; None if this one has none of that name."""
        return getattr(self.pipe, name, None)

    def settings(self, config: Any, captions: list[str], generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """Arguments of a call; what is left to the pipeline's default is absent."""
        found: dict[str, Any] = {
            "prompt": captions, "generator": list(generators), "num_inference_steps": config.steps, "output_type": "pt"
        }  # fmt: skip
        found |= {} if config.guidance is None else {"guidance_scale": config.guidance}
        found |= {"negative_prompt": [config.negative_prompt] * len(captions)} if config.negative_prompt else {}
        sizes = {name: value for name in ("width", "height") if (value := getattr(config, name)) is not None}
        return found | {name: value for name, value in sizes.items() if name in self.accepted}

    def __call__(self, settings: Mapping[str, Any], watch: Callable[[float], None]) -> Any:
        """The pipeline's output. `watch` receives the finished share after each step; an exception of it passes."""

        def after_step(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            watch((step + 1) / max(getattr(pipe, "num_timesteps", 0) or settings["num_inference_steps"], step + 1))
            return values

        callback = {"callback_on_step_end": after_step} if "callback_on_step_end" in self.accepted else {}
        return self.pipe(**settings, **callback)


def unfit_settings(config: Any) -> Iterator[str]:
    """What the classes of the configured pipelines cannot do, for a Config of `diffusion`. Reads no weights."""
    base = _signature(config.weights)
    if isinstance(base, str):
        yield base
    else:
        kind, accepted = base
        yield from _no_text_to_image(config.weights, kind, accepted)
        for name, value, argument in _optional(config):
            if value and argument not in accepted:
                yield f"{name} is {value!r}, but {kind} has no such setting; remove it"
        if config.refiner is not None and "denoising_end" not in accepted:
            yield f"{kind} cannot leave its last steps to a refiner (no denoising_end); remove refiner"
    if config.refiner is not None:
        found = _signature(config.refiner)
        if isinstance(found, str):
            yield found
        elif not {"image", "denoising_start"} <= set(found[1]):
            yield f"{config.refiner} holds {found[0]}, which cannot continue the images of another pipeline"


def loaded(
    folder: Path,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    without: Collection[str] = (),
    shared: Mapping[str, Any] | None = None,
) -> Pipeline:
    """The pipeline of a folder on its device, or offloaded as configured; nothing is downloaded.

    without   names of parts that it does without
    shared    parts that it takes from another pipeline
    raises    ValueError with the reason when a file is missing or damaged
    """
    diffusers: Any = need("diffusers", PURPOSE)
    found = read_pipeline_folder(folder)
    half = variant_of(found, dtype, (*without, *(shared or ())))
    parts = {**(shared or {}), **{name: None for name in without if name in found.parts}}
    if "safety_checker" in parts:
        parts["requires_safety_checker"] = False
    try:
        with _complete():
            pipe = getattr(diffusers, found.kind).from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, variant="fp16" if half else None, **parts
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors raise many kinds
        raise ValueError(f"the pipeline of {folder} cannot be read: {said(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    _save_memory(pipe, config)
    _place(pipe, config, device)
    return Pipeline(pipe)


def variant_of(found: PipelineFolder, dtype: torch.dtype, without: Collection[str] = ()) -> bool:
    """Whether the weights of the variant fp16 are read: for fp16, or where a folder has no others."""
    return found.has_half(without) and (dtype == torch.float16 or not found.has_full(without))


def pixels_of(output: Any, dtype: torch.dtype) -> list[Tensor]:
    """The images of a pipeline's output, uint8[3, H, W] each on the CPU.

    raises   RenderError for values that are not numbers, a rejected image, or a black one
    """
    rejected = getattr(output, "nsfw_content_detected", None) or ()
    images = [_pixels(image, dtype) for image in output.images]
    if any(rejected):
        raise RenderError("the pipeline's safety checker rejected the image")
    if any(not image.any() for image in images):
        raise RenderError("the pipeline returned a black image")
    return images


def device_named(name: str) -> tuple[torch.device, str]:
    """The device of a setting (cpu, cuda, cuda:1), and why it cannot be used on this machine ("": it can)."""
    device, count = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        had = f"this machine has {count or 'no'} GPU{'' if count == 1 else 's'} that torch can use"
        return device, f"is {name}, but {had}"
    return device, ""


def _signature(folder: Path) -> tuple[str, Mapping[str, Any]] | str:
    """Name and arguments of a pipeline's class; or why there is none."""
    try:
        diffusers: Any = need("diffusers", PURPOSE)
        kind = read_pipeline_folder(folder).kind
    except (ModuleNotFoundError, ValueError) as error:
        return str(error)
    found = getattr(diffusers, kind, None)
    if found is None or not hasattr(found, "from_pretrained"):
        known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
        guess = f"; did you mean {guess}?" if (guess := nearest(kind, known)) else ""
        return f"{folder} names the class {kind}, which diffusers {diffusers.__version__} does not have{guess}"
    return kind, inspect.signature(found.__call__).parameters


def _no_text_to_image(folder: Path, kind: str, accepted: Mapping[str, Any]) -> Iterator[str]:
    if "prompt" not in accepted:
        yield f"{folder} holds {kind}, which does not draw from text"
    elif any(word in kind for word in EDITING):
        yield f"{folder} holds {kind}, which changes a given image; expected a text-to-image pipeline"
    elif "num_frames" in accepted:
        yield f"{folder} holds {kind}, which makes videos; expected a text-to-image pipeline"


def _optional(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Settings that not every pipeline has: (name, value, its argument)."""
    yield "guidance", config.guidance, "guidance_scale"
    yield "negative_prompt", config.negative_prompt, "negative_prompt"
    yield "width", config.width, "width"
    yield "height", config.height, "height"


def _pixels(image: Any, dtype: torch.dtype) -> Tensor:
    if not isinstance(image, Tensor):  # some pipelines know no tensors: PIL images, or arrays of [H, W, 3]
        array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
        image = torch.from_numpy(array.copy()).permute(2, 0, 1)  # [3, H, W]
        image = image / 255 if image.dtype == torch.uint8 else image
    values = image.detach().float().cpu()
    if not torch.isfinite(values).all():
        advice = "; set dtype: bf16 or fp32" if dtype == torch.float16 else ""
        raise RenderError(f"the pipeline computed values that are not numbers{advice}")
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _save_memory(pipe: Any, config: Any) -> None:
    vae: Any = getattr(pipe, "vae", None)
    if config.slicing:
        pipe.enable_attention_slicing()
        if hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
    if config.tiling and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()


def _place(pipe: Any, config: Any, device: torch.device) -> None:
    if device.type == "cpu" or config.offload == "none":
        pipe.to(device)
    elif config.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)


@contextmanager
def _complete() -> Iterator[None]:
    """Turn warnings about weights that are in no file, and would be random, into a ValueError; hide other output."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    notes = _Warnings()
    libraries = (of_diffusers, of_transformers)
    had_bars = [one.is_progress_bar_enabled() for one in libraries]
    for one in libraries:
        one.disable_progress_bar()
        one.get_logger().addHandler(notes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of settings in published files, and of arguments
            yield
    finally:
        for one, had_bar in zip(libraries, had_bars, strict=True):
            one.get_logger().removeHandler(notes)
            if had_bar:
                one.enable_progress_bar()
    if notes.random:
        raise ValueError(f"weights are missing in its files: {notes.random[0]}")


class _Warnings(logging.Handler):
    """Collects warnings about random weights."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.random: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if any(word in message for word in RANDOM):
            self.random.append(" ".join(message.split())[:300])
