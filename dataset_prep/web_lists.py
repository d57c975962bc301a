"""The public lists of links and captions, each in the form in which it is published."""

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
MAX_RECORD = 1 << 24  # characters of one JSON record; more means that the file is broken
AS_THEY_ARE = ("parquet", "jsonl", "tsv", "csv", "json")  # what a folder of parts may hold


@dataclass(frozen=True, kw_only=True)
class WebSet:
    """How a set is published and downloaded.

    columns   of its .tsv, which has no header; None: it is not published as one
    url_col, caption_col   in parquet
    image_size, resize_mode, resize_only_if_bigger, processes, threads   of img2dataset
    out       where its YAML looks
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


# ChatBridge does not say how its pictures were downloaded. Short sides of 256 keep the picture whole: training scales
# it to 224 x 224. MiniGPT-4 says 224 and leaves the rest at img2dataset's defaults, which put the picture into a white
# square: its released weights were trained on such pictures.
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
    """One entry of a list; `fault` says why it cannot be used."""

    place: str
    url: str = ""
    caption: str = ""
    fault: str | None = None


def read_links(path: Path, layout: WebSet) -> Iterator[Link]:
    """Every entry of a list, in its order, whatever the size of the file.

    .tsv     two columns in the order of `layout`, with or without a header
    .json    a list of {"url", "caption"} (BLIP), or {"image_urls": [...], "captions": [...]} (SBU)
    .jsonl   {"url", "caption"} per line
    raises   DataError for another form, or a file that is no JSON
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
    """The link without white space around, and with its fault when it cannot be used."""
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
                yield Link(place, fault="is no UTF-8 text")
                continue
            if fields == [""] or (number == 1 and {field.strip().lower() for field in fields} == set(columns)):
                continue
            if len(fields) != len(columns):
                yield Link(place, fault=f"has not {len(columns)} columns")
            else:
                yield Link(place, **dict(zip(columns, fields, strict=True)))


def _lines(path: Path) -> Iterator[Link]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield _link(f"line {number}", json.loads(line))
                except (ValueError, RecursionError):
                    yield Link(f"line {number}", fault="is no JSON")


def _json(path: Path) -> Iterator[Link]:
    try:
        yield from _any_json(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}); is it unpacked?") from None
    except RecursionError:
        raise DataError(f"{path}: is no list of links: its brackets are nested too deeply") from None


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
    """The items of a list whose bracket was read. LAION's has 20 GB: one piece at a time is in memory."""
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
                raise DataError(f"{path}: is no JSON from {text[at : at + 60]!r} on; download it again") from None
            text, at = text[at:] + more, 0
            continue
        yield value


def _columns(path: Path) -> Iterator[Link]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
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
