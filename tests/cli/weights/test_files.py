"""`chatbridge weights inspect, check, list, convert`: what is said about files without reading their tensors."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chatbridge.cli.weights.command import main
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import load_component
from chatbridge.models.tensor_headers import read_headers
from tests.parity.golden import read_golden

EVA = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "image_size": 8, "patch_size": 4}
MODEL = """
model:
  encoders:
    vision: {{name: eva_vit, {eva}, weights: {weights}}}
  bridges:
    projection: {{name: linear, weights: {bridge}}}
  language:
    name: causal_lm
    architecture: {{hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 9}}
  routes:
    image: {{encoder: vision, bridge: projection}}
"""


def eva() -> EvaViT:
    torch.manual_seed(0)
    return EvaViT(EvaViT.Config(**EVA)).eval()


def released(encoder: EvaViT) -> dict[str, torch.Tensor]:
    """In the names of eva_vit_g.pth, with the block and the unused head."""
    state = {key.removeprefix("vit."): value for key, value in encoder.state_dict().items() if key.startswith("vit.")}
    surplus = {key.replace("blocks.0.", "blocks.2."): value for key, value in state.items() if "blocks.0." in key}
    return {**state, **surplus, "head.weight": torch.zeros(3, 16)}


def yaml(tmp_path: Path, weights: Path | str, bridge: Path | str = "null", **sizes: object) -> str:
    said = ", ".join(f"{name}: {value}" for name, value in {**EVA, **sizes}.items())
    path = tmp_path / "model.yaml"
    path.write_text(MODEL.format(eva=said, weights=weights, bridge=bridge))
    return str(path)


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A folder with one shard per tensor."""
    folder.mkdir()
    table = {name: f"model-{i:05d}.safetensors" for i, name in enumerate(tensors)}
    for name, file in table.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def test_every_kind_of_file_has_a_header(tmp_path: Path) -> None:
    """Fails when a kind of file is refused, or a shape or type is read wrongly."""
    tensors = {"a": torch.zeros(2, 3, dtype=torch.float16), "b": torch.zeros((), dtype=torch.int64)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save({"model": tensors}, tmp_path / "b.pth")
    torch.save(tensors, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    folder = sharded(tmp_path / "d", tensors)
    for path in (*sorted(tmp_path.glob("*.*")), folder, folder / "model.safetensors.index.json"):
        found = {name: (entry.shape, entry.dtype, entry.num_bytes) for name, entry in read_headers(path).items()}
        assert found == {"a": ((2, 3), torch.float16, 12), "b": ((), torch.int64, 8)}, path


def test_headers_are_read_without_the_tensors(tmp_path: Path) -> None:
    """Fails when looking into a file of 40 GB reads it: the file is sparse and would take minutes."""
    path = tmp_path / "huge.safetensors"
    size = 40_000_000_000
    head = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)
    assert read_headers(path)["w"].num_bytes == size
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ValueError, match="not fully covered.; the file of 40.0 GB is truncated, damaged"):
        read_headers(path)


