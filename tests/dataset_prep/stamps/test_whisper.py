"""Whisper's encoder out of a file of CTranslate2: values, sizes and damaged files. The files are written here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from chatbridge.common.errors import DataError
from chatbridge.models.encoders.hf_audio import HFAudio
from dataset_prep.stamps.ct2_file import DTYPES, read_ct2
from dataset_prep.stamps.whisper import convert_whisper

CODES = {np.dtype(kind): code for code, kind in DTYPES.items()}


def text(value: str) -> bytes:
    content = value.encode() + b"\0"
    return struct.pack("<H", len(content)) + content


def ct2(variables: dict[str, np.ndarray], name: str = "WhisperSpec", version: int = 6) -> bytes:
    """A model.bin with these variables and one alias."""
    parts = [struct.pack("<I", version), text(name), struct.pack("<II", 3, len(variables))]
    for key, values in variables.items():
        parts += [text(key), struct.pack("<B", values.ndim), *(struct.pack("<I", size) for size in values.shape)]
        parts += [struct.pack("<BI", CODES[values.dtype], values.nbytes), values.tobytes()]
    return b"".join([*parts, struct.pack("<I", 1), text("twin"), text(next(iter(variables)))])


def small_whisper() -> WhisperModel:
    torch.manual_seed(5)
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return WhisperModel(
        WhisperConfig(d_model=128, num_mel_bins=80, max_source_positions=1500, vocab_size=96, pad_token_id=0,
                      encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_start_token_id=1, **sizes)
    ).eval()  # fmt: skip


def variables_of(model: WhisperModel, kind: type = np.float32) -> dict[str, np.ndarray]:
    """The encoder as CTranslate2's converter arranges it."""
    state = {name: value.numpy().astype(kind) for name, value in model.encoder.state_dict().items()}
    made = {"encoder/position_encodings/encodings": state["embed_positions.weight"]}
    made |= {f"encoder/{name}/{kind}": state[f"{name}.{kind}"] for name in ("conv1", "conv2") for kind in ("weight", "bias")}  # fmt: skip  # noqa: E501
    norms = [("layer_norm", "layer_norm")]
    for layer in range(2):
        here, there = f"layers.{layer}", f"encoder/layer_{layer}"
        attention = f"{here}.self_attn"
        joined = [state[f"{attention}.{name}.weight"] for name in ("q_proj", "k_proj", "v_proj")]
        biases = [state[f"{attention}.q_proj.bias"], np.zeros(128, kind), state[f"{attention}.v_proj.bias"]]
        made[f"{there}/self_attention/linear_0/weight"] = np.concatenate(joined)
        made[f"{there}/self_attention/linear_0/bias"] = np.concatenate(biases)
        pairs = {"self_attention/linear_1": f"{attention}.out_proj", "ffn/linear_0": f"{here}.fc1", "ffn/linear_1": f"{here}.fc2"}  # fmt: skip  # noqa: E501
        made |= {f"{there}/{name}/{kind}": state[f"{own}.{kind}"] for name, own in pairs.items() for kind in ("weight", "bias")}  # fmt: skip  # noqa: E501
        norms += [(f"layer_{layer}/self_attention/layer_norm", f"{here}.self_attn_layer_norm"),
                  (f"layer_{layer}/ffn/layer_norm", f"{here}.final_layer_norm")]  # fmt: skip
    for name, own in norms:
        made |= {f"encoder/{name}/gamma": state[f"{own}.weight"], f"encoder/{name}/beta": state[f"{own}.bias"]}
    return made


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_converted_encoder_gives_the_features_of_the_model_that_was_written(tmp_path):
    """Fails when query, key and value are split in another order, a norm takes another's place, or a folder with the
    encoder alone does not load."""
    model = small_whisper()
    folder = convert_whisper(write(tmp_path / "model.bin", ct2(variables_of(model))), tmp_path / "whisper")
    encoder = HFAudio(HFAudio.Config(weights=folder))
    encoder.load_folder()
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.eval()(mel).x, model.encoder(mel).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-20], "ends at byte"),
        (lambda content: content + b"more", "4 bytes follow the last entry"),
        (lambda content: struct.pack("<I", 5) + content[4:], "binary version 5"),
        (lambda content: content.replace(b"WhisperSpec", b"WhisperAsks"), "a model of WhisperAsks"),
        (lambda content: content.replace(b"encoder/conv1/bias", b"encoder/conv9/bias"), "has no encoder/conv1/bias"),
    ],
)
def test_a_file_that_is_damaged_or_another_model_is_refused_with_its_name(tmp_path, change, message):
    """Fails when such a file ends in a traceback, or leaves a folder that looks whole."""
    path = write(tmp_path / "model.bin", change(ct2(variables_of(small_whisper(), np.float16))))
    with pytest.raises(DataError, match=message) as caught:
        convert_whisper(path, tmp_path / "whisper")
    assert str(path) in str(caught.value) and not (tmp_path / "whisper").exists()


def test_integers_and_a_bias_of_keys_are_refused(tmp_path):
    """Fails when quantised weights are taken for values, or a bias is dropped silently."""
    made = variables_of(small_whisper())
    quantised = made | {"encoder/conv1/weight": made["encoder/conv1/weight"].astype(np.int8)}
    with pytest.raises(DataError, match="conv1/weight is int8; convert the model with --quantization float16"):
        convert_whisper(write(tmp_path / "a.bin", ct2(quantised)), tmp_path / "a")
    made["encoder/layer_1/self_attention/linear_0/bias"] = np.ones(384, np.float32)
    with pytest.raises(DataError, match="keys of layer 1 have a bias"):
        convert_whisper(write(tmp_path / "b.bin", ct2(made)), tmp_path / "b")


def test_a_shape_that_does_not_fit_its_bytes_and_a_lost_alias_are_refused(tmp_path):
    """Fails when a wrong size reads the next variable's bytes."""
    content = ct2({"one": np.zeros((2, 3), np.float32)})
    wrong = content.replace(struct.pack("<BII", 2, 2, 3), struct.pack("<BII", 2, 2, 4))
    with pytest.raises(DataError, match=r"'one' of shape \[2, 4\] has 6 values"):
        read_ct2(write(tmp_path / "a.bin", wrong))
    lost = content.replace(text("twin") + text("one"), text("twin") + text("two"))
    with pytest.raises(DataError, match="'twin' stands for 'two'"):
        read_ct2(write(tmp_path / "b.bin", lost))
