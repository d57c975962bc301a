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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.extras import need
from dataset_prep.common import arguments
from dataset_prep.common.manifest import sha256
from dataset_prep.common.preparation import Preparation
from dataset_prep.textbind.pool import Embed, Pair, list_parts, tar_parts, unit, write_part

CAPTION_WIDTH = 512  # values of the embedding of a caption; each word is hashed to one of them, with a sign


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


def _image_embedder(asked: argparse.Namespace) -> tuple[Embed, dict[str, Any]]:
    from dataset_prep.textbind.image_embeddings import image_embedder  # torch is not needed for captions

    return image_embedder(asked)
