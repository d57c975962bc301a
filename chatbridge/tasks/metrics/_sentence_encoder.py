"""Vectors of sentences by an encoder in a local folder: the mean of its last hidden states, of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatbridge.common.errors import DataError, in_one_line
from chatbridge.tasks.metrics.base import Array

NEXT_STEP = "expected the folder of a transformers encoder (config.json, weights, tokenizer), such as all-MiniLM-L6-v2"


class SentenceEncoder:
    """An encoder of transformers with its tokenizer; downloads nothing.

    raises   DataError if the folder has no encoder or tokenizer
    """

    def __init__(self, folder: Path, device: str, batch_size: int, pooling: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not folder.is_dir():
            raise DataError(f"embedding_similarity: there is no folder {folder}; {NEXT_STEP}")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model, info = AutoModel.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"embedding_similarity: {folder} cannot be loaded: {in_one_line(error)}; {NEXT_STEP}"
            ) from None
        missing = [name for name in info["missing_keys"] if "pooler" not in name]  # which this use does not need
        if missing:
            raise DataError(f"embedding_similarity: the weights in {folder} lack {missing[0]}; {NEXT_STEP}")
        self.model: Any = model.eval().to(device)
        self.batch_size, self.pooling = batch_size, pooling

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Array:
        """float64[texts, W]. Long texts are cut at the encoder's context length, as its tokenizer does."""
        order = sorted(range(len(texts)), key=lambda k: (len(texts[k]), texts[k]))  # less padding, one order for all
        found: dict[int, Array] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            found |= zip(chosen, self._encode([texts[k] for k in chosen]), strict=True)
        return np.stack([found[k] for k in range(len(texts))])

    def _encode(self, texts: list[str]) -> Array:
        most = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        batch = batch.to(self.model.device)
        hidden = self.model(**batch).last_hidden_state.double()  # float[texts, L, W]
        if self.pooling == "first":
            pooled = hidden[:, 0]
        else:
            mask = batch["attention_mask"].unsqueeze(-1).double()
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # [texts, W]
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
