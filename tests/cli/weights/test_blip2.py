"""`chatbridge weights` with BLIP-2 in the names of transformers and with TextBind's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chatbridge.cli.weights.command import main
from chatbridge.cli.weights.published_files import published_file
from chatbridge.common.errors import DataError
from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import load_component
from tests.helpers.textbind_release import (
    BLIP2_VISION,
    QFORMER,
    Blip2,
    qformer_file,
    stage_1_file,
    stage_2_file,
    tiny_blip2,
)
from tests.helpers.tiny_models import LANGUAGE

MODEL = """
model:
  encoders:
    vision: {{name: eva_vit, width: 24, depth: 2, heads: 2, mlp_ratio: 2.0, image_size: 28, weights: {folder}}}
  bridges:
    qformer: {{name: qformer, num_queries: 3, num_layers: 2, width: 16, heads: 2, weights: "${{model.encoders.vision.weights}}"}}
  language:
    name: causal_lm
    architecture: {{hidden_size: 20, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, vocab_size: 50}}
  added_tokens: [<image>, <start>, <end>]
  routes:
    image: {{encoder: vision, bridge: qformer}}
run:
  init_from: {start}
"""  # noqa: E501


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Blip2:
    return tiny_blip2(tmp_path_factory.mktemp("blip2") / "blip2-flan-t5-tiny")


def test_check_reads_both_parts_of_one_folder(blip2: Blip2, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a part of the folder is compared with another one's tensors, or the start file is not looked at."""
    torch.save(stage_2_file(), tmp_path / "second_stage_model.pt")
    path = tmp_path / "model.yaml"
    path.write_text(MODEL.format(folder=blip2.folder, start=tmp_path / "second_stage_model.pt"))
    assert main(["check", str(path)]) == 0
    told = capsys.readouterr().out
    assert told.count(f"<- {blip2.folder}") == 2 and "ok  language: loaded" in told and "all fit" in told
    torch.save({n: v for n, v in stage_2_file().items() if n != "query_tokens"}, tmp_path / "second_stage_model.pt")
    assert main(["check", str(path)]) == 1
    assert "lacks query_tokens, so it is incomplete" in capsys.readouterr().out


