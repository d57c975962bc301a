"""The generator `diffusion` before its weights are read: folders, settings, and images that cannot be shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatbridge.models.generators import Generator, RenderError, RenderStopped, watching
from chatbridge.models.generators._pipeline import Pipeline, pixels_of, variant_of
from chatbridge.models.generators._pipeline_folder import read_pipeline_folder
from chatbridge.models.generators.diffusion import Diffusion

PARTS = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


def folder_of(folder: Path, kind: Any = "StableDiffusionPipeline", **parts: Any) -> Path:
    """A folder with the files of a pipeline, whose weights are a few zeros."""
    named = {**PARTS, "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None], **parts}
    for name, (library, _) in named.items():
        if library is not None:
            (folder / name).mkdir(parents=True)
            if name != "scheduler":
                (folder / name / "model.safetensors").write_bytes(bytes(100))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind, **named}))
    return folder


def problems_of(**settings: Any) -> dict[str, str]:
    return {one.path: f"{one.message} {one.hint or ''}" for one in Diffusion.Config(**settings).problems()}


def test_faults_of_a_folder_are_found_without_weights(tmp_path):
    """fails when an absent, incomplete or wrong folder is noticed only once an image is asked for"""
    good = folder_of(tmp_path / "good")
    assert problems_of(weights=good) == {}
    assert "nothing is downloaded" in problems_of(weights=tmp_path / "none" / "where")["weights"]
    assert "fetch owner/name FOLDER" in problems_of(weights=Path("owner/name"))["weights"]
    assert "give the folder with" in problems_of(weights=good / "model_index.json")["weights"]
    assert f"{good} is one" in problems_of(weights=tmp_path)["weights"]
    assert "one model, not a pipeline" in problems_of(weights=_with_config(good / "unet"))["weights"]
    (good / "vae" / "model.safetensors").unlink()
    assert "has no weights in vae" in problems_of(weights=good)["weights"]
    (good / "vae").rmdir()
    assert "lacks the folders vae" in problems_of(weights=good)["weights"]
    (good / "model_index.json").write_text("<html>")
    assert "is a web page" in problems_of(weights=good)["weights"]
    own = folder_of(tmp_path / "own", ["pipeline", "Mine"])
    assert "never executed" in problems_of(weights=own)["weights"]


def _with_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def test_a_refiner_need_not_hold_what_it_shares(tmp_path):
    """fails when parts of the base are demanded of the refiner's folder, or a split that leaves one without a step"""
    base = folder_of(tmp_path / "base")
    refiner = folder_of(tmp_path / "refiner")
    (refiner / "vae" / "model.safetensors").unlink()
    assert problems_of(weights=base, refiner=refiner) == {}
    assert "vae" in problems_of(weights=base, refiner=refiner, refiner_shares=())["refiner"]
    assert "the refiner 0" in problems_of(weights=base, refiner=refiner, steps=2)["split"]


def test_settings_that_no_pipeline_takes_are_problems(tmp_path):
    """fails when a size or a device that cannot work is accepted"""
    good = folder_of(tmp_path / "good")
    found = problems_of(weights=good, width=100, device="gpu", offload="model")
    assert "96 or 104" in found["width"] and "'gpu'" in found["device"]
    assert "no effect" in problems_of(weights=good, device="cpu", offload="model")["offload"]


def test_half_precision_files_are_read_where_they_fit(tmp_path):
    """fails when fp16 files are ignored for fp16, or used for fp32 although full ones are there"""
    folder = folder_of(tmp_path / "both")
    assert not variant_of(read_pipeline_folder(folder), torch.float16)
    for name in PARTS:
        (folder / name / "model.fp16.safetensors").write_bytes(bytes(50))
    found = read_pipeline_folder(folder)
    assert variant_of(found, torch.float16) and not variant_of(found, torch.float32)
    assert (found.size(True), found.size(False)) == (100, 200)
    for name in PARTS:
        (folder / name / "model.safetensors").unlink()
    assert variant_of(read_pipeline_folder(folder), torch.float32)
    assert "StableDiffusionPipeline" in Diffusion.Config(weights=folder).describe()


