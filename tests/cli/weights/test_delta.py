"""`chatbridge weights apply-delta`: base + delta, bit for bit, in shards, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatbridge.cli.weights.command import main
from chatbridge.cli.weights.delta import STATE, apply_delta
from chatbridge.cli.weights.shard_writer import split_into_shards
from chatbridge.models.lazy_tensors import LazyTensors

Tensors = dict[str, torch.Tensor]


def folder_of(path: Path, tensors: Tensors, num_shards: int = 1, **files: str) -> Path:
    """A model folder as the hub has it, pickled in shards."""
    path.mkdir()
    table = {name: f"pytorch_model-{i % num_shards + 1:05d}-of-{num_shards:05d}.bin" for i, name in enumerate(tensors)}
    for file in set(table.values()):
        torch.save({name: value for name, value in tensors.items() if table[name] == file}, path / file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    for name, text in files.items():
        (path / name.replace("_json", ".json")).write_text(text)
    return path


def small(rows: int = 4, seed: int = 0) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (rows, 3),
        "model.layers.0.mlp.up_proj.weight": (5, 3),
        "lm_head.weight": (rows, 3),
    }
    return {name: torch.randn(shape, generator=draw).half() for name, shape in shapes.items()}


def test_golden(reference: Path, tmp_path: Path) -> None:
    """Fails when a sum is taken in another precision, added rows get the base's, or new tensors are not copied."""
    tensors = load_file(reference / "golden" / "chatbind_delta.safetensors")
    parts = {
        prefix: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in ("in.base.", "in.delta.", "out.")
    }
    base, delta = folder_of(tmp_path / "b", parts["in.base."], 3), folder_of(tmp_path / "d", parts["in.delta."], 2)
    apply_delta(base, delta, tmp_path / "whole", shard_bytes=4000)
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 3
    got = LazyTensors(tmp_path / "whole")
    assert got.headers.keys() == parts["out."].keys()
    for name, want in parts["out."].items():
        assert got[name].dtype == want.dtype and torch.equal(got[name], want), name


