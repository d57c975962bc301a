"""The encoder of Whisper from a model folder of CTranslate2 (faster-whisper), as a folder of transformers.

CTranslate2 joins the projections of query, key and value in one matrix. Whisper's keys have no bias; the joined vector
has zeros there. Weights stored as integers of 8 or 16 bits are divided by their scales.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.cli.weights.ct2_file import Ct2File, read_ct2
from chatbridge.cli.weights.shard_writer import write_json, write_safetensors
from chatbridge.common.errors import DataError

SPECIFICATION = "WhisperSpec"
NORM = {"gamma": "weight", "beta": "bias"}


def convert_whisper(source: Path, target: Path, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Write the encoder in `source`, a model.bin, as config.json, preprocessor_config.json and model.safetensors.

    dtype    of the tensors; None: that of the file's vectors, such as float16
    returns  the number of tensors and their bytes
    raises   DataError when it is another model
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor

    state = encoder_state(read_ct2(source), source, dtype)
    config = whisper_config(state)
    target.mkdir(parents=True, exist_ok=True)
    WhisperFeatureExtractor(feature_size=config["num_mel_bins"]).save_pretrained(target)
    settings = WhisperConfig(**config).to_dict() | {"architectures": ["WhisperForConditionalGeneration"]}
    write_json(settings, target / "config.json")
    write_safetensors({f"model.encoder.{name}": value for name, value in state.items()}, target / "model.safetensors")
    return len(state), sum(value.nbytes for value in state.values())


def encoder_state(file: Ct2File, path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The encoder's tensors [...] under the names of transformers' WhisperEncoder.

    raises   DataError when a variable is missing, integers have no scale, or the keys have a bias
    """
    if file.specification != SPECIFICATION:
        raise DataError(f"{path}: a model of {file.specification}, expected {SPECIFICATION}")
    source = _Encoder(file, path, dtype)
    state: dict[str, Tensor] = {"embed_positions.weight": source.tensor("position_encodings/encodings")}
    for name in ("conv1", "conv2"):
        state |= {f"{name}.{kind}": source.tensor(f"{name}/{kind}") for kind in ("weight", "bias")}
    state |= source.norm("layer_norm", "layer_norm")
    for layer in range(source.num_layers):
        state |= source.layer(layer)
    return state


def whisper_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes of WhisperConfig from the encoder's tensors; Whisper's heads have 64 channels."""
    width, mel_bins = state["conv1.weight"].shape[:2]
    layers = sum(name.endswith("fc1.bias") for name in state)
    sizes = {"layers": layers, "attention_heads": width // 64, "ffn_dim": len(state["layers.0.fc1.bias"])}
    return {
        "d_model": width,
        "num_mel_bins": mel_bins,
        "max_source_positions": len(state["embed_positions.weight"]),
        "num_hidden_layers": layers,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
    }


class _Encoder:
    """The variables below `encoder/`."""

    def __init__(self, file: Ct2File, path: Path, dtype: torch.dtype | None) -> None:
        self.file, self.path = file, path
        self.dtype = dtype or torch.from_numpy(self.values("layer_norm/gamma").copy()).dtype

    @property
    def num_layers(self) -> int:
        names = self.file.variables
        return len({name.split("/")[1] for name in names if name.startswith("encoder/layer_") and name.count("/") > 2})

    def values(self, name: str) -> np.ndarray[Any, Any]:
        values = self.file.variables.get(f"encoder/{name}")
        if values is None:
            raise DataError(f"{self.path}: has no encoder/{name}")
        return values

    def tensor(self, name: str) -> Tensor:
        values = self.values(name)
        if not np.issubdtype(values.dtype, np.floating):
            values = self.dequantised(name, values)
        return torch.from_numpy(values.copy()).to(self.dtype)

    def dequantised(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Integers divided by the scale of their row, or by the one scale of all, float32[...]."""
        scale = self.file.variables.get(f"encoder/{name}_scale")
        if scale is None or scale.size not in (1, len(values)):
            raise DataError(f"{self.path}: encoder/{name} is {values.dtype}, with no scale for each row")
        return values.astype(np.float32) / scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))

    def norm(self, name: str, ours: str) -> dict[str, Tensor]:
        return {f"{ours}.{own}": self.tensor(f"{name}/{kind}") for kind, own in NORM.items()}

    def linear(self, name: str, ours: str) -> dict[str, Tensor]:
        return {f"{ours}.{kind}": self.tensor(f"{name}/{kind}") for kind in ("weight", "bias")}

    def layer(self, number: int) -> dict[str, Tensor]:
        there, here = f"layer_{number}", f"layers.{number}"
        attention = f"{there}/self_attention"
        joined, bias = self.tensor(f"{attention}/linear_0/weight"), self.tensor(f"{attention}/linear_0/bias")
        state: dict[str, Tensor] = {}
        for name, weight, one in zip(("q_proj", "k_proj", "v_proj"), joined.chunk(3), bias.chunk(3), strict=True):
            state[f"{here}.self_attn.{name}.weight"] = weight.clone()
            if name != "k_proj":
                state[f"{here}.self_attn.{name}.bias"] = one.clone()
            elif one.any():
                raise DataError(f"{self.path}: the keys of layer {number} have a bias, which Whisper does not have")
        return {
            **state,
            **self.linear(f"{attention}/linear_1", f"{here}.self_attn.out_proj"),
            **self.norm(f"{attention}/layer_norm", f"{here}.self_attn_layer_norm"),
            **self.norm(f"{there}/ffn/layer_norm", f"{here}.final_layer_norm"),
            **self.linear(f"{there}/ffn/linear_0", f"{here}.fc1"),
            **self.linear(f"{there}/ffn/linear_1", f"{here}.fc2"),
        }
