"""`chatbridge weights fetch CFG.yaml` against a small hub on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from chatbridge.cli.weights import fetch_config
from chatbridge.cli.weights.command import main
from chatbridge.cli.weights.hub_download import needed_files
from chatbridge.cli.weights.list import Needed
from chatbridge.models.hf_folder import cached_folder
from tests.helpers.small_hub import COMMIT, SmallHub

LM = {
    "config.json": b"{ }",
    "tokenizer.json": b"{  }",
    "model.safetensors": b"safe" * 5000,
    "pytorch_model.bin": b"copy",
    "onnx/model.onnx": b"onnx",
    "README.md": b"card",
}
EYES = {"config.json": b"{}", "preprocessor_config.json": b"{   }", "pytorch_model.bin": b"weights" * 100}
YAML = """
base: [models/chatbridge_tiny.yaml]
model:
  encoders: {vision: null, audio: null, eyes: {name: hf_vision, weights: lab/eyes@v1}}
  language: {name: causal_lm, weights: lab/lm, template: hf_chat}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with SmallHub({"lab/lm": dict(LM), "lab/eyes": dict(EYES)}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(YAML)
    return path


def test_one_command_brings_what_a_yaml_names_once(hub, config, capsys):
    """Fails when a model is not found afterwards by its id, copies in other formats are downloaded, or a second run
    downloads again."""
    assert main(["fetch", str(config)]) == 0
    folder, eyes = cached_folder(Path("lab/lm")), cached_folder(Path("lab/eyes@v1"))
    assert folder is not None and (folder / "model.safetensors").read_bytes() == LM["model.safetensors"]
    assert eyes is not None and sorted(path.name for path in eyes.iterdir()) == sorted(EYES)
    brought = sorted(name for name, _ in hub.served)
    assert brought == sorted([*(f"lab/eyes/{name}" for name in EYES), "lab/lm/config.json", "lab/lm/model.safetensors",
                              "lab/lm/tokenizer.json"])  # fmt: skip
    assert f"commit {COMMIT[:12]}, licence apache-2.0" in capsys.readouterr().out
    assert main(["fetch", str(config)]) == 0
    assert sorted(name for name, _ in hub.served) == brought


def test_a_dry_run_says_what_would_come_and_downloads_nothing(hub, config, capsys):
    """Fails when the plan has no sizes, or --dry-run writes to the cache."""
    assert main(["fetch", str(config), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "fetch  lab/lm: 20.0 KB in 3 files" in said and "nothing was downloaded" in said
    assert hub.served == []


def test_an_interrupted_download_resumes_and_is_whole(hub, config):
    """Fails when a file that ended early counts as there."""
    hub.break_after = 9000
    first = main(["fetch", str(config)])
    assert first == 0 or main(["fetch", str(config)]) == 0
    folder = cached_folder(Path("lab/lm"))
    assert folder is not None and (folder / "model.safetensors").read_bytes() == LM["model.safetensors"]


def test_what_cannot_be_had_is_listed_with_the_next_step_and_the_rest_comes(hub, config, capsys):
    """Fails when one gated, misspelled or unset part stops the others, or has no next step."""
    hub.gated.add("lab/lm")
    options = ["--options", "model.generator={name: diffusion, weights: ???}"]
    assert main(["fetch", str(config), *options]) == 1
    said = capsys.readouterr().out
    assert "its terms must be accepted on https://huggingface.co/lab/lm" in said and "hf auth login" in said
    assert "model.generator.weights: give it a path first" in said
    assert cached_folder(Path("lab/eyes@v1")) != Path("lab/eyes@v1")
    config.write_text(YAML.replace("lab/eyes@v1", "lab/eyes@v9").replace("lab/lm", "lab/llm"))
    assert main(["fetch", str(config)]) == 1
    said = capsys.readouterr().out
    assert "lab/eyes: has no revision 'v9'" in said and "the hub has no such model" in said


def test_without_a_network_the_copy_in_the_cache_will_do(hub, config, capsys, monkeypatch):
    """Fails when a run that has everything needs the hub, or a missing part has no address."""
    assert main(["fetch", str(config)]) == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["fetch", str(config)]) == 0
    config.write_text(YAML.replace("lab/lm", "lab/other"))
    capsys.readouterr()
    assert main(["fetch", str(config)]) == 1
    assert "download https://huggingface.co/lab/other elsewhere" in capsys.readouterr().out


def test_a_disk_without_room_is_said_before_anything_comes(hub, config, monkeypatch, run_error):
    """Fails when a download of many gigabytes ends at a full disk."""
    monkeypatch.setattr(fetch_config, "_free", lambda: 1 << 20)
    with run_error("are to be downloaded, and .* free; make room"):
        main(["fetch", str(config)])
    assert hub.served == []


@pytest.fixture
def run_error():
    from chatbridge.common.errors import DataError

    return lambda message: pytest.raises(DataError, match=message)


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],  # noqa: E501
         ["original/consolidated.00.pth", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]),
        (["config.json", "model.safetensors"], ["model.fp32-00001-of-00002.safetensors", "tf_model.h5"]),
        (["LICENSE.txt", "pytorch_model.bin", "vocab.txt"], ["flax_model.msgpack", "README.md"]),
    ],
)  # fmt: skip
def test_the_weights_come_in_one_format(names, others):
    """Fails when the same weights are downloaded twice, or an index of the other format is left beside them."""
    assert needed_files([*others, *names]) == names


def test_a_folder_that_cannot_be_made_and_a_path_that_is_nothing_do_not_stop_the_rest(tmp_path):
    """Fails when a file in place of a folder ends the command, or a line of what is missing has no reason."""
    (tmp_path / "file").touch()
    wanted = fetch_config.Wanted(addresses={tmp_path / "file/a.pth": "http://127.0.0.1:9/a.pth"})
    (failed,) = fetch_config._bring(wanted)
    assert f"{tmp_path}/file/a.pth" in failed and "File exists" in failed
    odd = Needed("model.language.weights", "o/n@", False, None, "", "")
    assert fetch_config.examine([odd]).by_hand == ["model.language.weights: o/n@ is not here, and no id of the hub"]


def test_arguments_that_do_not_fit_together_are_refused(config):
    """Fails when a target beside a YAML, or a repository without one, is taken silently."""
    for wrong in ([str(config), "folder"], ["lab/lm"], ["lab/lm", "folder", "--dry-run"]):
        with pytest.raises(SystemExit):
            main(["fetch", *wrong])


@pytest.mark.parametrize("name", ["modern_2b", "modern_4b", "modern_8b", "modern_llama32_1b", "modern_dinov3", "modern_smollm3_3b"])  # fmt: skip  # noqa: E501
def test_the_parts_of_the_recipes_are_listed_with_size_licence_and_revision(hub, name, capsys):
    """Fails when a part of a shipped model has no entry among the published files, or a gated one does not say so."""
    assert main(["list", f"configs/models/{name}.yaml", "--json"]) == 1
    needed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert needed and all(one["bytes"] and one["licence"] and one["source"] and one["revision"] for one in needed)
    assert {one["value"] for one in needed if one["gated"]} == {
        one["value"] for one in needed if one["value"].startswith(("meta-llama/", "facebook/dinov3"))
    }


def test_a_model_in_the_cache_is_listed_with_its_commit(hub, config, capsys):
    """Fails when the reader cannot tell which revision a run would use."""
    assert main(["fetch", str(config)]) == 0
    capsys.readouterr()
    assert main(["list", str(config)]) == 0
    assert capsys.readouterr().out.count(f"revision: {COMMIT}") == 2
