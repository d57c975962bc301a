"""The generator `diffusion` with tiny random pipelines of diffusers. Importing diffusers takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.models.generators import RenderError, RenderStopped, watching
from chatbridge.models.generators.diffusion import Diffusion
from tests.helpers.tiny_pipelines import SIDE, safety_checker, tiny_sd, tiny_sdxl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


def generator(weights: Path, **settings: Any) -> Diffusion:
    made = Diffusion(Diffusion.Config(**{"weights": weights, "steps": 3, **settings}))
    assert list(made.config.problems()) == []
    made.load(torch.device("cpu"), torch.float32)
    return made


def changed(folder: Path, to: Path, old: str, new: str) -> Path:
    shutil.copytree(folder, to)
    index = to / "model_index.json"
    index.write_text(index.read_text().replace(old, new))
    return to


def test_caption_and_seed_decide_the_image(sd):
    """fails when an image depends on others of its call, or not on caption and seed; or its weights are read early"""
    made = generator(sd)
    assert made._base is None
    one, other, third = made.render(["a cat", "a cat", "a fox"], [1, 2, 2**62 + 1])
    (alone,) = made.render(["a fox"], [2**62 + 1])
    assert torch.equal(alone, third) and not torch.equal(one, other) and not torch.equal(other, third)
    assert one.dtype == torch.uint8 and one.shape == (3, SIDE, SIDE)
    assert torch.equal(generator(sd, load="start").render(["a cat"], [1])[0], one)


def test_several_captions_at_once_give_the_same_images(sd):
    """fails when a batch mixes up captions or seeds; rounding may differ by one"""
    captions, seeds = ["a cat", "a fox", "a tree"], [1, 2, 3]
    alone = generator(sd).render(captions, seeds)
    for one, many in zip(alone, generator(sd, batch_size=2).render(captions, seeds), strict=True):
        assert (one.int() - many.int()).abs().max() <= 1


def test_the_settings_reach_the_pipeline(sd):
    """fails when size, guidance, negative prompt or memory savers are accepted without effect or break the image"""
    (plain,) = generator(sd).render(["a cat"], [1])
    (guided,) = generator(sd, guidance=3.0).render(["a cat"], [1])
    (negative,) = generator(sd, guidance=3.0, negative_prompt="blurred").render(["a cat"], [1])
    (wide,) = generator(sd, width=24, height=8).render(["a cat"], [1])
    (saving,) = generator(sd, slicing=True, tiling=True).render(["a cat"], [1])
    assert not torch.equal(plain, guided) and not torch.equal(guided, negative)
    assert wide.shape == (3, 8, 24) and (saving.int() - plain.int()).abs().max() <= 1


def test_the_base_leaves_the_last_steps_to_the_refiner(sdxl):
    """fails when base and refiner are not called as published: 80 % of the steps, latents, the shared parts"""
    base, refiner = sdxl
    import diffusers

    own = diffusers.StableDiffusionXLPipeline.from_pretrained(base)
    late = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        refiner, text_encoder_2=own.text_encoder_2, vae=own.vae
    )
    for pipe in (own, late):
        pipe.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(5)
    common = {"prompt": "a red kite", "num_inference_steps": 10, "generator": seeded}
    latents = own(denoising_end=0.8, output_type="latent", **common).images
    expected = late(denoising_start=0.8, image=latents, output_type="np", **common).images[0]
    made, seen = generator(base, refiner=refiner, steps=10), []
    with watching(seen.append):
        (image,) = made.render(["a red kite"], [5])
    assert torch.equal(image.permute(1, 2, 0), (torch.tensor(expected) * 255).round().to(torch.uint8))
    assert made._refiner is not None and made._base is not None
    assert made._refiner.pipe.vae is made._base.pipe.vae
    assert seen == pytest.approx([number / 10 for number in range(11)])
    (unrefined,) = generator(base, steps=10).render(["a red kite"], [5])
    assert not torch.equal(unrefined, image)


def test_a_stopped_rendering_ends_at_once_and_the_next_one_works(sd):
    """fails when a stop is swallowed, or leaves the pipeline locked"""
    made, seen = generator(sd), []

    def stop(share: float) -> None:
        seen.append(share)
        if len(seen) == 2:
            raise RenderStopped

    with watching(stop), pytest.raises(RenderStopped):
        made.render(["a cat"], [1])
    assert len(seen) == 2 and torch.equal(made.render(["a cat"], [1])[0], generator(sd).render(["a cat"], [1])[0])


def test_weights_that_would_be_random_are_an_error(sd, tmp_path):
    """fails when a tensor that is in no file gets random values, which diffusers only warns about"""
    from safetensors.torch import load_file, save_file

    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = shutil.copytree(sd, tmp_path / part) / part / f"{name}.safetensors"
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ValueError, match="weights are missing in its files"):
            generator(tmp_path / part).render(["a cat"], [1])
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        generator(tmp_path / "text_encoder").render(["a cat"], [1])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("StableDiffusonPipeline", "did you mean StableDiffusionPipeline"),
        ("StableDiffusionImg2ImgPipeline", "changes a given image"),
        ("StableDiffusionUpscalePipeline", "changes a given image"),
        ("TextToVideoSDPipeline", "makes videos"),
        ("DDPMPipeline", "does not draw from text"),
    ],
)
def test_a_pipeline_that_cannot_draw_is_refused_before_its_weights_are_read(sd, tmp_path, kind, reason):
    """fails when a pipeline of another purpose is noticed in the middle of an answer"""
    folder = changed(sd, tmp_path / "other", '"StableDiffusionPipeline"', f'"{kind}"')
    with pytest.raises(ValueError, match=reason):
        generator(folder)


def test_settings_that_a_pipeline_lacks_are_refused(sd, tmp_path):
    """fails when a setting is silently ignored, or a refiner that cannot follow is accepted"""
    folder = changed(sd, tmp_path / "flow", '"StableDiffusionPipeline"', '"LatentConsistencyModelPipeline"')
    with pytest.raises(ValueError, match="negative_prompt is 'x'.*no such setting"):
        generator(folder, negative_prompt="x")
    with pytest.raises(ValueError, match=r"cannot leave its last steps.*cannot continue"):
        generator(sd, refiner=sd, steps=10)
    if torch.cuda.device_count() < 8:
        with pytest.raises(ValueError, match="device is cuda:7, but this machine has"):
            generator(sd, device="cuda:7")


def test_files_in_half_precision_only(tmp_path):
    """fails when a folder with nothing but the variant fp16 cannot be read"""
    folder = tiny_sd(tmp_path, variant="fp16")
    assert generator(folder).render(["a cat"], [1])[0].shape == (3, SIDE, SIDE)


def test_a_full_memory_is_explained(sd, monkeypatch):
    """fails when a full GPU ends in a traceback at the start, or costs more than its image later"""
    made = generator(sd)

    def full(*given: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("chatbridge.models.generators.diffusion.loaded", full)
    with pytest.raises(RenderError, match="memory of cpu is full; set offload: model"):
        made.render(["a cat"], [1])
    with pytest.raises(ValueError, match="memory of cpu is full"):
        generator(sd, load="start")
    monkeypatch.undo()
    assert len(made.render(["a cat"], [1])) == 1


def test_an_image_that_the_safety_checker_rejects(tmp_path):
    """fails when a rejected image is shown as a black one, a good one is lost, or the checker cannot be left out"""
    refused = tiny_sd(tmp_path / "refused", **safety_checker(rejects=True))
    with pytest.raises(RenderError, match="safety checker rejected"):
        generator(refused).render(["a cat"], [1])
    (image,) = generator(tiny_sd(tmp_path / "fine", **safety_checker(rejects=False))).render(["a cat"], [1])
    assert image.any()
    shutil.rmtree(refused / "safety_checker")
    assert torch.equal(generator(refused, safety_checker=False).render(["a cat"], [1])[0], image)
