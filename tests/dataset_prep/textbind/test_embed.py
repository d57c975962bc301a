"""Embeddings of images by an encoder of a YAML."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.types import Features
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import save_component
from dataset_prep.textbind.__main__ import main
from dataset_prep.textbind.image_embeddings import embedder_of
from dataset_prep.textbind.pool import Pool

SIZES = {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "image_size": 8, "patch_size": 4}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaViT]:
    """A YAML with an encoder, and the encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    part = EvaViT(EvaViT.Config(**SIZES)).eval()
    save_component(part, folder / "vision.safetensors")
    settings = {"name": "eva_vit", **SIZES, "weights": str(folder / "vision.safetensors")}
    path = folder / "model.yaml"
    path.write_text(json.dumps({"model": {"encoders": {"vision": settings}}}))
    return path, part


def image(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 200 - 20 * number, 90)).save(stream, "PNG")
    return stream.getvalue()


def test_images_of_a_list_and_of_tars(encoder: tuple[Path, EvaViT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when an embedding is not the mean feature of its image, gets the record of another, depends on the batch or
    the source, or a bad image ends the command"""
    path, part = encoder
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(image(number) if number != 2 else b"broken")
    pairs = [{"image": f"{number}.png", "caption": f"image  {number}", "url": f"u{number}"} for number in range(6)]
    (tmp_path / "pairs.json").write_text(json.dumps([*pairs, {"image": "0.png"}, {"caption": "lost"},
                                                   {"image": "0.png", "caption": "a </img0> b"}]))  # fmt: skip
    command = ["embed", "--cfg-path", str(path), "--device", "cpu"]
    assert main([*command, "--pairs", str(tmp_path / "pairs.json"), "--per-file", "2", "--batch", "3",
                 "--out", str(tmp_path / "listed")]) == 0  # fmt: skip
    listed = Pool(tmp_path / "listed")
    (found,) = [np.concatenate(list(listed.embeddings()))]
    assert [(one["image_idx"], one["caption"], one["url"]) for one in listed.records()] == [
        (number, f"image {number}", f"u{number}") for number in (0, 1, 3, 4)
    ]
    processor = part.config.processor("image", False, 1)
    with torch.inference_mode():
        features = part(torch.stack([processor(image(number)) for number in (0, 1, 3, 4)]), "image").x.mean(1)
    expected = torch.nn.functional.normalize(features, dim=1)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-3, rtol=0)  # stored as float16
    assert len(np.unique(found.round(2), axis=0)) > 1
    skipped = json.loads((tmp_path / "listed/manifest.json").read_text())["skipped"]
    assert skipped == {"has no caption": 1, "has no image": 1, "its image cannot be read": 2,
                       "its caption contains a tag or a role of a conversation": 1}  # fmt: skip
    broken = embedder_of(lambda media, modality: Features(media * float("nan")), processor, "cpu", "mean", 1)
    monkeypatch.setattr("dataset_prep.textbind.embed._image_embedder", lambda asked: (broken, {}))
    with pytest.raises(DataError, match="its embedding is not finite"):
        main([*command, "--pairs", str(tmp_path / "pairs.json"), "--out", str(tmp_path / "broken")])
    monkeypatch.undo()

    with tarfile.open(tmp_path / "00007.tar", "w") as tar:
        for name, content in {"0001.png": image(3), "0001.txt": b"image\n3", "0001.json": b'{"url": "u3"}',
                              "0002.png": image(4), "0003.txt": b"no image"}.items():  # fmt: skip
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    shards = ["--shards", str(tmp_path / "0000{7..7}.tar")]
    assert main([*command, *shards, "--pool", "first", "--out", str(tmp_path / "first")]) == 0
    assert main([*command, *shards, "--out", str(tmp_path / "tars")]) == 0
    packed = Pool(tmp_path / "tars")
    assert [(one["image_idx"], one["caption"], one["url"]) for one in packed.records()] == [
        ("00007_0001", "image 3", "u3")
    ]
    np.testing.assert_allclose(next(packed.embeddings()), found[2:3], atol=1e-3)
    assert np.abs(next(Pool(tmp_path / "first").embeddings()) - found[2:3]).max() > 1e-2


def test_wrong_configurations(encoder: tuple[Path, EvaViT], tmp_path: Path):
    """fails when random weights, an encoder that is not there, absent tars or contradicting options pass"""
    path, _ = encoder
    pairs = tmp_path / "pairs.json"
    pairs.write_text('[{"image": "a.png", "caption": "a"}]')
    command = ["embed", "--pairs", str(pairs), "--out", str(tmp_path / "out"), "--cfg-path", str(path)]
    with pytest.raises(ConfigError, match=r"did you mean vision"):
        main([*command, "--encoder", "visoin"])
    with pytest.raises(ConfigError, match="'cpuu' cannot be used"):
        main([*command, "--device", "cpuu"])
    with pytest.raises(ConfigError, match="has no weights"):
        main([*command, "--options", "model.encoders.vision.weights=null"])
    with pytest.raises(ConfigError, match=r"model.encoders.vision.widht"):
        main([*command, "--options", "model.encoders.vision.widht=3"])
    with pytest.raises(ConfigError, match="does not fit"):
        main([*command, "--options", "model.encoders.vision.depth=2"])
    shards = ["embed", "--shards", str(tmp_path / "none.tar"), "--captions", "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="none.tar"):
        main(shards)
    with pytest.raises(ConfigError, match="is for --pairs"):
        main([*shards, "--limit", "3"])
    with pytest.raises(DataError, match="its image cannot be read"):
        main(command)
    pairs.write_text('[{"image_idx": 1}, {"image_idx": "1"}]')
    with pytest.raises(DataError, match="occurs more than once"):
        main(command)
    with pytest.raises(DataError, match="make them with `embed`"):
        Pool(tmp_path)


def test_shown_images_are_collected_from_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when an image that is shown is not written under its name, one that is not shown is, or a missing file ends
    the command"""
    (tmp_path / "a.png").write_bytes(image(1))
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        about = tarfile.TarInfo("sub/k.png")
        about.size = len(image(2))
        tar.addfile(about, io.BytesIO(image(2)))
    files = [str(tmp_path / "a.png"), f"{tmp_path}/0.tar/sub/k.png", f"{tmp_path}/0.tar/lost.png", str(tmp_path / "b")]
    tags = [f"<img{number}> text </img{number}>" for number in range(5)]
    record = {"response": f"Human: {' '.join(tags[:4])}", "image": tags, "image_idx": [*range(4), "not_shown"],
              "url": [""] * 5, "file": [*files, files[0]]}  # fmt: skip
    path, out = tmp_path / "raw.clean.json", tmp_path / "images"
    path.write_text(json.dumps([record, {"response": 1}]))
    for _ in range(2):
        assert main(["collect", str(path), "--out", str(out), "--size", "16"]) == 0
        assert sorted(one.name for one in out.iterdir()) == ["0.png", "1.png"]
        said = capsys.readouterr().out
        assert "2 of 4 images exist" in said and "1: its tar does not contain it" in said
    with Image.open(out / "1.png") as copied:
        assert copied.size == (16, 16) and copied.getpixel((8, 8)) == (40, 160, 90)
    path.write_text(json.dumps([{**record, "file": None}]))
    with pytest.raises(DataError, match='an image that has a "file"'):
        main(["collect", str(path), "--out", str(out)])