class Evil:
    """Runs something when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_what_is_wrong_is_one_message(tmp_path: Path) -> None:
    """Fails when a bad file ends in a traceback, in a message without its name or reason, or runs its code."""
    good = tmp_path / "good.pth"
    torch.save({"a": torch.zeros(1000)}, good)
    (tmp_path / "cut.pth").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><p>sign in</p>")
    (tmp_path / "short.safetensors").write_bytes(b"\x01\x02")
    (tmp_path / "text.safetensors").write_text("this is a text and no file of weights")
    torch.save({"model": Evil(tmp_path / "ran")}, tmp_path / "code.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"model": Evil(tmp_path / "ran")}, protocol=2))
    broken = sharded(tmp_path / "broken", {"a": torch.zeros(2), "b": torch.zeros(2)})
    (broken / "model-00001.safetensors").unlink()
    (tmp_path / "numbers.index.json").write_text('{"weight_map": {"a": 3}}')
    (tmp_path / "hollow").mkdir()
    reasons = {
        "cut.pth": "truncated", "page.pth": "web page",
        "short.safetensors": "2 B is truncated, damaged or of another kind",
        "text.safetensors": "truncated, damaged or of another kind",
        "code.pt": "mkdir; code is never run", "old.pt": "code is never run",
        "broken": "1 of 2 shards are missing: model-00001.safetensors", "hollow": "a folder without weights",
        "numbers.index.json": "not an index of shards",
        "none.pth": "there is no such file", "???": "placeholder",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as raised:
            main(["inspect", str(tmp_path / name)])
        assert name in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_inspect_prints_names_and_a_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a tensor is not shown, the sum is off, or --match and --json are not heard."""
    folder = sharded(tmp_path / "lm", {"one.weight": torch.zeros(500, 500), "two.bias": torch.zeros(7)})
    main(["inspect", str(folder)])
    out = capsys.readouterr().out
    assert "500x500  float32   one.weight" in out and "7  float32   two.bias" in out
    assert "2 tensors, 0.3 M values, 1.0 MB (float32) in 2 files" in out
    main(["inspect", str(folder), "--json", "--match", "two"])
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "name": "two.bias",
        "shape": [7],
        "dtype": "float32",
        "bytes": 28,
        "file": "model-00001.safetensors",
    }


def test_check_says_what_each_part_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when surplus, resized or absent tensors of a released file are not told, or a good file is refused."""
    torch.save({"model": released(eva())}, tmp_path / "eva.pth")
    assert main(["check", yaml(tmp_path, tmp_path / "eva.pth", image_size=16)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok  encoders.vision: loaded ") and out.endswith("1 files, all fit\n")
    assert "reshaped: vit.pos_embed (5 -> 17 positions, bicubic)" in out
    assert "(the features are taken before the final norm and the head)" in out
    assert "kept: norm.weight and 1 more (initial values; the file has no ln_vision)" in out


def test_check_refuses_what_would_not_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a missing, unexpected or wrongly shaped tensor passes, or one bad file hides another."""
    state = released(eva())
    state["blocks.0.attn.proj.weight"] = torch.zeros(3, 3)
    state["other.weight"] = state.pop("cls_token")
    torch.save(state, tmp_path / "eva.pth")
    save_file({"t5_proj.weight": torch.zeros(2)}, tmp_path / "bridge.safetensors")
    assert main(["check", yaml(tmp_path, tmp_path / "eva.pth", tmp_path / "bridge.safetensors")]) == 1
    out = capsys.readouterr().out
    assert "NO  encoders.vision: loaded " in out and "missing 1, unexpected 1, different shape 1" in out
    for row in ("missing     vit.cls_token", "unexpected  vit.other.weight", "16x16      3x3"):
        assert row in out
    assert "NO  bridges.projection" in out and "2 files, 2 do not fit" in out


