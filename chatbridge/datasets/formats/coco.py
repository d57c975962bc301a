"""Captions of images in COCO's layout and in Karpathy's.

coco        captions_train2014.json, captions_val2017.json: {"images": [{"id", "file_name"}], "annotations":
            [{"image_id", "caption"}]}. A record is an image with all its captions; images without captions
            (image_info_test2014.json) have no answer.
nocaps      nocaps_val_4500_captions.json: the same, an image also has a "domain" (in-domain, near-domain, out-domain)
            to group by.
coco_gt     coco_karpathy_test_gt.json, coco_karpathy_val_gt.json, the references of LAVIS: the same, an image has its
            "id" alone, from which its name in val2014 or train2014 follows.
karpathy    dataset_coco.json, dataset_flickr30k.json: {"images": [{"filename", "filepath"?, "split", "cocoid" or
            "imgid", "sentences": [{"raw"}]}]}. `split` selects train, restval, val or test; COCO's usual training is
            [train, restval].
coco_caption  coco_karpathy_train.json as LAVIS converts it: [{"image": "val2014/a.jpg", "caption": text or list,
            "image_id" or "img_id"?}]. A record per entry, so an image may come several times, a caption each.

Images of COCO are looked up under their own name, in their own folder (train2014/...), and under the short name of
2017 and of MULTIS (000000391895.jpg).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import RECORD_LIST, json_values, section
from chatbridge.datasets.formats.records import CaptionRecord, Format, Parsed, each, parsed

Names = Callable[[Fields, str], tuple[str, ...]]


def coco(annotations: Path) -> Iterator[Parsed[CaptionRecord]]:
    """Images in the order of "images", each with its captions."""
    return with_captions(annotations, lambda fields, image_id: _names(fields.text("file_name"), image_id))


def coco_gt(annotations: Path) -> Iterator[Parsed[CaptionRecord]]:
    """The same for images without a file name."""
    return with_captions(annotations, _numbered)


def _numbered(fields: Fields, image_id: str) -> tuple[str, ...]:
    if "file_name" in fields.record:
        raise BadRecord("has a 'file_name'; set format: coco")
    return coco_names(fields.number("id"), "val2014", "train2014")


def with_captions(annotations: Path, names: Names) -> Iterator[Parsed[CaptionRecord]]:
    """Entries of "images" with their captions, and every fault. names: of an entry, from its fields and id"""
    captions: dict[str, list[str]] = {}
    for value in json_values(annotations):
        if value.section != "annotations":
            continue
        try:
            fields = Fields(value.value)
            captions.setdefault(fields.name("image_id"), []).extend(fields.texts("caption") or [fields.text("caption")])
        except BadRecord as error:
            yield Parsed(value.place, None, str(error))
    seen: set[str] = set()
    yield from (parsed(value, _coco, captions, seen, names) for value in section(annotations, "images"))
    for image_id in captions:
        yield Parsed("annotations", None, f"the captions of image_id {image_id} have no entry in 'images'")


def _coco(fields: Fields, captions: dict[str, list[str]], seen: set[str], names: Names) -> CaptionRecord:
    image_id = fields.new_name("id", seen, "the id")
    texts = captions.pop(image_id, [])  # first: its captions have an entry, also where that has a mistake
    return CaptionRecord(
        id=image_id,
        names=names(fields, image_id),
        captions=tuple(text for text in texts if text.strip()),
        details=fields.kept("domain", "open_images_id"),
    )


def _karpathy(fields: Fields) -> CaptionRecord:
    texts = [Fields(sentence).text("raw") for sentence in fields.items("sentences")]
    file = fields.text("filename")
    folder = "".join(fields.files("filepath"))
    return CaptionRecord(
        id=fields.name(fields.first("cocoid", "imgid")),
        names=(*([f"{folder}/{file}"] if folder else []), *_names(file, "".join(fields.files("cocoid")))),
        captions=tuple(text for text in texts if text.strip()),
        details={"split": fields.text("split")},
    )


def _converted(fields: Fields) -> CaptionRecord:
    fields.require("caption")
    image = fields.text("image")
    file = PurePosixPath(image)
    names = (image, *_names(file.name, file.stem.rpartition("_")[2]))
    number = "".join(fields.files("img_id"))  # of LAVIS's nocaps_val.json
    return CaptionRecord(id=number, names=tuple(dict.fromkeys(names)), captions=fields.texts("caption"))


def coco_names(image_id: int, *subsets: str) -> tuple[str, ...]:
    """Names of an image of COCO: those of the subsets of 2014 ("train2014"), then the one of 2017."""
    old = [f"{folder}COCO_{subset}_{image_id:012}.jpg" for subset in subsets for folder in ("", f"{subset}/")]
    return (*old, f"{image_id:012}.jpg")


def _names(file: str, image_id: str) -> tuple[str, ...]:
    short = f"{int(image_id):012}.jpg" if file.startswith("COCO_") and image_id.isdecimal() else file
    return tuple(dict.fromkeys((file, short)))


karpathy = each(_karpathy, "images")
COCO_FORMATS = {
    "coco": Format(coco),
    "coco_gt": Format(coco_gt),
    "nocaps": Format(coco),
    "karpathy": Format(karpathy, has_splits=True),
    "coco_caption": Format(each(_converted, *RECORD_LIST)),
}
