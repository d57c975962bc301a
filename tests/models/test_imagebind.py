"""ImageBind: its trunks, its released file key by key, the lengths of its features, and media that it cannot read."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.config.schema import parse
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders._imagebind_checkpoint import our_name
from chatbridge.models.encoders.imagebind import TRUNK_OF, ImageBind
from chatbridge.models.feature_cache import Encoders
from chatbridge.models.loading import fill, mismatches
from chatbridge.models.placement import place_model
from tests.helpers.tiny_models import IMAGEBIND, IMAGEBIND_MEDIA, tiny_model
from tests.helpers.tolerances import FP32

LENGTHS = {"image": 1.0, "video": 1.0, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
PARAMETERS = {  # of ImageBind-Huge, by trunk
    "vision": 632_829_440, "text": 354_032_641, "audio": 86_235_648, "depth": 21_871_872, "thermal": 86_211_072,
    "imu": 19_600_384,
}  # fmt: skip
ROUTE = {"encoder": "bind", "bridge": "linear"}
AVERAGED = {**ROUTE, "pieces": {"count": 3, "merge": "mean"}}


def encoder(*modalities: str, **changes: Any) -> ImageBind:
    """A tiny one with the trunks of these modalities (default: all of them) and random weights."""
    settings = {key: value for key, value in {**IMAGEBIND, **changes}.items() if key != "name"}
    torch.manual_seed(0)
    wanted = frozenset(modalities) if modalities else None
    return ImageBind(parse(ImageBind.Config, settings), wanted).eval()


def media(modality: str, items: int = 2) -> Tensor:
    shape = (items, *IMAGEBIND_MEDIA[modality])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@cache
def huge() -> ImageBind:
    """ImageBind-Huge with its text trunk; the meta device holds no values that a test could change."""
    with torch.device("meta"):
        return ImageBind(ImageBind.Config(text_trunk=True))


def manifest(reference: Path) -> State:
    """Released names with tensors of their shapes, all of one number in memory."""
    content = json.loads((reference / "imagebind_huge.json").read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in content["tensors"].items()}


def test_the_released_file(reference: Path) -> None:
    """Fails when ImageBind-Huge is not the released one key by key: 1,311 tensors, 1,200,781,057 parameters."""
    released, notes = manifest(reference), LoadNotes()
    state = huge().fit(huge().convert(dict(released)), notes)
    assert len(released) == 1311 and mismatches(huge().state_dict(), state) == []
    assert notes.dropped == {"trunks.text.mask": "the causal mask is computed"} and not notes.reshaped
    assert len(state) == 1310 and len({our_name(key) for key in released}) == 1311
    counts = {name: sum(one.numel() for one in trunk.parameters()) for name, trunk in huge().trunks.items()}
    assert counts == PARAMETERS and sum(counts.values()) == 1_200_781_057


def test_tensors_of_trunks_without_a_route() -> None:
    """Fails when a trunk that no route needs is built or its tensors are not dropped by name, or another tensor is."""
    whole, part, notes = encoder(text_trunk=True).state_dict(), encoder("video", "audio"), LoadNotes()
    state = part.fit(dict(whole), notes)
    assert mismatches(part.state_dict(), state) == [] and list(part.trunks) == ["vision", "audio"]
    assert len(state) + len(notes.dropped) == len(whole)
    unused = {name: f"no route needs the {name} trunk" for name in ("depth", "thermal", "imu")}
    reasons = {name.split(".")[1]: reason for name, reason in notes.dropped.items()}
    assert reasons == {"text": "text_trunk is false", **unused}


def test_a_model_builds_the_trunks_of_its_routes() -> None:
    """Fails when a trunk without a route is built, images and video do not share one, or clips are not averaged."""
    model = tiny_model(
        encoders={"bind": IMAGEBIND}, bridges={"linear": {"name": "linear"}},
        routes={"image": ROUTE, "video": AVERAGED, "audio": AVERAGED},
    ).eval()  # fmt: skip
    part: Any = model.encoders["bind"]
    assert list(part.trunks) == ["vision", "audio"]
    assert model.media_lengths() == {"image": 1, "video": 1, "audio": 1}
    clips = media("audio", 6).unflatten(0, (2, 3))
    with torch.no_grad():
        features = part(clips.flatten(0, 1), "audio").x.unflatten(0, (2, 3)).mean(1)
        got = model.media_tokens({"audio": clips})["audio"]
        want = model.routes["audio"].bridge(Features(features), "audio")
    torch.testing.assert_close(got, want, atol=FP32, rtol=FP32)
    with pytest.raises(ValueError, match=r"video: .*6 axes with 3 frames"):
        model.media_tokens({"video": media("image")})
    with pytest.raises(ValueError, match=r"without its depth trunk, which depth needs; it has vision, audio"):
        part(media("depth"), "depth")


@pytest.mark.parametrize("modality", LENGTHS)
def test_lengths_of_features(modality: str) -> None:
    """Fails when a feature has another length, in fp32 or with the encoder in half precision."""
    part = encoder(modality)
    with torch.no_grad():
        x = part(media(modality), modality).x
        assert x[:, 0].norm(dim=-1).tolist() == pytest.approx([LENGTHS[modality]] * 2, rel=1e-5)
    placed: Any = Encoders({"bind": part}).requires_grad_(False)
    place_model(placed, "cpu", torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = part(media(modality), modality).x.float()
    assert x[:, 0].norm(dim=-1).tolist() == pytest.approx([LENGTHS[modality]] * 2, rel=4e-3)
    assert part.get_parameter(f"trunks.{TRUNK_OF[modality]}.blocks.0.fc1.weight").dtype == torch.bfloat16


def test_an_image_is_a_clip_of_equal_frames() -> None:
    """Fails when an image is not read as a clip that shows it in every frame."""
    part, image = encoder("image"), media("image")
    with torch.no_grad():
        clip = part(image[:, :, None].expand(-1, -1, 2, -1, -1), "video").x
        torch.testing.assert_close(part(image, "image").x, clip, atol=FP32, rtol=FP32)


@pytest.mark.parametrize(
    ("modality", "shape", "words"),
    [
        ("video", (2, 3, 28, 28), r"video: media has shape \[2, 3, 28, 28\], expected \[M, 3, 2, 28, 28\]"),
        ("video", (2, 3, 4, 28, 28), r"video: media has shape \[2, 3, 4, 28, 28\], expected \[M, 3, 2, 28, 28\]"),
        ("image", (2, 3, 28, 42), r"image: .*\[2, 3, 28, 42\], expected \[M, 3, 28, 28\]"),
        ("image", (2, 4, 3, 28, 28), r"image: .*expected \[M, 3, 28, 28\]"),
        ("audio", (2, 3, 28, 28), r"audio: .*\[2, 3, 28, 28\], expected \[M, 1, 32, 36\]"),
        ("audio", (2, 1, 32, 40), r"audio: .*expected \[M, 1, 32, 36\]"),
        ("depth", (2, 1, 48, 48), r"depth: .*expected \[M, 1, 32, 32\]"),
        ("thermal", (2, 3, 32, 32), r"thermal: .*expected \[M, 1, 32, 32\]"),
        ("imu", (2, 6, 20), r"imu: .*expected \[M, 6, 16\]"),
    ],
)
def test_media_of_another_shape(modality: str, shape: tuple[int, ...], words: str) -> None:
    """Fails when media of another shape are read, broadcast or averaged, or the message lacks what is expected."""
    with pytest.raises(ValueError, match=words):
        encoder()(torch.zeros(shape), modality)


def test_positions_of_another_size() -> None:
    """Fails when a file's positions are not resized for other square inputs, or are cut for anything else."""
    released, notes = encoder("image", "depth", "audio").state_dict(), LoadNotes()
    other = encoder(
        "image", "depth", "audio", vision={**IMAGEBIND["vision"], "image_size": 56},
        depth={**IMAGEBIND["depth"], "image_size": 64},
    )  # fmt: skip
    state = other.fit(dict(released), notes)
    assert mismatches(other.state_dict(), state) == []
    assert notes.reshaped == {
        "trunks.vision.positions": "5 -> 17 positions, bicubic", "trunks.depth.positions": "5 -> 17 positions, bicubic"
    }  # fmt: skip
    assert torch.equal(state["trunks.vision.positions"][:, 0], released["trunks.vision.positions"][:, 0])
    longer = encoder("audio", audio={**IMAGEBIND["audio"], "frames": 46})
    with pytest.raises(ValueError, match=r"trunks.audio.positions has 7 positions .* describes 9 \(2 x 4 patches\)"):
        longer.fit(dict(released), LoadNotes())


