"""Whisper's encoder out of a file of CTranslate2: values, sizes and damaged files. The files are written here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from chatbridge.cli.weights.convert import main
from chatbridge.cli.weights.ct2_file import BFLOAT16, DTYPES, ct2_of, read_ct2
from chatbridge.cli.weights.whisper_folder import convert_whisper
from chatbridge.common.errors import DataError
from chatbridge.models.encoders.hf_audio import HFAudio

SOUNDS = Path(__file__).parents[3].parent / "shared/reference/data"
REAL = Path(__file__).parents[3] / "data/stamps/weights/whisper_tiny_en"
CTRANSLATE2 = {  # sound -> features [4, 4], mean, deviation
    "dog": (
        [
            [-0.1665, -0.3331, 0.6009, -0.5558],
            [0.3235, -0.4961, 1.2616, -0.7627],
            [-0.1176, -0.3037, -0.5453, 0.6128],
            [-0.1245, -0.0057, 0.8046, 0.0460],
        ],
        -0.03299,
        1.10073,
    ),
    "bird": (
        [
            [-0.5386, -0.2182, 0.5907, -0.3034],
            [0.8948, 0.3651, 1.4669, -0.8797],
            [-0.3792, -0.4561, -0.5646, 0.9426],
            [-0.1824, 0.0791, 0.8335, -0.1405],
        ],
        -0.03090,
        1.08644,
    ),
    "car": (
        [
            [-0.1483, -0.2489, 0.7197, -0.8587],
            [1.0638, -0.6185, 1.2313, -0.1697],
            [-0.1172, -0.2650, -0.6970, 0.6690],
            [-0.2308, 0.0604, 0.8598, -0.0764],
        ],
        -0.03323,
        1.02940,
    ),
}
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
    write(tmp_path / "model.bin", ct2(variables_of(model)))
    convert_whisper(tmp_path / "model.bin", tmp_path / "whisper")
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1))
    encoder = encoder_of(tmp_path / "whisper")
    with torch.inference_mode():
        made = encoder(mel).x
        torch.testing.assert_close(made, model.encoder(mel).last_hidden_state, atol=1e-5, rtol=0)


def encoder_of(folder: Path) -> HFAudio:
    encoder = HFAudio(HFAudio.Config(weights=folder))
    encoder.load_folder()
    return encoder.float().eval()


def test_the_command_takes_a_folder_of_faster_whisper(tmp_path, capsys):
    """Fails when `weights convert` takes such a folder for one of another kind, writes another dtype than it was asked
    for, writes over a folder, or drops an option silently."""
    (tmp_path / "faster").mkdir()
    write(tmp_path / "faster/model.bin", ct2(variables_of(small_whisper(), np.float16)))
    assert main([str(tmp_path / "faster"), str(tmp_path / "half")]) == 0
    assert "37 tensors of Whisper's encoder" in capsys.readouterr().out
    assert main([str(tmp_path / "faster/model.bin"), str(tmp_path / "full"), "--dtype", "fp32"]) == 0
    half, full = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "full"))
    assert {value.dtype for value in half.values()} == {torch.float16}
    assert {value.dtype for value in full.values()} == {torch.float32}
    assert all(torch.equal(half[name].float(), value) for name, value in full.items())
    with pytest.raises(ValueError, match="give a name without an ending that does not exist yet"):
        main([str(tmp_path / "faster"), str(tmp_path / "half")])
    with pytest.raises(ValueError, match="is written without --part"):
        main([str(tmp_path / "faster"), str(tmp_path / "new"), "--part", "beats"])


def test_a_model_of_torch_in_model_bin_is_not_taken_for_one_of_ctranslate2(tmp_path):
    """Fails when a pickled file, or bytes of something else, is read as CTranslate2's."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.bin")
    assert ct2_of(tmp_path) is None and ct2_of(tmp_path / "absent.bin") is None
    for content in (b"", b"short", b"\x06\0\0\0\xff\xff" + b"x" * 80, b"<html>" + b" " * 80):
        assert ct2_of(write(tmp_path / "model.bin", content)) is None


