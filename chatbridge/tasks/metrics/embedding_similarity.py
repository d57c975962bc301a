"""Similarity of meaning between an answer and its references, by a sentence encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Range
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score


@METRICS.register("embedding_similarity")
class EmbeddingSimilarity(Metric):
    """Cosine between the vectors of an answer and of the closest reference; a negative one, an empty answer and an
    unreadable item count as 0. The value depends on the encoder, which a report has to name.
    """

    is_costly = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        encoder: Path  # folder of a sentence encoder of transformers, such as all-MiniLM-L6-v2; nothing is downloaded
        pooling: Literal["mean", "first"] = "mean"  # of the hidden states; first: of the first token (BGE, SimCSE)
        batch_size: Annotated[int, Range(low=1)] = 32  # texts per forward pass
        device: str = "cpu"  # where the encoder runs: cpu, cuda, cuda:1

        def problems(self) -> Iterator[Problem]:
            """A folder that is not there, or is not one of transformers: known before anything is generated."""
            hint = "save a sentence encoder there, for example with `hf download ... --local-dir`"
            if not self.encoder.is_dir():
                yield Problem("encoder", f"there is no folder {self.encoder}", hint=hint)
            elif not (self.encoder / "config.json").is_file():
                yield Problem("encoder", f"{self.encoder} has no config.json, so it is no encoder", hint=hint)

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("embedding_similarity",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The mean similarity. raises DataError if the folder has no encoder"""
        from chatbridge.tasks.metrics._sentence_encoder import SentenceEncoder  # torch, where it is needed

        settings = self.config
        encoder = SentenceEncoder(settings.encoder, settings.device, settings.batch_size, settings.pooling)
        asked = [item for item in items if item.prediction.strip() and not item.problem]
        texts = list(dict.fromkeys(text for item in asked for text in (item.prediction, *item.references)))
        vectors = dict(zip(texts, encoder.vectors(texts), strict=True)) if texts else {}

        def similarity(item: Item) -> float:
            if not item.prediction.strip() or item.problem:
                return 0.0
            cosines = (float(vectors[item.prediction] @ vectors[one]) for one in item.references)
            return min(1.0, max(0.0, *cosines, 0.0))

        return [mean_score("embedding_similarity", [similarity(item) for item in items])]
