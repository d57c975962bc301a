"""Hugging Face ids: models in the local cache are found by their id, and nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse, plain
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.hf_folder import cached_folder
from chatbridge.models.language.causal_lm import CausalLM

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as `hf download lab/tiny-llama` leaves it, with a config.json only."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "models--lab--tiny-llama"
    folder = model / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 20, **sizes}))
    return folder


def test_an_id_in_the_cache_is_its_folder(snapshot: Path) -> None:
    """Fails when an id is not looked up, or resolved.yaml does not record which revision was used."""
    config = parse(CausalLM.Config, {"weights": "lab/tiny-llama"})
    assert config.weights == snapshot
    assert REVISION in str(plain(config)["weights"])
    assert CausalLM(config).width == 16


def test_a_folder_of_that_path_wins(snapshot: Path, tmp_path: Path) -> None:
    """Fails when a folder of one's own is silently replaced by something from the cache."""
    own = tmp_path / "lab" / "tiny-llama"
    own.mkdir(parents=True)
    assert cached_folder(Path("lab/tiny-llama")) == Path("lab/tiny-llama")


@pytest.mark.parametrize("kind", [CausalLM.Config, HFVision.Config])
def test_an_id_that_is_not_cached_says_how_to_get_it(snapshot: Path, kind: type) -> None:
    """Fails when a missing model is a traceback or is downloaded, or the message has no next step."""
    with pytest.raises(ConfigError) as caught:
        parse(kind, {"weights": "lab/other"})
    message = " ".join(str(caught.value).split())
    assert "no model of that id in the Hugging Face cache" in message
    assert "python -m chatbridge weights fetch lab/other FOLDER" in message


def test_parts_of_deepspeed_are_refused_with_the_next_step(snapshot: Path) -> None:
    """Fails when a folder of DeepSpeed's parts is taken for a model until its weights are read."""
    (snapshot / "global_step5").mkdir()
    with pytest.raises(ConfigError, match=r"(?s)has no weights.*zero_to_fp32.py"):
        parse(CausalLM.Config, {"weights": str(snapshot)})


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hiden_size": 32}, r"architecture.hiden_size\s+is not a setting of llama\s+did you mean hidden_size"),
        ({"model_type": "lama"}, r"no model_type 'lama'\s+did you mean llama"),
        ({"hidden_size": "big"}, "these sizes make no model: .*hidden_size"),
        ({"hidden_size": 15}, "these sizes make no model: .*multiple of the number of attention heads"),
        ({"num_attention_heads": 0}, "these sizes make no model"),
    ],
)
def test_sizes_that_make_no_model_are_one_message(changed: dict[str, object], message: str) -> None:
    """Fails when a misspelled size is ignored, so that another model is built, or a wrong one ends in a traceback."""
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parse(CausalLM.Config, {"architecture": {**SIZES, **changed}})
    parse(CausalLM.Config, {"architecture": {**SIZES, "rope_theta": 1e4, "torch_dtype": "float16"}})


def test_a_tower_with_wrong_sizes_is_one_message() -> None:
    """Fails when a misspelled size of an encoder is ignored, or a wrong one ends in a traceback."""
    sizes = {"model_type": "clip_vision_model", "hidden_size": 16, "num_attention_heads": 2}
    with pytest.raises(ConfigError, match=r"(?s)num_atention_heads.*did you mean num_attention_heads"):
        parse(HFVision.Config, {"architecture": {**sizes, "num_atention_heads": 2}})
    with pytest.raises(ConfigError, match="these sizes make no model"):
        parse(HFVision.Config, {"architecture": {**sizes, "hidden_size": "wide"}})


def test_a_tower_has_the_sizes_of_its_configuration(tmp_path: Path) -> None:
    """Fails when sizes beside a folder are refused, or a folder of other sizes is taken."""
    sizes = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    inner = {**sizes, "patch_size": 7}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": inner}))
    with pytest.raises(ConfigError, match=r"patch_size 7, this configuration is for 14 \(architecture.patch_size\)"):
        parse(HFVision.Config, {"architecture": sizes, "weights": str(tmp_path)})
    inner["patch_size"] = 14
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": inner}))
    both = parse(HFVision.Config, {"architecture": sizes, "weights": str(tmp_path)})
    assert both.settings.to_dict() == parse(HFVision.Config, {"weights": str(tmp_path)}).settings.to_dict()
    with pytest.raises(ConfigError, match=r"give weights .* or architecture"):
        parse(HFVision.Config, {})
