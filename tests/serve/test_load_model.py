"""`load_model` builds a trained model from a run folder or checkpoint alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatbridge import load_model
from chatbridge.cli import demo, train
from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.conversation.messages import assistant, user
from chatbridge.models.checkpoint_manifest import read_manifest, seal_manifest
from chatbridge.models.language import GenerateOptions
from chatbridge.models.loading import save_component
from chatbridge.models.weight_files import read_state
from chatbridge.serve.engine import ChatEngine
from tests.helpers.media_files import image_bytes
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_models import tiny_model

SHORT = GenerateOptions(max_new_tokens=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a miniature world, a finished run of two steps in `run`, and an image."""
    folder = tmp_path_factory.mktemp("trained")
    world = MiniWorld(folder / "world")
    experiment = world.experiment(folder / "run", max_steps=2, save_every=1, device="cpu")
    encoders = experiment["model"]["encoders"]
    for name, part in tiny_model().encoders.items():  # frozen parts come from files
        save_component(part, folder / f"{name}.safetensors")
        encoders[name] = {**encoders[name], "weights": str(folder / f"{name}.safetensors")}
    assert train.main(["--cfg-path", str(write_yaml(folder / "x.yaml", experiment))]) == 0
    (folder / "cat.jpg").write_bytes(image_bytes("JPEG"))
    return folder


def test_a_run_folder_is_enough_to_answer(run: Path) -> None:
    """fails when a model loaded from a run folder does not accept files and text, or answers unlike the demo"""
    model = load_model(run / "run")
    assert isinstance(model, ChatEngine) and "step 2" in "\n".join(model.about)
    reported = model.reply([run / "cat.jpg", "what color is it ?"], SHORT)
    same = ChatEngine.from_checkpoint(run / "run")
    image = same.attach(run / "cat.jpg").media
    assert reported == same.answer((user(*image, "what color is it ?"),), SHORT).text
    talk = (user("what color ?"), assistant("red"), user("is it ?"))
    assert isinstance(model.reply(talk, SHORT), str) and isinstance(model.reply("what ?", SHORT), str)
    with pytest.raises(MediaError):
        model.reply([run / "x.yaml", "what ?"])


def test_tensors_are_those_of_the_checkpoint(run: Path, tmp_path: Path) -> None:
    """fails when a checkpoint folder that was moved without its run does not load, or tensors of another step do"""
    alone = tmp_path / "elsewhere"
    shutil.copytree(run / "run/checkpoints/step_000001", alone)
    model = load_model(str(alone)).model
    state = read_state(alone / "model.safetensors")
    for name, tensor in state.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert state and not any(parameter.requires_grad for parameter in model.parameters())


def test_template_strings_come_from_the_manifest(run: Path, tmp_path: Path) -> None:
    """fails when the prompt has other template strings than the training"""
    alone = tmp_path / "renamed"
    shutil.copytree(run / "run/checkpoints/step_000002", alone)
    manifest = read_manifest(alone)
    manifest["template"]["assistant"] = "Robot:"
    seal_manifest(alone / "manifest.json", manifest)
    template = load_model(alone).layout.template
    assert template.render((user("hi"),), reply=True).endswith("###Robot:")


def test_another_language_model_is_refused(run: Path, tmp_path: Path) -> None:
    """fails when trained tensors are used with a changed language model or tokenizer"""
    changed = tmp_path / "lm"
    shutil.copytree(run / "world/lm", changed)
    lm = AutoModelForCausalLM.from_pretrained(changed)
    with torch.no_grad():
        lm.model.layers[0].mlp.up_proj.weight.mul_(1.05)
    lm.save_pretrained(changed)
    alone = tmp_path / "revised"
    shutil.copytree(run / "run/checkpoints/step_000002", alone)
    manifest = read_manifest(alone)
    manifest["model"]["language"]["weights"] = str(changed)
    seal_manifest(alone / "manifest.json", manifest)
    with pytest.raises(ConfigError) as caught:
        load_model(alone)
    reported = " ".join(str(caught.value).split())
    assert "frozen weights:" in reported and "language: fingerprint" in reported and "encoders.vision" not in reported


