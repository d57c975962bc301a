"""`chatbridge weights check` on files of full size that hold nothing: their headers are real, their bytes a hole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from chatbridge.cli.weights.command import main

Shapes = Mapping[str, Sequence[int]]
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 5120, "intermediate_size": 13824,
    "num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 32000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


def hollow(path: Path, shapes: Shapes) -> Path:
    """A safetensors file of this size on paper; on disk it takes a few kilobytes."""
    table, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for number in shape:
            size *= number
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
    return path


def manifest(reference: Path, name: str) -> dict:
    return json.loads((reference / f"{name}.json").read_text())


@pytest.fixture
def files(reference: Path, tmp_path: Path) -> dict[str, Path]:
    """The public files by the key that names them, LLaMA in three shards."""
    eva = manifest(reference, "eva_vit_g")["tensors"]
    surplus = {"norm.weight": [1408], "norm.bias": [1408], "head.weight": [1024, 1408], "head.bias": [1024]}
    blip2 = manifest(reference, "blip2_qformer_flant5xxl")
    whole = manifest(reference, "chatbridge_ckpt")["tensors"]
    llama = {
        name.removeprefix("llama_model."): shape for name, shape in whole.items() if name.startswith("llama_model.")
    }
    folder = tmp_path / "vicuna"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    table = {name: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, name in enumerate(llama)}
    for file in set(table.values()):
        hollow(folder / file, {name: shape for name, shape in llama.items() if table[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return {
        "encoders.vision": hollow(tmp_path / "eva_vit_g.safetensors", {**eva, **surplus}),
        "encoders.audio": hollow(tmp_path / "beats.safetensors", manifest(reference, "beats_iter3_as2m")["tensors"]),
        "bridges.perceiver": hollow(tmp_path / "blip2.safetensors", {**blip2["tensors"], **blip2["surplus_in_file"]}),
        "language": folder,
    }


def options(files: Mapping[str, Path]) -> list[str]:
    return ["--options", *(f"model.{key}.weights={path}" for key, path in files.items())]


def test_the_public_files_fill_chatbridge(
    repository: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when a name or shape of the real files has no place in the 13B model, or a tensor of it no file."""
    model = str(repository / "configs" / "models" / "chatbridge_vicuna13b.yaml")
    assert main(["check", model, *options(files)]) == 0
    out = capsys.readouterr().out
    assert "ok  encoders.vision: loaded 511, dropped 4, kept 2" in out
    assert "ok  encoders.audio: loaded " in out
    assert "ok  language: loaded 363, dropped 40" in out and "5 files, all fit" in out


def test_a_lost_shard_and_a_swapped_file(
    repository: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when two mistakes are not told at once, each with its file."""
    (files["language"] / "model-00002-of-00003.safetensors").unlink()
    swapped = {**files, "encoders.vision": files["bridges.perceiver"]}
    model = str(repository / "configs" / "models" / "chatbridge_vicuna13b.yaml")
    assert main(["check", model, *options(swapped)]) == 1
    out = capsys.readouterr().out
    assert "NO  encoders.vision: loaded 2, missing 511" in out and "vit.blocks.0.norm1.weight" in out
    assert "1 of 3 shards are missing: model-00002-of-00003.safetensors" in out and "2 do not fit" in out


@pytest.mark.slow
def test_the_public_files_fill_chatbind(
    repository: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when a name or shape of ImageBind-Huge or ChatBind-7B has no place in the 7B model, or a tensor no file."""
    content, folder = manifest(reference, "chatbind_7b"), tmp_path / "chatbind-7b"
    folder.mkdir()
    hollow(folder / "model.safetensors", content["tensors"])
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    more = {"model_type": "llava_image_bind_select", "mm_hidden_size": 1024, "vocab_size": 32004, "pad_token_id": -1}
    (folder / "config.json").write_text(json.dumps({**LLAMA, **sizes, **more}))
    projector = hollow(tmp_path / "mm_projector.safetensors", content["stage1_projector_file"]["tensors"])
    huge = hollow(tmp_path / "imagebind_huge.safetensors", manifest(reference, "imagebind_huge")["tensors"])
    given = options({"encoders.imagebind": huge, "language": folder})
    for start, rows in ((folder, 6), (projector, 2)):
        model = str(repository / "eval_configs" / "chatbind_eval.yaml")
        assert main(["check", model, *given, f"run.init_from={start}"]) == 0
        out = capsys.readouterr().out
        assert "ok  encoders.imagebind: loaded 1016, dropped 295" in out
        assert "ok  language: loaded 291, dropped 34" in out and "ok  bridges.projector: loaded 2" in out
        assert f"ok  added_tokens: loaded {rows}" in out and "4 files, all fit" in out
