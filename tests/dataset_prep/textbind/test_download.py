"""Images by their links: padded, resumed, retried, with every failure listed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chatbridge.common.errors import DataError
from dataset_prep.textbind import web_image
from dataset_prep.textbind.__main__ import main
from dataset_prep.textbind.download import name_fault
from tests.helpers.shard_server import serving
from tests.helpers.small_disk import small_disk
from tests.helpers.tiny_media import write_json


def turn(role: str, images: list[Any], urls: list[Any]) -> dict[str, Any]:
    return {"role": role, "content": "<image>" * len(images), "image_list": images, "url_list": urls}


def record(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"conversation": list(turns)}


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 0, 0)).save(stream, kind)
    return stream.getvalue()


def failed(out: Path) -> dict[str, str]:
    lines = out.with_name(f"{out.name}.failed.jsonl").read_text().splitlines()
    return {entry["image"]: entry["reason"] for entry in map(json.loads, lines)}


def test_images_are_padded_retried_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """fails when an image is distorted or cut, a temporary fault ends its link, a dead link is asked five times, a
    second run downloads again, or a failure is lost"""
    monkeypatch.setattr(web_image, "MOST_WAIT_S", 0.0)
    web, out, kept = tmp_path / "web", tmp_path / "images", tmp_path / "train.json"
    web.mkdir()
    for name, content in (("a", picture(200, 100)), ("b.jpg", picture(10, 40, "JPEG")), ("text", b"<html>no</html>")):
        (web / name).write_bytes(content)
    with serving(web, status={"gone": 404, "busy": 503}) as server:
        source = write_json(tmp_path / "raw.json", [
            record(turn("user", ["1.png", "2.png"], [f"{server.url}/a?x=1", f"{server.url}/b.jpg"])),
            record(turn("user", ["1.png"], [f"{server.url}/a?x=1"]), turn("bot", ["3.png"], [f"{server.url}/gone"])),
            record(turn("user", ["4.png"], [f"{server.url}/busy"]), turn("user", ["4.png"], [f"{server.url}/a"])),
            record(turn("user", ["5.png", "6.png"], [f"{server.url}/text", "file:///etc/hostname"])),
            record(turn("user", ["../7.png", "8.png"], [f"{server.url}/a"] * 2)),
            record(turn("user", ["9.png"], [])),
        ])  # fmt: skip
        command = ["download", str(source), "--out", str(out), "--size", "64", "--keep", str(kept)]
        assert main(command) == 0
        assert (server.asked["gone"], server.asked["busy"], server.asked["text"]) == (1, 5, 2)
        assert server.asked["a"] == 3  # 1.png once, and as a substitute and for 8.png
        shown = capsys.readouterr().out
        assert "4 of 7 images exist" in shown and "3 records, dropped" not in shown
        assert f"{kept}: 2 records, dropped for a missing image: 4" in shown
        (out / "2.png").unlink()
        server.status["text"] = 404
        assert main([*command, "--skip-failed"]) == 0
        assert (server.asked["a"], server.asked["b.jpg"], server.asked["text"]) == (3, 2, 2)
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "2.png", "4.png", "8.png"]
    pixels = np.asarray(Image.open(out / "1.png"))
    assert pixels.shape == (64, 64, 3) and (pixels[:16] == 255).all() and (pixels[48:] == 255).all()
    assert (pixels[16:48] == (200, 0, 0)).all()
    reasons = failed(out)
    assert set(reasons) == {"3.png", "5.png", "6.png", "../7.png", "record 5, turn 0"}
    assert reasons["3.png"] == "the server answered 404 Not Found" and "is not an http address" in reasons["6.png"]
    assert "plain file name" in reasons["../7.png"] and reasons["record 5, turn 0"] == "has 1 images and 0 urls"
    assert [entry["image_dir"] for entry in json.loads(kept.read_text())] == [str(out)] * 2


def test_lists_of_images_and_files_without_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when img-cap.json is not read, a cut download is kept, or wrong arguments end in a traceback"""
    monkeypatch.setattr(web_image, "MOST_WAIT_S", 0.0)
    (tmp_path / "a.png").write_bytes(picture(300, 300))
    with serving(tmp_path, drop_after=100, drops=2) as server:
        listed = write_json(
            tmp_path / "x.img-cap.json", [{"image": "1.png", "url": f"{server.url}/a.png", "caption": "a"}]
        )
        out = tmp_path / "out"
        assert main(["download", str(listed), "--out", str(out)]) == 0
        assert server.asked["a.png"] == 3 and Image.open(out / "1.png").size == (512, 512)
    with pytest.raises(DataError, match="has no conversations, which --keep would write"):
        main(["download", str(listed), "--out", str(out), "--keep", str(tmp_path / "k.json")])
    talk = write_json(tmp_path / "talk.json", [record({"role": "user", "content": "Hi"})])
    with pytest.raises(DataError, match="names no image with a url"):
        main(["download", str(talk), "--out", str(out)])
    with pytest.raises(DataError, match="is the file that is read"):
        main(["download", str(talk), "--out", str(out), "--keep", str(talk)])
    absent = write_json(tmp_path / "absent.json", [record(turn("user", ["2.png"], ["http://127.0.0.1:9/x"]))])
    assert main(["download", str(absent), "--out", str(tmp_path / "none"), "--tries", "1"]) == 1
    assert list(failed(tmp_path / "none")) == ["2.png"]


def test_one_bad_address_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """fails when an address that is none ends the download of the others, a server may send a byte now and then for
    ever, or a full disk leaves half an image or a message without a name"""
    (tmp_path / "a.png").write_bytes(picture(30, 30))
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        addresses = ["http://[::1", "http://", "https://:80/x", f"{server.url}/a.png".replace("http", "HTTP", 1)]
        listed = write_json(tmp_path / "l.json", [{"image": f"{n}.png", "url": url} for n, url in enumerate(addresses)])
        assert main(["download", str(listed), "--out", str(out)]) == 0
        assert sorted(failed(out)) == ["0.png", "1.png", "2.png"] and (out / "3.png").is_file()
        assert "is not a valid address" in failed(out)["0.png"]
        monkeypatch.setattr(web_image, "LONGEST_S", -1.0)
        assert main(["download", str(listed), "--out", str(tmp_path / "slow")]) == 1
        assert "is not complete after" in failed(tmp_path / "slow")["3.png"]
        monkeypatch.setattr(web_image, "LONGEST_S", 60.0)
        for name in ("0.png", "1.png", "2.png"):
            (tmp_path / "full").mkdir(exist_ok=True)
            (tmp_path / "full" / name).write_bytes(b"there")
        with small_disk(700), pytest.raises(OSError, match="3.png"):
            main(["download", str(listed), "--out", str(tmp_path / "full")])
    assert sorted(one.name for one in (tmp_path / "full").iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a", "a\\b.png", "..", ".hidden", "", None, 3, "c:x", "x" * 300, "a\0"]
)
def test_names_that_are_not_written(name: Any):
    """fails when a record decides where on the disk a file is written"""
    assert name_fault(name) is not None and name_fault("490272.png") is None
