"""WebVid's clips, or any others with a sentence each, to shards of small mp4 with many key frames, or to frame folders.

    python -m dataset_prep.web_videos webvid --list results_2M_train.csv --videos raw/webvid

--videos is a folder of clips (<page_dir>/<videoid>.mp4, or <videoid>.mp4 at any depth), or of the tars that
video2dataset writes (mp4 + txt + json); tars bring their captions, a folder needs --list. The csv has the columns
videoid and name, as WebVid's; --id-column and --caption-column name others.

    --as shards    (default) OUT/00000.tar ...: mp4 + txt + json. Clips are encoded anew with a short side of at most
                   --side pixels and a key frame a second: smaller, and quick to seek in
    --as frames    OUT/videos/<videoid>/img_0001.jpg ... and OUT/pretrain_txt_mapper.json, the layout of the published
                   run. Fastest to read, but 2.5 million folders; in the YAML it is
                   {name: captions, tag: tv, annotations: OUT/pretrain_txt_mapper.json, video_folder: OUT/videos}

Clips that are in the list but not in the folder, and clips that cannot be read, are counted and listed in
skipped.jsonl. Give the same command again to go on.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from chatbridge.common.text_repair import repaired
from chatbridge.datasets.tars.open_files import OpenFiles
from dataset_prep.common import arguments
from dataset_prep.common.filling import fill_shards
from dataset_prep.common.manifest import sha256, write_json
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.shards import Sample, safe_key, shard_parts
from dataset_prep.common.tables import rows_of
from dataset_prep.common.workers import Unusable
from dataset_prep.extract_frames import FrameSettings, extract_all
from dataset_prep.media_jobs import VIDEO_ENDINGS, add_media_arguments, files_of, without_ending
from dataset_prep.reencode import reencode

PROGRAM = "dataset_prep.web_videos"
SETS = {"webvid": "data/webvid"}


@dataclass(frozen=True)
class Piece:
    """A clip inside a tar."""

    tar: Path
    at: int
    size: int


@dataclass(frozen=True)
class Clip:
    """One clip and its sentence; `source` is None when no file has its name."""

    id: str
    caption: str
    source: Path | Piece | None
    side: int
    key_seconds: float
    work: Path  # folder for what is being made

    def sample(self) -> Sample:
        """The clip encoded anew with its caption. raises Unusable, or whatever PyAV raises"""
        if not self.caption:
            raise Unusable("has no caption")
        if self.source is None:
            raise Unusable("is in the list but not in the folder")
        with TemporaryDirectory(dir=self.work) as folder, readable(self.source, Path(folder)) as source:
            made = reencode(source, Path(folder) / "made.mp4", self.side, self.key_seconds)
            content = (Path(folder) / "made.mp4").read_bytes()
        about = {"id": self.id, "caption": self.caption, "frames": made.frames, "seconds": round(made.seconds, 3)}
        return safe_key(self.id), {"mp4": content, "txt": self.caption, "json": json.dumps(about, ensure_ascii=False)}


@contextmanager
def readable(source: Path | Piece, folder: Path) -> Iterator[Path]:
    """The clip as a file of its own."""
    if isinstance(source, Path):
        yield source
        return
    content = OpenFiles().read(source.tar, source.at, source.size)
    if len(content) < source.size:
        raise Unusable("its tar breaks off")
    path = folder / "read.mp4"
    path.write_bytes(content)
    yield path


@dataclass(frozen=True)
class Named:
    """A clip as a list or a tar names it."""

    id: str
    caption: str
    source: Path | Piece | None = None


def from_list(path: Path, id_column: str, caption_column: str, folder: Path) -> Iterator[Named]:
    """The rows of the csv with their files, found by name wherever they lie; "a/7.mp4" is called 7."""
    files = {file.stem: file for file in files_of(folder, VIDEO_ENDINGS)}
    for _, row in rows_of(
        path, (id_column, caption_column), "; name the right ones with --id-column, --caption-column"
    ):
        name = without_ending(PurePosixPath(row[id_column].strip()).name, VIDEO_ENDINGS)
        yield Named(name, " ".join(row[caption_column].split()), files.get(name))


def from_tars(folder: Path) -> Iterator[Named]:
    """The samples of all tars in a folder: what video2dataset wrote."""
    for tar in sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name)):
        clips: dict[str, Piece] = {}
        texts: dict[str, str] = {}
        try:
            with tarfile.open(tar, "r:") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    if is_hidden(member.name):
                        continue
                    if path.suffix.lower() in VIDEO_ENDINGS:
                        clips[path.stem] = Piece(tar, member.offset_data, member.size)
                    elif path.suffix.lower() == ".txt" and (stream := archive.extractfile(member)) is not None:
                        texts[path.stem] = repaired(" ".join(stream.read().decode("utf-8", "replace").split()))
        except tarfile.TarError as error:
            raise DataError(f"{tar}: cannot be read ({error}); let video2dataset make it again") from None
        yield from (Named(name, texts.get(name, ""), piece) for name, piece in clips.items())


def clips_of(asked: Namespace) -> tuple[list[Named], list[tuple[str, str]]]:
    """All clips in order, each name once; and (name, reason) of what is left out. raises DataError without any"""
    if asked.list is None and all(is_hidden(path.name) for path in asked.videos.glob("*.tar")):
        raise DataError(f"{asked.videos}: holds no tars, so the captions are missing; give the csv with --list")
    found: Iterable[Named] = (
        from_tars(asked.videos)
        if asked.list is None
        else from_list(asked.list, asked.id_column, asked.caption_column, asked.videos)
    )
    clips: dict[str, Named] = {}
    left_out = []
    for clip in found:
        if clip.id and clip.id not in clips:
            clips[clip.id] = clip
        else:
            left_out.append((clip.id, "another row has the same name" if clip.id else "a row has no name"))
    if not any(clip.source for clip in clips.values()):
        raise DataError(f"{asked.videos}: none of the {len(clips)} clips is in this folder")
    return list(clips.values())[: asked.limit], left_out


def write_shards(asked: Namespace, clips: list[Named], left_out: list[tuple[str, str]]) -> Preparation:
    """OUT/*.tar"""
    work = asked.out / ".work"
    with Preparation(asked.out, asked.name, PROGRAM, made_with(asked, per_shard=asked.per_shard)) as made:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir()
        for name, reason in left_out:
            made.skip(name, reason)
        full = [Clip(clip.id, clip.caption, clip.source, asked.side, asked.key_seconds, work) for clip in clips]
        fill_shards(made, shard_parts(full, asked.per_shard), Clip.sample, asked.workers, asked.time_limit_s)
        shutil.rmtree(work, ignore_errors=True)
    return made


def write_frames(asked: Namespace, clips: list[Named], left_out: list[tuple[str, str]]) -> Preparation:
    """OUT/videos/<id>/img_0001.jpg ... and the captions of those that could be read."""
    settings = FrameSettings(asked.fps, asked.side)
    with Preparation(asked.out / "videos", asked.name, PROGRAM, made_with(asked, **vars(settings))) as made:
        files: dict[str, Path] = {}
        for name, reason in left_out:
            made.skip(name, reason)
        for clip in clips:
            if isinstance(clip.source, Path) and clip.caption:
                files[clip.id] = clip.source
            elif isinstance(clip.source, Piece):
                raise DataError("--as frames reads a folder of clips; unpack the tars first: tar -xf 00000.tar -C raw")
            else:
                reason = "is in the list but not in the folder" if clip.caption else "has no caption"
                made.skip(clip.id, reason, file=clip.id)
        extract_all(made, files, settings, asked.workers, asked.time_limit_s)
    records = [{"video_id": clip.id, "caption": clip.caption} for clip in clips if made.has(clip.id)]
    write_json(asked.out / "pretrain_txt_mapper.json", records)
    return made


def made_with(asked: Namespace, **more: Any) -> dict[str, Any]:
    listed = {"name": asked.list.name, "sha256": sha256(asked.list)} if asked.list else None
    return {"list": listed, "limit": asked.limit, "side": asked.side, "key_seconds": asked.key_seconds, **more}


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, PROGRAM, "data/NAME; with --as frames data/NAME_frames")
    parser.set_defaults(out=None)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("--videos", type=arguments.existing_folder, required=True, help="folder of clips or of tars")
    parser.add_argument("--list", type=arguments.existing_file, help="csv with an id and a caption per clip")
    parser.add_argument("--id-column", default="videoid", help="(default: videoid)")
    parser.add_argument("--caption-column", default="name", help="(default: name)")
    parser.add_argument("--as", dest="layout", choices=("shards", "frames"), default="shards")
    parser.add_argument(
        "--side", type=arguments.positive, default=256, help="largest short side, pixels (default: 256)"
    )
    parser.add_argument("--key-seconds", type=arguments.above_zero, default=1.0, help="between key frames (default: 1)")
    parser.add_argument("--per-shard", type=arguments.positive, default=500, help="clips per tar (default: 500)")
    parser.add_argument(
        "--fps", type=arguments.above_zero, default=2.0, help="of --as frames (default: 2; the reference does not say)"
    )
    add_media_arguments(parser)
    asked = parser.parse_args(given)
    is_shards = asked.layout == "shards"
    asked.out = asked.out or Path(SETS[asked.name] + ("" if is_shards else "_frames"))
    made = (write_shards if is_shards else write_frames)(asked, *clips_of(asked))
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
