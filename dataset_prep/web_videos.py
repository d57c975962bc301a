"""Convert WebVid, or other videos with captions, to shards of small mp4 files, or to folders of frames.

    python -m dataset_prep.web_videos webvid --list results_2M_train.csv --videos raw/webvid

--videos is a folder of videos (<page_dir>/<videoid>.mp4, or <videoid>.mp4 at any depth), or of the tars that
video2dataset writes (mp4 + txt + json). Tars contain captions; a folder of videos requires --list, a csv with
the columns videoid and name like WebVid's, or those of --id-column and --caption-column.

    --as shards    (default) OUT/00000.tar ...: mp4 + txt + json. Videos are re-encoded with a short side of at most
                   --side pixels and a key frame every second: smaller, and fast to seek
    --as frames    OUT/videos/<videoid>/img_0001.jpg ... and OUT/pretrain_txt_mapper.json, the layout of the published
                   run. Fastest to read, but 2.5 million folders; in the YAML:
                   {name: captions, tag: tv, annotations: OUT/pretrain_txt_mapper.json, video_folder: OUT/videos}

Videos that are in the list but not in the folder, and unreadable ones, are counted and listed in skipped.jsonl. Run the
same command again to resume.
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
from dataset_prep.common.input_files import rows_of
from dataset_prep.common.manifest import sha256, write_json
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.shards import Sample, fill_shards, safe_key, shard_parts
from dataset_prep.common.workers import Unusable
from dataset_prep.extract_frames import FrameSettings, extract_all
from dataset_prep.media_jobs import VIDEO_ENDINGS, add_media_arguments, files_of, without_ending
from dataset_prep.reencode import reencode

PROGRAM = "dataset_prep.web_videos"
SETS = {"webvid": "data/webvid"}


@dataclass(frozen=True)
class TarVideo:
    """The location of a video inside a tar."""

    tar: Path
    at: int
    size: int


@dataclass(frozen=True)
class CaptionedVideo:
    """One video and its caption; `source` is None if no file has its name."""

    id: str
    caption: str
    source: Path | TarVideo | None
    side: int
    key_seconds: float
    work: Path  # folder for temporary files

    def sample(self) -> Sample:
        """The re-encoded video with its caption. raises Unusable, or any error of PyAV"""
        if not self.caption:
            raise Unusable("has no caption")
        if self.source is None:
            raise Unusable("is in the list but not in the folder")
        with TemporaryDirectory(dir=self.work) as folder, readable(self.source, Path(folder)) as source:
            written = reencode(source, Path(folder) / "written.mp4", self.side, self.key_seconds)
            content = (Path(folder) / "written.mp4").read_bytes()
        about = {"id": self.id, "caption": self.caption, "frames": written.frames, "seconds": round(written.seconds, 3)}
        return safe_key(self.id), {"mp4": content, "txt": self.caption, "json": json.dumps(about, ensure_ascii=False)}


@contextmanager
def readable(source: Path | TarVideo, folder: Path) -> Iterator[Path]:
    """The video as a file, which is temporary if the source is a tar."""
    if isinstance(source, Path):
        yield source
        return
    content = OpenFiles().read(source.tar, source.at, source.size)
    if len(content) < source.size:
        raise Unusable("its tar is truncated")
    path = folder / "read.mp4"
    path.write_bytes(content)
    yield path


@dataclass(frozen=True)
class ListedVideo:
    """A video named by a list or a tar."""

    id: str
    caption: str
    source: Path | TarVideo | None = None


def from_list(path: Path, id_column: str, caption_column: str, folder: Path) -> Iterator[ListedVideo]:
    """The rows of the csv with their files, found by name at any depth; the name of "a/7.mp4" is 7."""
    files = {file.stem: file for file in files_of(folder, VIDEO_ENDINGS)}
    for _, row in rows_of(path, (id_column, caption_column), "; choose columns with --id-column, --caption-column"):
        name = without_ending(PurePosixPath(row[id_column].strip()).name, VIDEO_ENDINGS)
        yield ListedVideo(name, " ".join(row[caption_column].split()), files.get(name))


def from_tars(folder: Path) -> Iterator[ListedVideo]:
    """The samples of all tars in a folder, as video2dataset writes them."""
    for tar in sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name)):
        videos: dict[str, TarVideo] = {}
        texts: dict[str, str] = {}
        try:
            with tarfile.open(tar, "r:") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    if is_hidden(member.name):
                        continue
                    if path.suffix.lower() in VIDEO_ENDINGS:
                        videos[path.stem] = TarVideo(tar, member.offset_data, member.size)
                    elif path.suffix.lower() == ".txt" and (stream := archive.extractfile(member)) is not None:
                        texts[path.stem] = repaired(" ".join(stream.read().decode("utf-8", "replace").split()))
        except tarfile.TarError as error:
            raise DataError(f"{tar}: cannot be read ({error}); create it again with video2dataset") from None
        yield from (ListedVideo(name, texts.get(name, ""), piece) for name, piece in videos.items())


def videos_of(asked: Namespace) -> tuple[list[ListedVideo], list[tuple[str, str]]]:
    """All videos in order, each name once; and (name, reason) of skipped ones. raises DataError without any"""
    if asked.list is None and all(is_hidden(path.name) for path in asked.videos.glob("*.tar")):
        raise DataError(f"{asked.videos}: contains no tars, so the captions are missing; name the csv with --list")
    found: Iterable[ListedVideo] = (
        from_tars(asked.videos)
        if asked.list is None
        else from_list(asked.list, asked.id_column, asked.caption_column, asked.videos)
    )
    videos: dict[str, ListedVideo] = {}
    left_out = []
    for video in found:
        if video.id and video.id not in videos:
            videos[video.id] = video
        else:
            left_out.append((video.id, "another row has the same name" if video.id else "a row has no name"))
    if not any(video.source for video in videos.values()):
        raise DataError(f"{asked.videos}: none of the {len(videos)} videos is in this folder")
    return list(videos.values())[: asked.limit], left_out


def write_shards(asked: Namespace, videos: list[ListedVideo], left_out: list[tuple[str, str]]) -> Preparation:
    """Write OUT/*.tar."""
    work = asked.out / ".work"
    with Preparation(asked.out, asked.name, PROGRAM, made_with(asked, per_shard=asked.per_shard)) as made:
        shutil.rmtree(work, ignore_errors=True)  # left by a killed process
        work.mkdir()
        for name, reason in left_out:
            made.skip(name, reason)
        full = [
            CaptionedVideo(video.id, video.caption, video.source, asked.side, asked.key_seconds, work)
            for video in videos
        ]
        fill_shards(made, shard_parts(full, asked.per_shard), CaptionedVideo.sample, asked.workers, asked.time_limit_s)
        shutil.rmtree(work, ignore_errors=True)
    return made


def write_frames(asked: Namespace, videos: list[ListedVideo], left_out: list[tuple[str, str]]) -> Preparation:
    """Write OUT/videos/<id>/img_0001.jpg ... and the captions of the readable videos."""
    settings = FrameSettings(asked.fps, asked.side)
    with Preparation(asked.out / "videos", asked.name, PROGRAM, made_with(asked, **vars(settings))) as made:
        files: dict[str, Path] = {}
        for name, reason in left_out:
            made.skip(name, reason)
        for video in videos:
            if isinstance(video.source, Path) and video.caption:
                files[video.id] = video.source
            elif isinstance(video.source, TarVideo):
                raise DataError(
                    "--as frames requires a folder of videos; unpack the tars first: tar -xf 00000.tar -C raw"
                )
            else:
                reason = "is in the list but not in the folder" if video.caption else "has no caption"
                made.skip(video.id, reason, file=video.id)
        extract_all(made, files, settings, asked.workers, asked.time_limit_s)
    records = [{"video_id": video.id, "caption": video.caption} for video in videos if made.has(video.id)]
    write_json(asked.out / "pretrain_txt_mapper.json", records)
    return made


def made_with(asked: Namespace, **more: Any) -> dict[str, Any]:
    listed = {"name": asked.list.name, "sha256": sha256(asked.list)} if asked.list else None
    return {"list": listed, "limit": asked.limit, "side": asked.side, "key_seconds": asked.key_seconds, **more}


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, PROGRAM, "data/NAME; with --as frames data/NAME_frames")
    parser.set_defaults(out=None)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("--videos", type=arguments.existing_folder, required=True, help="folder of videos or of tars")
    parser.add_argument("--list", type=arguments.existing_file, help="csv with an id and a caption per video")
    parser.add_argument("--id-column", default="videoid", help="(default: videoid)")
    parser.add_argument("--caption-column", default="name", help="(default: name)")
    parser.add_argument("--as", dest="layout", choices=("shards", "frames"), default="shards")
    parser.add_argument(
        "--side", type=arguments.positive, default=256, help="largest short side in pixels (default: 256)"
    )
    parser.add_argument(
        "--key-seconds", type=arguments.above_zero, default=1.0, help="seconds between key frames (default: 1)"
    )
    parser.add_argument("--per-shard", type=arguments.positive, default=500, help="videos per tar (default: 500)")
    parser.add_argument(
        "--fps",
        type=arguments.above_zero,
        default=2.0,
        help="frames per second of --as frames (default: 2; the reference does not state it)",
    )
    add_media_arguments(parser)
    asked = parser.parse_args(given)
    is_shards = asked.layout == "shards"
    asked.out = asked.out or Path(SETS[asked.name] + ("" if is_shards else "_frames"))
    made = (write_shards if is_shards else write_frames)(asked, *videos_of(asked))
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