def test_check_agrees_with_loading(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a converter that compares values (BEATs' shared table) cannot be asked about names alone."""
    case = read_golden(reference / "golden" / "chatbridge_beats.json")
    torch.save({"cfg": case.config, "model": case.weights}, tmp_path / "beats.pt")
    (tmp_path / "m.yaml").write_text(
        "model:\n"
        f"  encoders: {{audio: {{name: beats, weights: {tmp_path / 'beats.pt'}}}}}\n"
        "  bridges: {b: {name: linear}}\n"
        "  language: {name: causal_lm, architecture: {hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2}}\n"
        "  routes: {audio: {encoder: audio, bridge: b}}\n"
    )
    assert main(["check", str(tmp_path / "m.yaml")]) == 0
    config = BEATs.Config(weights=tmp_path / "beats.pt")
    num_loaded = len(load_component(BEATs(config), tmp_path / "beats.pt").loaded)
    assert f"encoders.audio: loaded {num_loaded}," in capsys.readouterr().out


def test_check_compares_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a language model's folder is not compared with its config.json, or old rotary buffers count."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "lm")
    torch.save({"model": released(eva())}, tmp_path / "eva.pth")
    path = Path(yaml(tmp_path, tmp_path / "eva.pth"))
    text = path.read_text()
    start = text.index("    architecture")
    path.write_text(text[:start] + f"    weights: {tmp_path / 'lm'}\n" + text[text.index("  routes") :])
    assert main(["check", str(path)]) == 0
    state = {
        **LlamaForCausalLM(LlamaConfig(**sizes)).state_dict(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
    }
    state["lm_head.weight"] = torch.zeros(7, 8)
    save_file(state, tmp_path / "lm" / "model.safetensors")
    capsys.readouterr()
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "shape    lm_head.weight  9x8        7x8" in out and "dropped: model.layers.0" in out


def test_placeholders_are_told_with_their_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when `???` is not listed with what belongs there, or a file that is there counts as missing."""
    torch.save({"model": released(eva())}, tmp_path / "eva_vit_g.pth")
    path = Path(yaml(tmp_path, tmp_path / "eva_vit_g.pth"))
    assert main(["list", str(path)]) == 0
    assert "ok  model.encoders.vision.weights" in capsys.readouterr().out
    path.write_text(
        path.read_text().replace(f"weights: {tmp_path / 'eva_vit_g.pth'}}}", "weights: ???}  # eva_vit_g.pth of ours")
    )
    assert main(["list", str(path), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["key"] == "model.encoders.vision.weights" and shown["present"] is False and shown["value"] == "???"
    assert shown["bytes"] == 2_030_000_000 and "BSD" in shown["licence"]
    with pytest.raises(ConfigError, match="weights"):
        main(["check", str(path)])


def test_the_shipped_models_are_listed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a shipped model has a file of which nobody says where it comes from."""
    files = sorted((repository / "configs" / "models").glob("*vicuna*.yaml"))
    files.append(repository / "configs" / "models" / "mmgpt_llama7b.yaml")
    for file in files:
        assert main(["list", str(file), "--json"]) == 1
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) >= 2 and all(line["source"] for line in lines), file.name
        if file.name.startswith("chatbind"):
            assert all(line["licence"] and line["bytes"] for line in lines)


def test_pipelines_that_draw_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when the folders of a generator are not among the files that a YAML needs, or without size and licence"""
    folder = tmp_path / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(bytes(64))
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline", "unet": ["diffusers", "UNet"]}')
    torch.save({"model": released(eva())}, tmp_path / "eva_vit_g.pth")
    path = Path(yaml(tmp_path, tmp_path / "eva_vit_g.pth"))
    drawn = {"name": "diffusion", "weights": str(folder), "refiner": "w/stable-diffusion-xl-refiner-1.0"}
    options = ["--options", f"model.generator={json.dumps(drawn)}"]
    assert main(["list", str(path), "--json", *options]) == 1
    found = {one["key"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["model.generator.weights"]["bytes"] == 64
    refiner = found["model.generator.refiner"]
    assert not refiner["present"] and refiner["bytes"] > 6e9 and "RAIL" in refiner["licence"]


def test_a_converted_file_loads_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when names or values change on the way to safetensors, or a whole checkpoint is not taken apart."""
    encoder = eva()
    whole = {f"visual_encoder.{key}": value for key, value in released(encoder).items() if ".2." not in key}
    whole |= {
        "llama_proj.weight": torch.ones(2, 2),
        "ln_vision.weight": torch.full((16,), 2.0),
        "ln_vision.bias": torch.zeros(16),
    }
    torch.save({"model": whole}, tmp_path / "checkpoint.pth")
    target = tmp_path / "vision.safetensors"
    assert main(["convert", str(tmp_path / "checkpoint.pth"), str(target)]) == 0
    assert "as eva_vit" in capsys.readouterr().out
    other = EvaViT(EvaViT.Config(**EVA))
    load_component(other, target)
    assert torch.equal(other.vit.pos_embed, encoder.vit.pos_embed) and other.norm.weight[0].item() == 2.0
    with pytest.raises(DataError, match="already exists"):
        main(["convert", str(tmp_path / "checkpoint.pth"), str(target)])
    save_file({"a.b": torch.ones(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(DataError, match="the part to write is unclear"):
        main(["convert", str(tmp_path / "odd.safetensors"), str(tmp_path / "x.safetensors")])
    assert (
        main(
            [
                "convert",
                str(sharded(tmp_path / "s", {"a": torch.ones(2)})),
                str(tmp_path / "y.safetensors"),
                "--part",
                "none",
            ]
        )
        == 0
    )
    assert list(read_headers(tmp_path / "y.safetensors")) == ["a"]


def test_a_misspelled_action(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when an unknown action is not answered with the nearest one."""
    assert main(["inspct"]) == 2
    assert "did you mean inspect?" in capsys.readouterr().err


def test_check_reports_all_missing_files_at_once(tmp_path: Path) -> None:
    """Fails when the file that a run starts from is reported only after those of the model are there."""
    path = Path(yaml(tmp_path, tmp_path / "gone.pth"))
    path.write_text(f"{path.read_text()}run: {{init_from: {tmp_path / 'start.pth'}}}\n")
    with pytest.raises(ConfigError) as raised:
        main(["check", str(path)])
    found = {problem.path: problem.message for problem in raised.value.problems}
    assert list(found)[-1] == "run.init_from" and len(found) == 2
    assert all(message.startswith("there is no file") for message in found.values())


def test_check_looks_at_the_file_a_run_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a released checkpoint under run.init_from is not compared, projection only or of a whole model."""
    torch.save({"model": released(eva())}, tmp_path / "eva.pth")
    path = Path(yaml(tmp_path, tmp_path / "eva.pth"))
    text = path.read_text()
    projection = {"llama_proj.weight": torch.zeros(8, 16), "llama_proj.bias": torch.zeros(8)}
    whole = {"visual_encoder.cls_token": torch.zeros(1, 1, 16), "audio_encoder.x": torch.zeros(1), **projection}
    narrow = {**projection, "llama_proj.weight": torch.zeros(8, 5)}
    for tensors, code, said in (
        (projection, 0, "ok  bridges.projection: loaded 2"),
        (narrow, 1, "output.weight  8x16       8x5"),
        (whole, 1, "1 tensors of audio, which this model lacks"),
    ):
        torch.save({"model": tensors}, tmp_path / "start.pth")
        path.write_text(f"{text}run: {{init_from: {tmp_path / 'start.pth'}}}\n")
        assert main(["check", str(path)]) == code
        assert said in capsys.readouterr().out


def test_check_looks_at_the_run_that_a_run_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a folder under run.init_from passes unseen: DeepSpeed's parts, nothing, or tensors of another size."""
    torch.save({"model": released(eva())}, tmp_path / "eva.pth")
    path = Path(yaml(tmp_path, tmp_path / "eva.pth"))
    text = path.read_text()
    step, parts = tmp_path / "run/checkpoints/step_000002", tmp_path / "zero"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    (parts / "global_step3").mkdir(parents=True)
    (parts / "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    for start, shape, code, said in (
        ("run", (8, 16), 0, "ok  run.init_from: loaded 1"),
        ("run", (8, 5), 1, "bridges.projection.output.weight  8x16       8x5"),
        ("zero", (8, 16), 1, "join them with zero_to_fp32.py"),
        ("zero/global_step3", (8, 16), 1, "join them with zero_to_fp32.py"),
        ("run/checkpoints/step_9", (8, 16), 1, "does not exist"),
    ):
        save_file({"bridges.projection.output.weight": torch.zeros(shape)}, step / "model.safetensors")
        path.write_text(f"{text}run: {{init_from: {tmp_path / start}}}\n")
        assert main(["check", str(path)]) == code
        assert said in capsys.readouterr().out
