"""Depth maps, thermal images and motion recordings, from files to the input of ImageBind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.imagebind_depth import ImageBindDepthProcessor
from chatbridge.processors.imagebind_imu import ImageBindImuProcessor
from chatbridge.processors.imagebind_thermal import ImageBindThermalProcessor
from chatbridge.processors.limits import Limits

DEPTH, THERMAL, IMU = ImageBindDepthProcessor(8), ImageBindThermalProcessor(8), ImageBindImuProcessor(20, seconds=0.2)


def test_disparity_by_formula(tmp_path: Path) -> None:
    """Fails when millimetres count as metres, a bound, the camera or the normalisation differs, or unknown is near."""
    metres = np.array([[0.0, 0.001, 2.0, 100.0]], np.float32).repeat(8, 0).repeat(2, 1)
    np.save(tmp_path / "a.npy", metres)
    want = np.array([0.0, 75.0, 0.075 * 518.86 / 2, 0.075 * 518.86 / 50]) / 75
    got = DEPTH(tmp_path / "a.npy")
    assert got.shape == (1, 8, 8)
    np.testing.assert_allclose(got[0, 3, ::2], (want - 0.0418) / 0.0295, rtol=1e-4)
    Image.fromarray((metres * 1000).clip(0, 65535).astype(np.uint16)).save(tmp_path / "a.png")
    short = DEPTH((tmp_path / "a.png").read_bytes())
    np.testing.assert_allclose(short[0, :, :6], got[0, :, :6], atol=1e-4)
    turned = (metres * 1000).clip(0, 8191).astype(np.uint16)
    Image.fromarray((turned << 3) | (turned >> 13)).save(tmp_path / "sun.png")
    np.testing.assert_allclose(ImageBindDepthProcessor(8, "sunrgbd")(tmp_path / "sun.png")[0, :, :6], got[0, :, :6],
                               atol=1e-4)  # fmt: skip
    np.save(tmp_path / "d.npy", np.full((8, 8), 7.5))
    assert ImageBindDepthProcessor(8, "disparity")(tmp_path / "d.npy").mean() == pytest.approx((0.1 - 0.0418) / 0.0295)


def test_maps_of_other_sizes_are_made_square() -> None:
    """Fails when a map of another size breaks the trunk, is stretched, or loses another part than both ends."""
    metres = torch.ones(16, 64)
    metres[:, 20:44] = 2.0  # the middle that is kept
    assert DEPTH(metres).shape == (1, 8, 8)
    assert torch.allclose(DEPTH(metres), DEPTH(torch.full((8, 8), 2.0)), atol=1e-4)
    assert torch.equal(DEPTH(DEPTH(metres)), DEPTH(metres))  # ready ones pass


def test_brightness(tmp_path: Path) -> None:
    """Fails when colors, 16 bits or floats become another brightness, or the statistics of CLIP are applied."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    np.save(tmp_path / "a.npy", grey / 255)
    want = torch.from_numpy(grey.astype(np.float32))[None] / 255
    for name in ("a.png", "rgb.png", "16.png", "a.npy"):
        torch.testing.assert_close(THERMAL(tmp_path / name), want, atol=1e-6, rtol=0)
    assert THERMAL(torch.zeros(20, 31, dtype=torch.uint8)).shape == (1, 8, 8)


