"""Captions of pictures in COCO's layout and in Karpathy's.

coco        captions_train2014.json, captions_val2017.json: {"images": [{"id", "file_name"}], "annotations":
            [{"image_id", "caption"}]}. A sample is a picture with all its captions; pictures without any
            (image_info_test2014.json) have no answer.
nocaps      nocaps_val_4500_captions.json: the same, a picture also has a "domain" (in, near, out) to group by.
karpathy    dataset_coco.json, dataset_flickr30k.json: {"images": [{"filename", "filepath"?, "split", "cocoid" or
            "imgid", "sentences": [{"raw"}]}]}. `split` picks train, restval, val or test; COCO's usual training is
            [train, restval].

Pictures of COCO are looked up under their own name, in their own folder (train2014/...), and under the short name of
2017 and of MULTIS (000000391895.jpg).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, entries
from chatbridge.datasets.formats.json_items import json_items, section


def coco(options: Options) -> Iterator[Entry]:
    """Pictures in the order of "images", each with its captions."""
    captions: dict[str, list[str]] = {}
    for item in json_items(options.annotations):
        if item.section != "annotations":
            continue
        try:
            fields = Fields(item.value)
            captions.setdefault(fields.name("image_id"), []).extend(fields.texts("caption") or [fields.text("caption")])
        except Wrong as error:
            yield Entry(item.place, {}, str(error))
    seen: set[str] = set()
    yield from entries(section(options.annotations, "images"), lambda value: _picture(value, captions, seen))
    for left in captions:
        yield Entry("annotations", {}, f"the captions of image_id {left} have no entry in 'images'")


def _picture(value: Any, captions: dict[str, list[str]], seen: set[str]) -> dict[str, Any]:
    fields = Fields(value)
    number = fields.name("id")
    if number in seen:
        raise Wrong(f"the id {number} is there twice")
    seen.add(number)
    texts = [text for text in captions.pop(number, []) if text.strip()]
    names = _names(fields.text("file_name"), number)
    return {"_id": number, "_media": names, "_answers": texts, **fields.kept("domain", "open_images_id")}


def karpathy(options: Options) -> Iterator[Entry]:
    """Pictures in the order of the file; the split stands in each."""
    return entries(section(options.annotations, "images"), _karpathy)


def _karpathy(value: Any) -> dict[str, Any]:
    fields = Fields(value)
    texts = [Fields(sentence).text("raw") for sentence in fields.items("sentences")]
    file = fields.text("filename")
    folder = "".join(fields.files("filepath"))
    names = [*([f"{folder}/{file}"] if folder else []), *_names(file, "".join(fields.files("cocoid")))]
    return {
        "_id": fields.name(fields.first("cocoid", "imgid")),
        "_media": names,
        "_answers": [text for text in texts if text.strip()],
        "split": fields.text("split"),
    }


def coco_names(number: int, *subsets: str) -> list[str]:
    """Names of a picture of COCO, the one of 2017 and those of the subsets of 2014 ("train2014")."""
    old = [f"{folder}COCO_{subset}_{number:012}.jpg" for subset in subsets for folder in ("", f"{subset}/")]
    return [*old, f"{number:012}.jpg"]


def _names(file: str, number: str) -> list[str]:
    short = f"{int(number):012}.jpg" if file.startswith("COCO_") and number.isdecimal() else file
    return list(dict.fromkeys((file, short)))


CAPTION_FORMATS = {
    "coco": Format(coco, ("unanswered",)),
    "nocaps": Format(coco, ("unanswered",)),
    "karpathy": Format(karpathy, ("split", "unanswered")),
}
