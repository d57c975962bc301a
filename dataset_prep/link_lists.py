"""The public lists of links and captions, read in their published formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.common.text_repair import repaired

CHUNK = 1 << 20  # characters
MAX_RECORD = 1 << 24  # characters of one JSON record; a longer one means a damaged file
DIRECT_FORMATS = ("parquet", "jsonl", "tsv", "csv", "json")  # that img2dataset reads itself, in a folder of parts


@dataclass(frozen=True, kw_only=True)
class WebSet:
    """The published format of a set, and the parameters of its download.

    columns   of its .tsv, which has no header; None: it is not published as .tsv
    url_col, caption_col   in parquet
    image_size, resize_mode, resize_only_if_bigger, processes, threads   of img2dataset
    out       folder that its YAML names
    """

    columns: tuple[str, str] | None = None
    url_col: str = "url"
    caption_col: str = "caption"
    image_size: int = 256
    resize_mode: str = "keep_ratio"
    resize_only_if_bigger: bool = True
    processes: int = 16
    threads: int = 64
    out: str


# ChatBridge does not publish its download parameters. A short side of 256 keeps the whole image, which training scales
# to 224 x 224. MiniGPT-4 uses 224 and the defaults of img2dataset, which pad the image to a white square: its released
# weights were trained on such images.
MINIGPT4: dict[str, Any] = {"image_size": 224, "resize_mode": "border", "resize_only_if_bigger": False, "threads": 128}
SETS: dict[str, WebSet] = {
    "cc3m": WebSet(columns=("caption", "url"), out="data/cc3m"),
    "cc12m": WebSet(columns=("url", "caption"), out="data/cc12m"),
    "sbu": WebSet(out="data/sbu"),
    "laion": WebSet(url_col="URL", caption_col="TEXT", threads=128, out="data/laion"),
    "minigpt4_laion": WebSet(**MINIGPT4, out="data/laion/laion_dataset"),
    "minigpt4_cc_sbu": WebSet(**MINIGPT4, out="data/cc_sbu/cc_sbu_dataset"),
}


@dataclass(frozen=True)
class Link:
    """One entry of a list; `fault` is the reason why it cannot be used."""

    place: str
    url: str = ""
    caption: str = ""
    fault: str | None = None


def read_links(path: Path, layout: WebSet) -> Iterator[Link]:
    """Every entry of a list in its order, in constant memory.

    .tsv     two columns in the order of `layout`, with or without a header
    .json    a list of {"url", "caption"} (BLIP), or {"image_urls": [...], "captions": [...]} (SBU)
    .jsonl   {"url", "caption"} per line
    raises   DataError for a different format, or invalid JSON
    """
    ending = path.suffix.lower()
    if path.is_file():
        refuse_other_kind(path, may_be_empty=True)
    if ending == ".tsv" and layout.columns:
        yield from map(_checked, _tab_separated(path, layout.columns))
    elif ending == ".jsonl":
        yield from map(_checked, _lines(path))
    elif ending == ".json":
        yield from map(_checked, _json(path))
    else:
        wanted = [".tsv"] * (layout.columns is not None) + [".json", ".jsonl", "a folder of .parquet or .jsonl files"]
        unpacked = "; unpack it first" if ending in (".gz", ".zip", ".bz2", ".xz") else ""
        raise DataError(f"{path}: expected {', '.join(wanted)}{unpacked}")


def _checked(link: Link) -> Link:
    """The link without surrounding white space, and with its fault if it cannot be used."""
    url, caption = repaired(link.url.strip()), repaired(" ".join(link.caption.split()))
    fault = link.fault
    if fault is None and not url.lower().startswith(("http://", "https://")):
        fault = "its link does not begin with http"
    if fault is None and not caption:
        fault = "has no caption"
    return Link(link.place, url, caption, fault)


def _tab_separated(path: Path, columns: tuple[str, str]) -> Iterator[Link]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place = f"line {number}"
            try:
                fields = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError:
                yield Link(place, fault="is not UTF-8 text")
                continue
            if fields == [""] or (number == 1 and {field.strip().lower() for field in fields} == set(columns)):
                continue
            if len(fields) != len(columns):
                yield Link(place, fault=f"does not have {len(columns)} columns")
            else:
                yield Link(place, **dict(zip(columns, fields, strict=True)))


def _lines(path: Path) -> Iterator[Link]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield _link(f"line {number}", json.loads(line))
                except (ValueError, RecursionError):
                    yield Link(f"line {number}", fault="is not valid JSON")


def _json(path: Path) -> Iterator[Link]:
    try:
        yield from _any_json(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); unpack it if it is compressed"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: is not a list of links: its brackets are nested too deeply") from None


def _any_json(path: Path) -> Iterator[Link]:
    with path.open(encoding="utf-8-sig") as stream:
        start = stream.read(1)
        while start.isspace():
            start = stream.read(1)
        if start == "[":
            yield from (_link(f"record {number}", record) for number, record in enumerate(_records(path, stream)))
            return
    yield from _columns(path)


def _records(path: Path, stream: TextIO) -> Iterator[Any]:
    """The items of a list after its opening bracket, read in chunks: LAION's list has 20 GB."""
    decoder, text, at = json.JSONDecoder(), "", 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            more = stream.read(CHUNK)
            if not more or len(text) - at > MAX_RECORD:
                raise DataError(f"{path}: is not valid JSON from {text[at : at + 60]!r}; download it again") from None
            text, at = text[at:] + more, 0
            continue
        yield value


def _columns(path: Path) -> Iterator[Link]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from None
    urls, captions = (content.get(key) if isinstance(content, dict) else None for key in ("image_urls", "captions"))
    if not isinstance(urls, list) or not isinstance(captions, list):
        raise DataError(f'{path}: expected a list of {{"url", "caption"}}, or the lists "image_urls" and "captions"')
    if len(urls) != len(captions):
        raise DataError(f"{path}: has {len(urls)} links but {len(captions)} captions")
    for number, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        yield _link(f"record {number}", {"url": url, "caption": caption})


def _link(place: str, record: Any) -> Link:
    if not isinstance(record, dict) or "url" not in record or "caption" not in record:
        return Link(place, fault="has no url and caption")
    url, caption = ("" if record[key] is None else record[key] for key in ("url", "caption"))
    for key, value in (("url", url), ("caption", caption)):
        if not isinstance(value, str):
            return Link(place, url if isinstance(url, str) else "", fault=f"its {key} is not text")
    return Link(place, url, caption)