def test_frozen_weights_that_moved_are_redirected(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a checkpoint cannot be used after its language model moved, or the message has no next step"""
    lm, moved = run / "world/lm", run / "world/elsewhere"
    option = f"model.language.weights={moved}"
    monkeypatch.setattr(demo, "need", lambda *_: None)  # gradio
    lm.rename(moved)
    try:
        with pytest.raises(ConfigError) as caught:
            load_model(run / "run")
        assert 'options=["model.language.weights=NEW_PATH"]' in " ".join(str(caught.value).split())
        assert isinstance(load_model(run / "run", options=[option]).reply("what ?", SHORT), str)
        with pytest.raises(ConfigError) as caught:
            demo.main(["--checkpoint", str(run / "run"), "--check"])
        assert "--options model.language.weights=NEW_PATH" in " ".join(str(caught.value).split())
        assert demo.main(["--checkpoint", str(run / "run"), "--check", "--options", option]) == 0
    finally:
        moved.rename(lm)


def test_the_manifest_records_the_preprocessing(run: Path) -> None:
    """fails when a checkpoint does not record the processors that its encoders were trained with"""
    prepared = read_manifest(run / "run/checkpoints/step_000002")["preprocessing"]
    assert set(prepared) == {"vision", "audio"}
    assert len(prepared["vision"]["statistics.mean"]) == 3 and prepared["audio"]["rate_hz"] == 16000


@pytest.mark.parametrize("what", ["nothing", "empty", "other"])
def test_an_invalid_checkpoint_path_is_reported(run: Path, tmp_path: Path, what: str) -> None:
    """fails when a wrong path gives a traceback instead of what was expected"""
    folder = tmp_path / what
    if what != "nothing":
        folder.mkdir()
    if what == "other":
        (folder / "manifest.json").write_text('{"format": "something"}')
    with pytest.raises(ConfigError, match=r"does not exist|has no\s+checkpoints|expected\s+format"):
        load_model(folder)


def test_a_run_with_the_chat_template_of_its_tokenizer(run: Path, tmp_path: Path) -> None:
    """fails when hf_chat does not go from YAML through training and its manifest to an answer"""
    lm = tmp_path / "lm"
    shutil.copytree(run / "world/lm", lm)
    chat = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + eos_token }}{% endfor %}"
    (lm / "chat_template.jinja").write_text(chat + "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}")
    world = MiniWorld(tmp_path / "world")
    experiment = world.experiment(tmp_path / "run", max_steps=2, device="cpu")
    experiment["model"]["language"] |= {"weights": str(lm), "template": "hf_chat"}
    experiment["model"]["trainable"] = ["bridges.*", "encoders.*"]  # nothing random stays frozen
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "x.yaml", experiment))]) == 0
    model = load_model(tmp_path / "run")
    assert model.layout.template.render((user("what ?"),), reply=True) == "user : what ?</s>assistant :"
    assert isinstance(model.reply([run / "cat.jpg", "what ?"], SHORT), str)


def test_a_chat_template_from_a_file(run: Path, tmp_path: Path) -> None:
    """fails when conversations are not rendered with the file, its text is not in the manifest, or a changed or missing
    file, or a template that does not read it, is accepted"""
    chat = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + eos_token }}{% endfor %}"
    chat += "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
    file = tmp_path / "mine.jinja"
    file.write_text(chat)
    world = MiniWorld(tmp_path / "world")
    experiment = world.experiment(tmp_path / "run", max_steps=2, save_every=1, device="cpu")
    experiment["model"]["language"] |= {"template": "hf_chat", "chat_template": str(file)}
    experiment["model"]["trainable"] = ["bridges.*", "encoders.*"]  # nothing random stays frozen
    path = str(write_yaml(tmp_path / "x.yaml", experiment))
    assert train.main(["--cfg-path", path, "--options", "run.stop_at=1"]) == 0
    manifest = json.loads((tmp_path / "run/checkpoints/step_000001/manifest.json").read_text())
    assert manifest["template"] == {"name": "hf_chat", "chat_template": chat}
    file.write_text(chat.replace(" : ", " = "))
    with pytest.raises(ConfigError, match="chat template: fingerprint"):
        train.main(["--cfg-path", path])
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        train.main(["--cfg-path", path, "--check"])
    file.unlink()
    with pytest.raises(ConfigError, match="no file"):
        train.main(["--cfg-path", path, "--check"])
    assert load_model(tmp_path / "run").layout.template.render((user("a"),), reply=True) == "user : a</s>assistant :"
    file.write_text(chat)
    with pytest.raises(ConfigError, match="hf_chat only"):
        train.main(["--cfg-path", path, "--check", "--options", "model.language.template=vicuna_v0"])


def test_importing_the_package_is_light() -> None:
    """fails when `import chatbridge` imports torch"""
    code = "import sys, chatbridge; print('torch' in sys.modules, chatbridge.__version__ != '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
