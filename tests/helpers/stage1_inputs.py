"""Small copies of the published files for stage 1 and MiniGPT-4, in the real layouts; a substitute of img2dataset."""

from __future__ import annotations

import csv
import io
import json
import stat
import struct
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_prep.common.manifest import Manifest
from tests.helpers.tiny_media import jpeg, mp4, write_tar

GONE = "http://gone.example/"  # prefix of links that the substitute cannot download


def url(number: int) -> str:
    return f"http://pictures.example/{number}.jpg"


def write_lists(folder: Path, count: int = 5) -> dict[str, Path]:
    """Write every list of links in its published format, each with one dead link and faults of its format."""
    folder.mkdir(parents=True, exist_ok=True)
    links = [*((f"Picture number {k}", url(k)) for k in range(count)), ("it is gone", f"{GONE}1.jpg")]
    blip = [{"caption": caption, "url": address} for caption, address in links]
    lists = {
        "cc3m": "".join(f"{caption}\t{address}\n" for caption, address in links) + "one column\n\thttp://a.example/\n",
        "cc12m": "".join(f"{address}\t{caption}\n" for caption, address in links) + "ftp://a.example/b.jpg\ta dog\n",
        "sbu": json.dumps({
            "image_urls": [address for _, address in links], "user_ids": ["x"] * len(links),
            "captions": [caption for caption, _ in links],
        }),
        "minigpt4_laion": json.dumps([*blip, {"url": url(9)}]),
        "minigpt4_cc_sbu": json.dumps(blip),
    }  # fmt: skip
    names = {"cc3m": "Train_GCC-training.tsv", "cc12m": "cc12m.tsv", "sbu": "sbu-captions-all.json",
             "minigpt4_laion": "laion_synthetic_filtered_large.json",
             "minigpt4_cc_sbu": "ccs_synthetic_filtered_large.json"}  # fmt: skip
    for name, text in lists.items():
        (folder / names[name]).write_text(text, encoding="utf-8")
    laion = folder / "laion400m-meta"
    laion.mkdir()
    for number in range(2):  # read by img2dataset only
        (laion / f"part-{number:05d}.snappy.parquet").write_bytes(b"PAR1")
    return {**{name: folder / file for name, file in names.items()}, "laion": laion}


SUBSTITUTE = """
import io, json, sys, tarfile
from pathlib import Path
from PIL import Image

asked = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
assert asked["output_format"] == "webdataset" and asked["enable_wandb"] == "False", asked
out = Path(asked["output_folder"])
done = {int(file.name.split("_")[0]) for file in out.glob("*.json")}       # as img2dataset: every .json is a shard's
rows = []
for file in sorted(Path(asked["url_list"]).glob("*." + asked["input_format"])):
    if asked["input_format"] == "parquet":
        assert (asked["url_col"], asked["caption_col"]) == ("URL", "TEXT")
        rows += [{"url": f"http://pictures.example/{k}.jpg", "caption": f"a picture {k}"} for k in range(3)]
    else:
        rows += [json.loads(line) for line in file.read_text().splitlines()]
print(len(rows), "links")
per_shard = 4                                                              # the real one: number_sample_per_shard
for shard in range(-(-len(rows) // per_shard)):
    if shard in done:
        continue
    statuses = {}
    with tarfile.open(out / f"{shard:05d}.tar", "w") as tar:
        for number, row in enumerate(rows[shard * per_shard : (shard + 1) * per_shard]):
            status = "success" if "gone" not in row["url"] else "HTTP Error 404: Not Found"
            statuses[status] = statuses.get(status, 0) + 1
            if status == "success":
                picture = io.BytesIO()
                Image.new("RGB", (40, int(asked["image_size"]) // 8), (10 * number, 80, 90)).save(picture, "JPEG")
                about = json.dumps({**row, "key": f"{shard:05d}{number:04d}", "status": status, "error_message": None})
                for ending, content in (("jpg", picture.getvalue()), ("json", about), ("txt", row["caption"])):
                    content = content.encode() if isinstance(content, str) else content
                    member = tarfile.TarInfo(f"{shard:05d}{number:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (out / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    counts = {"count": sum(statuses.values()), "successes": statuses.get("success", 0), "failed_to_resize": 0}
    lost = counts["count"] - counts["successes"]
    stats = {**counts, "failed_to_download": lost, "duration": 0.1, "status_dict": statuses}
    (out / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
"""