def test_the_result_is_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when config and tokenizer are the base's, the work file stays, or added rows are lost."""
    base = folder_of(tmp_path / "b", small(), config_json="base")
    delta = folder_of(tmp_path / "d", small(rows=6, seed=1), 2, config_json="delta", tokenizer_json="t")
    assert main(["apply-delta", str(base), str(delta), str(tmp_path / "v")]) == 0
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (tmp_path / "v" / "config.json").read_text() == "delta"
    whole = load_file(tmp_path / "v" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(whole[:4], small()["lm_head.weight"] + small(rows=6, seed=1)["lm_head.weight"][:4])
    assert torch.equal(whole[4:], small(rows=6, seed=1)["lm_head.weight"][4:])


def test_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when finished shards are made again, half a shard counts as one, or the result differs."""
    base, delta = folder_of(tmp_path / "b", small()), folder_of(tmp_path / "d", small(seed=1))
    apply_delta(base, delta, tmp_path / "through", shard_bytes=30)
    from chatbridge.cli.weights import delta as module

    write, written = module.write_safetensors, []

    def stop_at_the_second(tensors: Tensors, path: Path) -> None:
        if written:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write(tensors, path)

    monkeypatch.setattr(module, "write_safetensors", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        apply_delta(base, delta, tmp_path / "stopped", shard_bytes=30)
    assert (tmp_path / "stopped" / STATE).is_file()
    monkeypatch.setattr(
        module, "write_safetensors", lambda tensors, path: (written.append(path.name), write(tensors, path))
    )
    apply_delta(base, delta, tmp_path / "stopped", shard_bytes=30)
    assert len(written) == len(set(written)) == 3
    files = {path.name: path.read_bytes() for path in (tmp_path / "through").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "stopped").iterdir()}


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    """Fails when another base, another delta, a finished or a foreign folder is taken."""
    base = folder_of(tmp_path / "b", small())
    wider = {**small(), "model.layers.0.mlp.up_proj.weight": torch.zeros(5, 4)}
    lacking = {name: value for name, value in small().items() if name != "lm_head.weight"}
    for name, tensors, reason in (
        ("w", wider, "is 5x3 in the base and 5x4 in the delta"),
        ("l", lacking, "1 tensors of the base are not in the delta"),
        ("o", {"x": torch.zeros(1)}, "no tensor in common"),
        ("n", small() | {"model.scale": torch.zeros(1)}, "not in the base, for example model.scale; only mm_projector"),
    ):
        with pytest.raises(ValueError, match=reason):
            apply_delta(base, folder_of(tmp_path / name, tensors), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    delta = folder_of(tmp_path / "d", small(seed=1))
    broken = small(seed=1)
    broken["lm_head.weight"] = broken["lm_head.weight"].clone().fill_(float("inf"))
    with pytest.raises(ValueError, match="lm_head.weight: .* values of the sum are not numbers"):
        apply_delta(base, folder_of(tmp_path / "inf", broken), tmp_path / "unfinished")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        apply_delta(base, delta, tmp_path / "mine")
    (tmp_path / "mine" / STATE).write_text(json.dumps({"inputs": "others", "shards": 1}))
    with pytest.raises(ValueError, match="started with different inputs"):
        apply_delta(base, delta, tmp_path / "mine")


NORM = {"model.norm.weight": torch.linspace(0.5, 1.5, 3).half()}
PROJECTOR = {"model.mm_projector.weight": torch.ones(3, 2), "model.mm_projector.bias": torch.ones(3)}


def test_a_multimodal_delta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the projector is not taken as it is, or zeros of the delta become buffers of the result."""
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    base = folder_of(tmp_path / "b", small() | NORM)
    change = {name: value * 0.01 for name, value in (small(rows=7, seed=1) | NORM).items()}
    delta = folder_of(tmp_path / "d", change | PROJECTOR | buffers)
    assert main(["apply-delta", str(base), str(delta), str(tmp_path / "out")]) == 0
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert got.keys() == change.keys() | PROJECTOR.keys()
    assert all(torch.equal(got[name], value.half()) for name, value in PROJECTOR.items())
    said = capsys.readouterr().out
    assert "rows 4 to 6 are whole in the delta" in said and "left out: 1 buffers" in said


def test_another_base_of_the_same_shape(tmp_path: Path) -> None:
    """Fails when a base of other settings or with added tokens, a result, or swapped folders are added silently."""
    tokens = json.dumps({"[PAD]": 4, "<im_patch>": 5})
    change = {name: value * 0.01 for name, value in (small(rows=7, seed=1) | NORM).items()} | PROJECTOR
    delta = folder_of(tmp_path / "d", change, config_json='{"rms_norm_eps": 1e-06}', added_tokens_json=tokens)
    same = {name: value for name, value in change.items() if name not in PROJECTOR}
    for name, base, arguments, reason in (
        ("llama2", small() | NORM, {"config_json": '{"rms_norm_eps": 1e-05}'}, "rms_norm_eps 1e-05 in the base"),
        ("vicuna", small(rows=5) | NORM, {}, r"5 rows in the base, but the delta adds tokens from id 4 \(\[PAD\]\)"),
        ("swapped", same | PROJECTOR, {}, None),
    ):
        folder = folder_of(tmp_path / name, base, **arguments)
        pair = (folder, delta) if reason else (delta, folder_of(tmp_path / "whole", small(rows=7) | NORM | PROJECTOR))
        with pytest.raises(ValueError, match=reason or "swap the two arguments"):
            apply_delta(*pair, tmp_path / "out")
    result = folder_of(tmp_path / "result", small(rows=7) | NORM | PROJECTOR)
    with pytest.raises(ValueError, match="is that of a whole model"):
        apply_delta(folder_of(tmp_path / "right", small() | NORM), result, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_keep_the_order_and_the_limit() -> None:
    """Fails when a shard is larger than allowed or empty, a tensor is lost, or a single file has a shard's name."""
    split = split_into_shards({"a": 4, "b": 4, "c": 9, "d": 1}, limit=8)
    assert sorted(split.filename_to_tensors.values()) == [["a", "b"], ["c"], ["d"]]
    assert set(split.filename_to_tensors) == {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    assert split_into_shards({"a": 100}, limit=8).filename_to_tensors == {"model.safetensors": ["a"]}


def test_a_missing_shard_of_the_delta(tmp_path: Path) -> None:
    """Fails when the message does not name the shard."""
    delta = folder_of(tmp_path / "d", small(seed=1), 3)
    (delta / "pytorch_model-00002-of-00003.bin").unlink()
    save_file(small(), tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match="1 of 3 shards are missing: pytorch_model-00002-of-00003.bin"):
        apply_delta(tmp_path / "base.safetensors", delta, tmp_path / "out")
