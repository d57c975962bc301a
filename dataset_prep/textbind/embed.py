"""Embed the images of a pool by an encoder, or their captions, for `cluster`. Run it again to resume.

    python -m dataset_prep.textbind embed --pairs data/cc3m/pairs.jsonl --images data/cc3m/images \\
        --cfg-path configs/models/chatbind_vicuna7b.yaml --out data/textbind/pool
    python -m dataset_prep.textbind embed --shards 'data/cc3m/{00000..00331}.tar' --captions --out data/textbind/pool

--pairs is a list of {"image", "caption", "url"}, whose images are called by their number unless they have an
"image_idx"; --shards are tars of img2dataset, whose images are called by tar and key.

The embedding of an image is the mean of its feature tokens (--pool first: the first one, the class token of CLIP and
others), of length 1. Any encoder of a YAML with model.encoders can be used. --captions needs no model: the words of a
caption are hashed to 512 values, so captions that share words are close.

An image that cannot be read, or that has no caption, is skipped and listed in skipped.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import ConfigError, MediaError, Problem, nearest
from chatbridge.common.extras import need
from dataset_prep.common import arguments
from dataset_prep.common.manifest import sha256
from dataset_prep.common.preparation import Preparation
from dataset_prep.textbind.pool import Pair, list_parts, tar_parts, write_part

CAPTION_WIDTH = 512  # values of the embedding of a caption; each word is hashed to one of them, with a sign
Embed = Callable[[Sequence[Pair]], "list[np.ndarray | str]"]  # an embedding, or why there is none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=arguments.existing_file, metavar="FILE", help="JSON or JSON lines")
    source.add_argument("--shards", nargs="+", metavar="PATTERN", help="tars, with {000..331} and * as in a shell")
    add("--images", type=arguments.existing_folder, metavar="FOLDER",
        help="of relative paths in --pairs (default: the folder of the file)")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FOLDER", help="the pool")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--cfg-path", type=Path, metavar="X.yaml", help="a YAML with model.encoders")
    by.add_argument("--captions", action="store_true", help="embed the captions instead of the images")
    add("--encoder", metavar="NAME", help="of model.encoders (default: that of the route of images, or the only one)")
    add("--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings that replace those of the YAML")
    add("--pool", choices=("mean", "first"), default="mean", help="of the feature tokens (default: mean)")
    add("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    add("--batch", type=arguments.positive, default=32, metavar="N", help="images at once (default: 32)")
    add("--workers", type=arguments.positive, default=4, metavar="N", help="threads that decode (default: 4)")
    add("--per-file", type=arguments.positive, default=10_000, metavar="N",
        help="images of --pairs in one file of the pool (default: 10000); what a stop loses at most")  # fmt: skip
    add("--limit", type=arguments.positive, metavar="N", help="only the first N images of --pairs")


def run(asked: argparse.Namespace) -> int:
    """raises ConfigError for a wrong YAML or arguments, DataError for a wrong source"""
    if problems := list(_argument_problems(asked)):
        raise ConfigError(problems)
    parts = (list_parts(asked.pairs, asked.images, asked.per_file, asked.limit) if asked.pairs
             else tar_parts(asked.shards))  # fmt: skip
    embed, made_with = _caption_embedder() if asked.captions else _image_embedder(asked)
    made_with |= {"source": str(asked.pairs), "sha256": sha256(asked.pairs), "per_file": asked.per_file,
                  "limit": asked.limit} if asked.pairs else {"source": asked.shards}  # fmt: skip
    with Preparation(asked.out, "textbind_pool", "dataset_prep.textbind embed", made_with) as made:
        for path, pairs in made.open_work(parts):
            _embed_part(made, path, pairs, embed, asked.batch)
        print(made.report())
    return 0


def _argument_problems(asked: argparse.Namespace) -> Iterator[Problem]:
    for name in ("images", "limit"):
        if getattr(asked, name) is not None and asked.pairs is None:
            yield Problem(f"--{name}", "is for --pairs")
    if asked.encoder is not None and asked.captions:
        yield Problem("--encoder", "has no use with --captions")


def _embed_part(made: Preparation, path: str, pairs: Callable[[], Iterator[Pair]], embed: Embed, batch: int) -> None:
    kept: list[Pair] = []
    found: list[np.ndarray] = []
    with made.writing(path) as part:
        stream = pairs()
        while some := list(islice(stream, batch)):
            usable = [pair for pair in some if pair.fault is None]
            for pair in some:
                if pair.fault is not None:
                    made.skip(str(pair.image_idx), pair.fault)
            for pair, result in zip(usable, embed(usable) if usable else [], strict=True):
                if isinstance(result, str):
                    made.skip(str(pair.image_idx), "its image cannot be read", result)
                elif not np.isfinite(result).all():
                    made.skip(str(pair.image_idx), "its embedding is not finite")
                else:
                    kept.append(pair)
                    found.append(result)
        if kept:
            write_part(part, np.stack(found), kept)
    made.add(path, len(kept))


def _caption_embedder() -> tuple[Embed, dict[str, Any]]:
    """Hashed words; the same for every part, because nothing is fitted."""
    text = need("sklearn.feature_extraction.text", "embedding captions")
    words = text.HashingVectorizer(n_features=CAPTION_WIDTH, stop_words="english", norm=None)

    def embed(pairs: Sequence[Pair]) -> list[np.ndarray | str]:
        return [*unit(words.transform([pair.caption for pair in pairs]).toarray())]

    return embed, {"by": "captions", "width": CAPTION_WIDTH}


def unit(x: np.ndarray) -> np.ndarray:
    """float[n, W] -> rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def _image_embedder(asked: argparse.Namespace) -> tuple[Embed, dict[str, Any]]:
    """raises ConfigError for a YAML without such an encoder, or whose weights do not fit"""
    from chatbridge.config.schema import parse
    from chatbridge.experiment.media_plan import MediaParts
    from chatbridge.experiment.open import open_model_file
    from chatbridge.models.feature_cache import encoder_settings, file_print
    from chatbridge.models.loading import load_component

    opened = open_model_file(asked.cfg_path, asked.options)
    entries = opened.node("model", "encoders")
    alone = next(iter(entries)) if len(entries) == 1 else ""
    name = str(asked.encoder or opened.node("model", "routes", "image").get("encoder") or alone)
    if name not in entries:
        hint = "the file has no route of images and several encoders; name one"
        raise ConfigError([Problem("--encoder", f"is {name!r}" if name else "is missing", allowed=tuple(entries),
                                   nearest=nearest(name, entries), hint=None if name else hint)])  # fmt: skip
    choice = parse(MediaParts, {"encoders": {name: entries[name]}}, opened.origins, "model").encoders[name]
    config: Any = choice.config
    if "image" not in choice.part.modalities:
        raise ConfigError([Problem(f"model.encoders.{name}", f"{choice.name} does not encode images")])
    if getattr(config, "weights", None) is None:
        message = "has no weights: embeddings of random weights do not group images by what they show"
        raise ConfigError([Problem(f"model.encoders.{name}.weights", message, hint="set it with --options")])
    device = _device(asked.device)
    encoder = choice.part.for_routes(config, frozenset({"image"}))
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
    return image_embedder(encoder, config.processor("image", False, 1), device, asked.pool, asked.workers), made_with


def _device(given: str | None) -> Any:
    """raises ConfigError for a device that this machine does not have"""
    import torch

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


def image_embedder(encoder: Any, processor: Any, device: Any, pool: str, workers: int) -> Embed:
    """The embeddings of images by their features.

    processor  of the encoder: a path or bytes -> float[3, H, W]
    pool       "mean" of the tokens that count, or the "first" one
    """
    import torch

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