@pytest.mark.parametrize(("bits", "kind"), [(8, np.int8), (16, np.int16)])
def test_integers_are_divided_by_their_scales(tmp_path, bits, kind):
    """Fails when a scale is multiplied, taken along the wrong axis, or forgotten for one of the weights. The integers
    are rounded here as CTranslate2's converter does, so each value may be off by half a step."""
    made = variables_of(small_whisper())
    stored: dict[str, np.ndarray] = {}
    for name, values in made.items():
        if not name.endswith("/weight"):
            stored[name] = values
            continue
        rows = values.reshape(len(values), -1)
        scale = 127 / np.abs(rows).max(1) if bits == 8 else np.float32(1024 / np.abs(rows).max())
        stored[name] = np.rint(rows * np.reshape(scale, (-1, 1))).astype(kind).reshape(values.shape)
        stored[f"{name}_scale"] = np.asarray(scale, np.float32)
    convert_whisper(write(tmp_path / "a.bin", ct2(made)), tmp_path / "exact")
    convert_whisper(write(tmp_path / "b.bin", ct2(stored)), tmp_path / "rounded")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    steps = 127 if bits == 8 else 1024
    for name, value in exact.items():
        joined = [name.replace(f"{one}_proj", f"{other}_proj") for one in "qkv" for other in "qkv"]  # share a scale
        largest = max(float(exact[one].abs().max()) for one in joined if one in exact)
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - value).abs().max() <= largest / steps * 0.51, name


def test_bfloat16_is_read_as_the_upper_half_of_float32(tmp_path):
    """Fails when its two bytes are read as float16."""
    content = ct2({"one": np.float32([[1.5, -2.0, 0.125]]).view(np.int32).__rshift__(16).astype(np.int16)})
    content = content.replace(struct.pack("<BI", CODES[np.dtype(np.int16)], 6), struct.pack("<BI", BFLOAT16, 6))
    assert read_ct2(write(tmp_path / "a.bin", content)).variables["twin"].tolist() == [[1.5, -2.0, 0.125]]


@pytest.mark.skipif(not REAL.is_dir() or not SOUNDS.is_dir(), reason="needs `python -m dataset_prep.stamps.fetch` and the sounds")  # fmt: skip  # noqa: E501
@pytest.mark.parametrize("sound", CTRANSLATE2)
def test_the_real_encoder_gives_the_values_of_ctranslate2(sound):
    """Fails when a part of the mapping is not that of the release. Stored: features of CTranslate2 4.8.5 in float32 at
    four tokens and four channels, and the mean and deviation of all."""
    values, rate = soundfile.read(SOUNDS / f"{sound}_audio.wav", dtype="float32", always_2d=True)
    mono = torchaudio.functional.resample(torch.from_numpy(values.mean(1)), rate, 16_000)
    extractor = WhisperFeatureExtractor.from_pretrained(REAL)
    made = features(extractor(mono.numpy(), sampling_rate=16_000, return_tensors="pt").input_features)
    stored, mean, deviation = CTRANSLATE2[sound]
    part = made[[0, 100, 400, 1499]][:, [0, 100, 200, 383]]
    torch.testing.assert_close(part, torch.tensor(stored), atol=2e-3, rtol=0)
    assert abs(float(made.mean()) - mean) < 1e-4 and abs(float(made.std()) - deviation) < 1e-4


@pytest.mark.skipif(not REAL.is_dir(), reason="needs `python -m dataset_prep.stamps.fetch`")
def test_the_real_encoder_gives_the_values_of_ctranslate2_on_a_made_sound():
    """Fails like the one above, without the sounds: five seconds of a tone that rises from 200 Hz to 1.7 kHz."""
    at = np.arange(80_000) / 16_000
    tone = (0.4 * np.sin(2 * np.pi * (200 * at + 150 * at * at))).astype(np.float32)
    extractor = WhisperFeatureExtractor.from_pretrained(REAL)
    made = features(extractor(tone, sampling_rate=16_000, return_tensors="pt").input_features)
    stored = [
        [-0.7204, -0.6953, 0.3592, -0.6505],
        [0.0789, -1.1019, 0.8189, 0.4734],
        [0.0825, -1.6511, 0.1595, 0.0988],
        [-0.0803, 0.2338, 0.6246, -0.0578],
    ]
    part = made[[0, 60, 200, 1499]][:, [0, 100, 200, 383]]
    torch.testing.assert_close(part, torch.tensor(stored), atol=2e-3, rtol=0)
    assert abs(float(made.mean()) + 0.02950) < 1e-4 and abs(float(made.std()) - 1.08817) < 1e-4


def features(mel: torch.Tensor) -> torch.Tensor:
    """float[1500, 384] of the real encoder"""
    encoder = encoder_of(REAL)
    with torch.inference_mode():
        return encoder(mel).x[0]


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


def test_integers_without_a_scale_and_a_bias_of_keys_are_refused(tmp_path):
    """Fails when quantised weights are taken for values, or a bias is dropped silently."""
    made = variables_of(small_whisper())
    quantised = made | {"encoder/conv1/weight": made["encoder/conv1/weight"].astype(np.int8)}
    with pytest.raises(DataError, match="conv1/weight is int8, with no scale for each row"):
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