def test_a_file_that_is_not_imagebind(tmp_path: Path) -> None:
    """Fails when a tensor of a file is passed over, or a missing one or another width is not named."""
    part = encoder("image", "imu")
    good = part.state_dict()
    path = tmp_path / "a.pth"
    with pytest.raises(ValueError, match=r"unexpected +modality_heads.imu.2.weight"):
        fill(part, {**good, "modality_heads.imu.2.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing +trunks.imu.scale"):
        fill(part, {key: value for key, value in good.items() if key != "trunks.imu.scale"}, path)
    with pytest.raises(ValueError, match=r"shape +trunks.vision.head.weight +10x8 +12x8"):
        fill(part, {**good, "trunks.vision.head.weight": torch.zeros(12, 8)}, path)
    text = encoder("image", text_trunk=True)
    with pytest.raises(ValueError, match="is not a causal mask"):
        fill(text, {**text.state_dict(), "modality_preprocessors.text.mask": torch.zeros(6, 6)}, path)


def test_texts() -> None:
    """Fails when padding changes a text's feature, or ids of another vocabulary or a missing trunk are no error."""
    part = encoder("image", text_trunk=True)
    ids = torch.tensor([[17, 3, 5, 19, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(part.encode_text(ids), part.encode_text(ids[:, :4]), atol=FP32, rtol=FP32)
        assert float(part.encode_text(ids).norm()) == pytest.approx(1 / 0.07, rel=1e-4)
        part.get_parameter("trunks.text.log_scale").fill_(9.0)
        assert float(part.encode_text(ids).norm()) == pytest.approx(100.0)
    for wrong, words in (
        (ids + 2, "ids from 2 to 21, the vocabulary of this trunk has 0 to 19"),
        (torch.zeros(1, 7, dtype=torch.long), "L from 1 to 6"),
        (torch.zeros(1, 3), "expected token ids"),
    ):
        with pytest.raises(ValueError, match=words):
            part.encode_text(wrong)
    with pytest.raises(ValueError, match="set text_trunk: true"):
        encoder("image").encode_text(ids)


def test_only_training_drops_paths() -> None:
    """Fails when evaluation is random, or training with the released probabilities is not."""
    part = encoder("imu", imu={**IMAGEBIND["imu"], "depth": 3, "drop_path": 0.7, "head_dropout": 0.5})
    one = media("imu")
    with torch.no_grad():
        assert torch.equal(part(one, "imu").x, part(one, "imu").x)
        part.train()
        assert not torch.equal(part(one, "imu").x, part(one, "imu").x)


def test_sizes_that_contradict() -> None:
    """Fails when sizes that cannot be built are not all reported with their keys."""
    from chatbridge.common.errors import ConfigError

    wrong = {
        "vision": {"heads": 7, "image_size": 225}, "audio": {"mel_bins": 8}, "imu": {"length": 2001}, "out_width": 0,
        "thermal": {"drop_path": 1.0},
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        parse(ImageBind.Config, wrong)
    found = {problem.path for problem in error.value.problems}
    assert found == {
        "vision.heads",
        "vision.image_size",
        "audio.mel_bins",
        "imu.length",
        "out_width",
        "thermal.drop_path",
    }
