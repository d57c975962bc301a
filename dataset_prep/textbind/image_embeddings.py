"""The embeddings of images: the features of an encoder of a YAML, pooled."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatbridge.common.errors import ConfigError, MediaError, Problem, nearest
from chatbridge.config.constraints import Choice
from chatbridge.config.schema import parse
from chatbridge.experiment.media_plan import MediaParts
from chatbridge.experiment.open import open_model_file
from chatbridge.models.encoders import Encoder
from chatbridge.models.feature_cache import encoder_settings, file_print
from chatbridge.models.loading import load_component
from dataset_prep.textbind.pool import Embed, Pair, unit


def image_embedder(asked: argparse.Namespace) -> tuple[Embed, dict[str, Any]]:
    """The embedder of the arguments of `embed`, and what its results depend on.

    raises   ConfigError for a YAML without such an encoder, or whose weights do not fit
    """
    name, choice = _chosen(asked)
    config: Any = choice.config
    device = _device(asked.device)
    encoder: Any = choice.part.for_routes(config, frozenset({"image"}))
    try:
        for path, only in encoder.files():
            print(f"{name}: {load_component(encoder, path, only)}")
        if line := encoder.load_folder():
            print(f"{name}: {line}")
    except ValueError as error:
        message, _, rest = str(error).partition("\n")
        raise ConfigError([Problem(f"model.encoders.{name}", message, hint=rest or None)]) from None
    encoder.requires_grad_(False).eval().to(device)
    files = [path for path, _ in encoder.files()] or [Path(config.weights)]  # or the folder of a model
    made_with = {"by": "images", "encoder": encoder_settings(choice), "pool": asked.pool,
                 "weights": [file_print(path) for path in files]}  # fmt: skip
    return embedder_of(encoder, config.processor("image", False, 1), device, asked.pool, asked.workers), made_with


def _chosen(asked: argparse.Namespace) -> tuple[str, Choice[Encoder]]:
    """Name and settings of the encoder. raises ConfigError"""
    opened = open_model_file(asked.cfg_path, asked.options)
    entries = opened.node("model", "encoders")
    alone = next(iter(entries)) if len(entries) == 1 else ""
    name = str(asked.encoder or opened.node("model", "routes", "image").get("encoder") or alone)
    if name not in entries:
        hint = "the file has no route of images and several encoders; name one"
        raise ConfigError([Problem("--encoder", f"is {name!r}" if name else "is missing", allowed=tuple(entries),
                                   nearest=nearest(name, entries), hint=None if name else hint)])  # fmt: skip
    choice = parse(MediaParts, {"encoders": {name: entries[name]}}, opened.origins, "model").encoders[name]
    if "image" not in choice.part.modalities:
        raise ConfigError([Problem(f"model.encoders.{name}", f"{choice.name} does not encode images")])
    if getattr(choice.config, "weights", None) is None:
        message = "has no weights: embeddings of random weights do not group images by what they show"
        raise ConfigError([Problem(f"model.encoders.{name}.weights", message, hint="set it with --options")])
    return name, choice


def _device(given: str | None) -> Any:
    """raises ConfigError for a device that this machine does not have"""
    name = given or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition("\n")[0]
        raise ConfigError(
            [Problem("--device", f"{name!r} cannot be used: {message}", hint="for example cpu")]
        ) from None
    return device


def embedder_of(encoder: Any, processor: Any, device: Any, pool: str, workers: int) -> Embed:
    """The embeddings of images by their features.

    processor  of the encoder: a path or bytes -> float[3, H, W]
    pool       "mean" of the tokens that count, or the "first" one
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def decoded(pair: Pair) -> Any:
        try:
            return processor(pair.content if pair.content is not None else Path(pair.file))
        except MediaError as error:
            return str(error)

    @torch.inference_mode()
    def embed(pairs: Sequence[Pair]) -> list[np.ndarray | str]:
        media = list(threads.map(decoded, pairs))
        good = [one for one in media if not isinstance(one, str)]
        if not good:
            return media
        features = encoder(torch.stack(good).to(device), "image")
        x = features.x.float()  # [M, N, W]
        if pool == "first":
            x = x[:, 0]
        elif features.mask is None:
            x = x.mean(1)
        else:
            counts = features.mask.unsqueeze(-1).float()
            x = (x * counts).sum(1) / counts.sum(1).clamp(min=1)
        rows = iter(unit(x.cpu().numpy()))  # [M, W]
        return [one if isinstance(one, str) else next(rows) for one in media]

    return embed