def write_img2dataset(folder: Path) -> Path:
    """Write a program with the arguments and output layout of img2dataset, four links per shard; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "img2dataset"
    program.write_text(f"#!{sys.executable}\n{SUBSTITUTE}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def write_webvid(folder: Path, count: int = 4) -> tuple[Path, Path]:
    """Write results_2M_train.csv and the videos <page_dir>/<videoid>.mp4; the last two rows have no usable video."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(1000 + k, f'A clip, number {k}, with "quotes"', f"0000{k % 2}_00050") for k in range(count)]
    with (folder / "results_2M_train.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        table.writerows((k, f"http://videos.example/{k}.mp4", "PT00H00M12S", page, name) for k, name, page in rows)
        table.writerow([2000, "http://videos.example/2000.mp4", "PT00H00M12S", "00000_00050", "never downloaded"])
        table.writerow([2001, "http://videos.example/2001.mp4", "PT00H00M12S", "00001_00050", "broken"])
    for number, _, page in rows:
        (folder / "videos" / page).mkdir(parents=True, exist_ok=True)
        (folder / "videos" / page / f"{number}.mp4").write_bytes(mp4(num_frames=9 + number % 2))
    (folder / "videos/00001_00050/2001.mp4").write_bytes(b"<html>403</html>")
    return folder / "results_2M_train.csv", folder / "videos"


def write_video2dataset(folder: Path, count: int = 3) -> Path:
    """Write a folder of tars as video2dataset does; the last video has no caption."""
    members = []
    for k in range(count):
        about = json.dumps({"videoid": 1000 + k, "status": "success", "caption": f"clip {k}"})
        members += [(f"0000{k:04d}.mp4", mp4()), (f"0000{k:04d}.json", about)]
        members += [(f"0000{k:04d}.txt", f"clip {k}")] if k < count - 1 else []
    write_tar(folder / "00000.tar", members)
    return folder


def flac(seconds: float, seed: int = 0, rate_hz: int = 8000) -> bytes:
    """Noise as a FLAC file."""
    import soundfile

    stream = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, max(1, int(seconds * rate_hz)))
    soundfile.write(stream, noise, rate_hz, format="FLAC")
    return stream.getvalue()


def wavcaps_files(is_audioset: bool, seconds: Sequence[float]) -> tuple[dict[str, object], dict[str, bytes]]:
    """The JSON and the members of the zip: AudioSet's ids end in .wav and begin with Y, FreeSound's are numbers."""
    folder = "AudioSet_SL_flac" if is_audioset else "FreeSound_flac"
    names = [f"Y-b{k}_sound" if is_audioset else str(180000 + k) for k in range(len(seconds))]
    data = [
        {"id": f"{name}.wav" if is_audioset else name, "title": "t", "caption": f"Sound {k} is heard.", "duration": s}
        for k, (name, s) in enumerate(zip(names, seconds))
    ]
    members = {
        f"mnt/fast/waveforms/{folder}/{name}.flac": flac(s, k) for k, (name, s) in enumerate(zip(names, seconds))
    }
    return {"num_captions_per_audio": 1, "data": data}, members


def write_split_zip(path: Path, members: Mapping[str, bytes], part_bytes: int) -> list[Path]:
    """Write name.z01, ..., name.zip like `zip -s`: a signature, one stream split into parts, offsets within parts.

    returns   the parts in order
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, (name, content) in enumerate(members.items()):
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    content = bytearray(b"PK\x07\x08" + stream.getvalue())
    end = content.rfind(b"PK\5\6")
    directory = struct.unpack("<I", content[end + 16 : end + 20])[0] + 4
    last = min(len(content) - 1, directory) // part_bytes  # the directory is in one part
    position = directory
    while position < end:
        lengths = struct.unpack("<HHH", content[position + 28 : position + 34])
        disk, at = divmod(struct.unpack("<I", content[position + 42 : position + 46])[0] + 4, part_bytes)
        content[position + 34 : position + 36] = struct.pack("<H", disk)
        content[position + 42 : position + 46] = struct.pack("<I", at)
        position += 46 + sum(lengths)
    content[end + 4 : end + 8] = struct.pack("<HH", last, last)
    content[end + 16 : end + 20] = struct.pack("<I", directory - last * part_bytes)
    parts = [*(path.with_suffix(f".z{number + 1:02d}") for number in range(last)), path]
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        stop = None if number == last else (number + 1) * part_bytes
        part.write_bytes(content[number * part_bytes : stop])
    return parts


def write_cc_sbu_align(path: Path, count: int = 3) -> Path:
    """Write cc_sbu_align.zip with two captions more than readable images."""
    captions = [{"image_id": str(k + 2), "caption": f"The image shows {k}."} for k in range(count + 2)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cc_sbu_align/filter_cap.json", json.dumps({"annotations": captions}))
        for number in range(count):
            archive.writestr(f"cc_sbu_align/image/{number + 2}.jpg", jpeg(number * 9))
        archive.writestr(f"cc_sbu_align/image/{count + 2}.jpg", jpeg()[:80])
        archive.writestr("__MACOSX/cc_sbu_align/image/._2.jpg", b"x")
    return path


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a prepared set, whose files it describes."""
    manifest = Manifest.read(folder)
    assert manifest is not None and manifest.faults(folder) == []
    return manifest


def without_name(node: dict[str, Any]) -> dict[str, Any]:
    """The settings of a source without its builder."""
    return {key: value for key, value in node.items() if key != "name"}