def test_motion_of_every_form(tmp_path: Path) -> None:
    """Fails when channels are swapped, steps of names are mixed up, or the middle of the recording is missed."""
    steps = np.arange(60.0)
    table = np.stack([steps + 100 * channel for channel in range(6)])  # [6, steps]
    np.save(tmp_path / "a.npy", table)
    np.save(tmp_path / "b.npy", table.T)
    np.savetxt(tmp_path / "a.csv", table.T, delimiter=",")
    names = ["gyro_x", "gyro_y", "gyro_z", "canonical_timestamp_ms", "accl_z", "accl_y", "accl_x"]
    columns = [table[3], table[4], table[5], steps * 10, table[2], table[1], table[0]]  # 100 Hz, as length / seconds
    lines = [",".join(names), *(",".join(map(str, row)) for row in np.stack(columns, 1))]
    (tmp_path / "named.csv").write_text("\n".join(lines))
    want = torch.from_numpy(table[:, 20:40]).float()
    for name in ("a.npy", "b.npy", "a.csv"):
        assert torch.equal(IMU(tmp_path / name), want), name
    named = IMU(tmp_path / "named.csv")
    assert torch.allclose(named, want - 0.5)  # 0.2 s from the middle of 0.59 s begin between two steps
    slow = torch.from_numpy(np.concatenate([np.arange(5.0)[:, None] * 0.02, table.T[:5]], 1))  # 50 Hz, 0.08 s
    np.save(tmp_path / "slow.npy", slow)
    found = IMU(tmp_path / "slow.npy")
    assert torch.allclose(found[0, :9], torch.arange(9) / 2) and (found[:, 9:] == 0).all()


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("processor", "content", "said"),
    [
        (DEPTH, np.array([[1, 2], [3, 4]], np.uint8), "not a map of distances; accepted: a 16-bit PNG"),
        (DEPTH, np.full((4, 4), -1.0), "go down to -1"),
        (DEPTH, np.full((4, 4), np.nan), "not numbers"),
        (DEPTH, np.zeros((2, 4, 4)), r"shape \[2, 4, 4\], expected one value per pixel"),
        (DEPTH, np.array([{}], dtype=object), "Python objects .pickle., which are never loaded"),
        (DEPTH, np.full((4, 4), 1500, np.uint16), "it holds uint16; expected metres as floats; divide"),
        (DEPTH, np.full((4, 4), 1500.0), "begin at 1500 m, and all beyond 50 m are one value"),
        (DEPTH, _npy(np.zeros((4, 4)))[:-8], "it ends after 120 of 128 bytes of values"),
        (DEPTH, _npy(np.zeros((4, 4))).replace(b"(4, 4)", b"(9**9)"), "not a readable depth map"),
        (DEPTH, torch.full((1, 8, 8), float("nan")), "not numbers"),
        (THERMAL, torch.full((8, 8), float("nan")), "nan to nan"),
        (THERMAL, torch.full((1, 8, 8), float("inf")), "not numbers"),
        (IMU, np.full((6, 9), 1e300), r"reach 1.0e\+300"),
        (IMU, b"1,5;2,5;3;4;5;6\n", "holds '1,5', expected a number"),
        (DEPTH, b"\x93NUMPY\x01", "not a readable depth map"),
        (THERMAL, np.full((4, 4), 36.6), "36.6 to 36.6; expected brightness"),
        (THERMAL, b"depth", "not a readable thermal image"),
        (IMU, np.zeros((5, 40)), r"shape \[5, 40\], expected six columns"),
        (IMU, b"accl_x,accl_y\n1,2\n", "expected one such as acc_z"),
        (IMU, b"1,2,3,4,5,6\n1,2,3,4,5,six\n", "row 2 holds 'six', expected a number"),
        (IMU, b"1,2,3,4,5,6\n1,2,3\n", "row 2 has 3 columns, the first one 6"),
        (IMU, b"0,1,2,3,4,5,6\n0,1,2,3,4,5,6\n", "times do not rise at step 2"),
        (IMU, b"\xff\xfe\x00", "not a readable motion recording"),
        (IMU, torch.zeros(3, 3), r"is float\[6, steps\] or float\[steps, 6\]"),
    ],
)  # fmt: skip
def test_what_is_none_of_them_is_refused(tmp_path: Path, processor, content, said: str) -> None:
    """Fails when a wrong file ends in a traceback, runs code, or becomes an input without a word."""
    path = tmp_path / "x.bin"
    if isinstance(content, np.ndarray) and content.dtype == np.uint8:
        Image.fromarray(content).save(path, "PNG")
    elif isinstance(content, np.ndarray):
        with path.open("wb") as stream:
            np.save(stream, content, allow_pickle=True)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(MediaError, match=said):
        processor(content if isinstance(content, torch.Tensor) else path)


def test_limits_hold(tmp_path: Path) -> None:
    """Fails when a large array is read although the limits forbid it."""
    np.save(tmp_path / "big.npy", np.zeros((100, 100), np.float32))
    claims = _npy(np.zeros((10, 10))).replace(b"(10, 10)", b"(1e9,  )".replace(b"1e9,  ", b"9" * 5 + b","))
    with pytest.raises(MediaError, match="it ends after 800 of"):
        DEPTH(claims)  # 99,999 values are allowed, but they are not there
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "large.tiff")
    with pytest.raises(MediaError, match="have 16 bits"):  # they would wrap
        ImageBindDepthProcessor(8, "sunrgbd")(tmp_path / "large.tiff")
    with pytest.raises(MediaError, match="million are allowed"):
        DEPTH.within(Limits(max_pixels=5000))(tmp_path / "big.npy")