def test_convert_both_ways(blip2: Blip2, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a part that goes to our names, LAVIS's and back to transformers' is not the same."""
    theirs = blip2.model.state_dict()
    for part, beginnings in (("eva_vit", ("vision_model.",)), ("qformer", ("qformer.", "query_tokens"))):
        ours, lavis, back = (str(tmp_path / f"{part}_{name}.safetensors") for name in ("ours", "lavis", "back"))
        assert main(["convert", str(blip2.folder), ours, "--part", part]) == 0
        assert main(["convert", ours, lavis, "--names", "lavis"]) == 0
        assert main(["convert", lavis, back, "--names", "huggingface"]) == 0
        found = load_file(back)
        assert found.keys() == {name for name in theirs if name.startswith(beginnings)}
        assert all(torch.equal(found[name], theirs[name]) for name in found)
        own = EvaViT(EvaViT.Config(**BLIP2_VISION)) if part == "eva_vit" else None
        own = own or QFormer(QFormer.Config(**{k: v for k, v in QFORMER.items() if k != "name"}), {"image": 24}, 20)
        for file in (ours, lavis, back):
            load_component(own, file)
    names = (
        load_file(tmp_path / "qformer_lavis.safetensors").keys()
        | load_file(tmp_path / "eva_vit_lavis.safetensors").keys()
    )
    assert {"Qformer.bert.embeddings.LayerNorm.bias", "visual_encoder.cls_token", "ln_vision.bias"} <= names
    with pytest.raises(DataError, match="several parts.*--part qformer"):
        main(["convert", str(blip2.folder), str(tmp_path / "x.safetensors")])
    torch.save({"patch_embed.proj.weight": torch.ones(1), "head.bias": torch.ones(1), "blocks.39.norm1.bias":
                torch.ones(1)}, tmp_path / "eva_vit_g.pth")  # fmt: skip
    assert (
        main(["convert", str(tmp_path / "eva_vit_g.pth"), str(tmp_path / "g.safetensors"), "--names", "huggingface"])
        == 0
    )
    assert load_file(tmp_path / "g.safetensors").keys() == {"vision_model.embeddings.patch_embedding.weight"}


def test_convert_a_file_of_textbind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a whole file becomes a part without being told, or its Q-Former cannot be taken."""
    torch.save(stage_2_file(), tmp_path / "second_stage_model.pt")
    source, target = str(tmp_path / "second_stage_model.pt"), str(tmp_path / "q.safetensors")
    for arguments, message in (
        ([], "several parts.*run.init_from"),
        (["--part", "causal_lm"], "only --part qformer is written, and with --base FOLDER --part causal_lm"),
        (["--part", "linear"], "only --part qformer is written"),
        (["--part", "qformer", "--base", str(tmp_path)], "--base is for --part causal_lm of TextBind's file"),
        (["--part", "causal_lm", "--base", str(tmp_path)], "give a name without an ending"),
    ):
        with pytest.raises(DataError, match=message):
            main(["convert", source, target, *arguments])
    assert main(["convert", source, target, "--part", "qformer"]) == 0
    found = load_file(target)
    assert {name.partition(".")[0] for name in found} == {"queries", "qformer", "output"}
    torch.save({"a_proj.weight": torch.ones(2, 2)}, tmp_path / "linear.pt")
    arguments = ["convert", str(tmp_path / "linear.pt"), str(tmp_path / "y.safetensors"), "--part", "linear"]
    with pytest.raises(DataError, match="--names lavis is for --part eva_vit and qformer"):
        main([*arguments, "--names", "lavis"])


def test_inspect(blip2: Blip2, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a file is not said to be TextBind's, or a whole BLIP-2 not to be for the parts."""
    for name, tensors in (("blip2_qformer.pt", qformer_file()), ("second_stage_model.pt", stage_2_file())):
        torch.save(tensors, tmp_path / name)
        assert main(["inspect", str(tmp_path / name), "--match", "query_tokens"]) == 0
        assert "TextBind's weights (tensors: query_tokens 1, qformer" in capsys.readouterr().out
    assert main(["inspect", str(blip2.folder)]) == 0
    assert "set model.encoders.NAME.weights and model.bridges.NAME.weights to it" in capsys.readouterr().out


def test_the_shipped_model_is_listed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a file of TextBind is listed without source and licence, or as another one."""
    assert main(["list", str(repository / "configs/models/textbind_llama2_7b.yaml")]) == 1
    told = capsys.readouterr().out
    assert "licence: MIT (Salesforce)" in told and "Llama 2 community licence" in told and "3 missing" in told
    for path, name in (
        ("weights/blip2_qformer.pt", "BLIP-2's Q-Former, as TextBind starts"),
        ("weights/second_stage_model.pt", "TextBind"),
        ("/models/blip2-flan-t5-xxl", "BLIP-2 of the Hugging Face hub"),
    ):
        found = published_file(path)
        assert found is not None and found.name == name and found.licence and found.source


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model of the release."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base") / "llama"
    LlamaForCausalLM(LlamaConfig(**LANGUAGE["architecture"])).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_the_language_model_as_a_folder(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the folder has rows of added tokens, other values than the file, or no settings; or a base of another
    size or a file of stage 1 is taken."""
    from transformers import AutoModelForCausalLM

    tensors = stage_2_file()
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "second_stage_model.pt")
    torch.save(stage_1_file(), tmp_path / "first.pt")
    source, out = str(tmp_path / "second_stage_model.pt"), tmp_path / "tuned"
    arguments = ["--part", "causal_lm", "--base", str(llama)]
    assert main(["convert", source, str(out), *arguments, "--dtype", "fp32"]) == 0
    assert "set it as model.language.weights beside run.init_from" in capsys.readouterr().out
    found = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(value, tensors[f"language_model.{name}"][: len(value)]) for name, value in found.items())
    assert found["lm_head.weight"].shape == (50, 20) and (out / "tokenizer.json").is_file()
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text('{"vocab_size": 51, "hidden_size": 20}')
    for file, base, message in (
        ("second_stage_model.pt", tmp_path / "wide", "has 51 rows of 20 channels, and the file 53 of 20"),
        ("second_stage_model.pt", tmp_path, "has no readable config.json"),
        ("first.pt", llama, "has no language model: it is a result of stage 1"),
    ):
        given = ["convert", str(tmp_path / file), str(tmp_path / "never"), "--part", "causal_lm", "--base", str(base)]
        with pytest.raises(DataError, match=message):
            main(given)
    assert not (tmp_path / "never").exists()
    with pytest.raises(DataError, match="that does not exist yet"):
        main(["convert", source, str(out), *arguments])