def output(value: float, rejected: bool = False) -> Any:
    images = torch.full((1, 3, 8, 8), value)
    return SimpleNamespace(images=images, nsfw_content_detected=[rejected])


@pytest.mark.parametrize(
    ("found", "reason"),
    [(output(float("nan")), "not numbers; set dtype"), (output(0.0), "black"), (output(0.5, True), "safety checker")],
)
def test_an_image_that_is_none_is_an_error(found, reason):
    """fails when a user is shown a black image and told nothing"""
    with pytest.raises(RenderError, match=reason):
        pixels_of(found, torch.float16)


def test_images_keep_their_pixels():
    """fails when values are cut off instead of rounded, or the axes of an array are swapped"""
    (image,) = pixels_of(output(0.5), torch.float32)
    assert image.dtype == torch.uint8 and image.shape == (3, 8, 8) and int(image[0, 0, 0]) == 128
    array = torch.zeros(4, 6, 3)
    array[1, 2, 0] = 1.0
    (image,) = pixels_of(SimpleNamespace(images=[array.numpy()]), torch.float32)
    assert image.shape == (3, 4, 6) and int(image[0, 1, 2]) == 255


class FakePipe:
    """Takes three steps, and neither a size nor a negative prompt."""

    num_timesteps = 3

    def __call__(self, prompt, generator, num_inference_steps, output_type, callback_on_step_end):
        for step in range(3):
            callback_on_step_end(self, step, 0, {})
        return output(0.5)


class Calling(Generator):
    """Reports what a pipeline reports."""

    def render(self, captions, seeds):
        config = SimpleNamespace(steps=3, guidance=None, negative_prompt="", width=None, height=None)
        pipe = Pipeline(FakePipe())
        return pixels_of(pipe(pipe.settings(config, list(captions), []), self.report), torch.float32)


def test_the_watcher_sees_each_step_and_can_end_the_rendering():
    """fails when progress stays invisible, or a stopped rendering goes on to its end"""
    seen: list[float] = []
    with watching(seen.append):
        Calling(None).render(["a cat"], [1])
    assert seen == pytest.approx([1 / 3, 2 / 3, 1])

    def stop(share: float) -> None:
        if share > 0.5:
            raise RenderStopped

    with watching(stop), pytest.raises(RenderStopped):
        Calling(None).render(["a cat"], [1])
    assert len(Calling(None).render(["a cat"], [1])) == 1  # nobody watches any more


class Recorder:
    """A pipe that records what it is called with; its "images" are its latents or gray pixels."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.latents = torch.ones(3, 4, 2, 2)

    def __call__(self, prompt: list[str], **settings: Any) -> Any:
        draws = [float(torch.rand((), generator=one)) for one in settings["generator"]]
        self.calls.append({"prompt": prompt, "draws": draws, **settings})
        is_latent = settings["output_type"] == "latent"
        return SimpleNamespace(images=self.latents if is_latent else torch.full((len(prompt), 3, 2, 2), 0.5))


def test_the_refiner_goes_on_from_the_latents_of_the_base_at_the_split(tmp_path):
    """fails when the refiner begins elsewhere than the base ended, draws from other noise or another prompt, or an
    image depends on the others that are drawn with it"""
    folder = folder_of(tmp_path / "base")
    made = Diffusion(Diffusion.Config(weights=folder, refiner=folder, steps=40, split=0.8, batch_size=3))
    base, refiner = Recorder(), Recorder()
    made._base, made._refiner = Pipeline(base), Pipeline(refiner)
    images = made.render(["a", "b", "c"], [5, 6, 5])
    assert [tuple(image.shape) for image in images] == [(3, 2, 2)] * 3
    (first,), (last,) = base.calls, refiner.calls
    assert first["prompt"] == last["prompt"] == ["a", "b", "c"]
    assert (first["output_type"], first["denoising_end"], first["num_inference_steps"]) == ("latent", 0.8, 40)
    assert last["image"] is base.latents and (last["denoising_start"], last["num_inference_steps"]) == (0.8, 40)
    alone = [float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in (5, 6, 5)]
    assert first["draws"] == alone
