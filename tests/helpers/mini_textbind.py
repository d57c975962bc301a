"""The public files of TextBind's two stages in their real layouts, with a handful of records each.

As downloads, they have fields that nobody reads, a dead link, an image that does not exist, and a last question
without an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_prep.textbind.__main__ import main
from tests.helpers.shard_server import serving
from tests.helpers.tiny_media import jpeg, pairs, write_json, write_tar

PAIR = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
BLEND = {  # source -> (its file, records, images below its folder)
    "platypus": ("raw/platypus/train.jsonl", [{**PAIR, "data_source": "math"}], None),
    "alpaca_gpt4": ("raw/alpaca_gpt4/alpaca_gpt4_data.json", [PAIR, {**PAIR, "input": ""}], None),
    "minigpt4": ("raw/filter_cap.json",
                 {"annotations": [{"image_id": "2", "caption": "A street."}, {"image_id": "9", "caption": "Gone."}]},
                 ("data/cc_sbu_align/image", "2.jpg")),
    "shikra": ("raw/shikra/train.jsonl",
               [{"img_path": "36979.jpg", "question": "Where is <ph_st> the ball <ph_ed> ?", "boxes": [[1, 2, 3, 4]],
                 "cot_with_ans": "The ball <ph_st>0<ph_ed> is left ."}],
               ("data/flickr30k/images", "36979.jpg")),
    "llava": ("raw/llava/llava_instruct_150k.json",
              [{"id": "000000000009", "image": "000000000009.jpg", "conversations": [
                  {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A plate."},
                  {"from": "human", "value": "Is it full?"}, {"from": "gpt", "value": "Yes."}]}],
              ("data/multis/coco/images", "train2014/COCO_train2014_000000000009.jpg")),
    "multi_instruct": ("raw/multi_instruct/train_2000.jsonl",
                       [{"unique_id": "1", "task_name": "VQA", "prompt": "Is there a dog?", "target": "yes",
                         "image_path": "train/1.jpg"}],
                       ("data/multi_instruct", "train/1.jpg")),
}  # fmt: skip


def turn(role: str, content: str, url: str = "", **images: str) -> dict[str, Any]:
    """A turn with the images `name="caption"`; names are numbers with an underscore before them."""
    names = [f"{name.removeprefix('_')}.png" for name in images]
    return {"role": role, "content": content, "image_list": names, "caption_list": list(images.values()),
            "url_list": [f"{url}/{name.removesuffix('.png')}.jpg" for name in names]}  # fmt: skip


def dialogues(url: str) -> list[dict[str, Any]]:
    """train.json: both sides show images; the second record ends with a question, the third has a dead link."""
    shown = turn("user", "What is <image> ?", url, _490272="a white cat")
    drawn = turn("assistant", "A cat. Like this: <image> Or <image>", url, _1="a red cat", _2="a cat on a sofa")
    return [
        {"conversation": [shown, drawn, turn("user", "Thanks."), turn("assistant", "Welcome.")]},
        {"conversation": [turn("user", "Hi."), turn("assistant", "Hello."), turn("user", "And <image>", url, _1="x")]},
        {"conversation": [turn("user", "<image>", url, _404="gone"), turn("assistant", "It is gone.")]},
    ]


@contextmanager
def published(root: Path) -> Iterator[str]:
    """Write the published files below `root`; the images of train.json are on a server while this is open."""
    for path, records, images in BLEND.values():
        write_json(root / path, records)
        if images is not None:
            folder, name = images
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(jpeg(side=32))
    tars = root / "data/cc_sbu/cc_sbu_dataset"
    tars.mkdir(parents=True)
    for number in (0, 1, 1255):
        members = pairs(3, first=number % 200)
        keys = dict.fromkeys(name.partition(".")[0] for name, _ in members)
        facts = [(f"{key}.json", json.dumps({"key": key, "status": "success"})) for key in keys]
        write_tar(tars / f"{number:05}.tar", sorted([*members, *facts]))
    (root / "web").mkdir()
    for number in (490272, 1, 2):
        (root / f"web/{number}.jpg").write_bytes(jpeg(side=48))
    with serving(root / "web") as server:
        write_json(root / "raw/textbind/train.json", dialogues(server.url))
        yield server.url


def prepare() -> None:
    """Run every command of the cards in the current folder."""
    main(["download", "raw/textbind/train.json", "--out", "data/textbind/images", "--keep", "data/textbind/train.json"])
    write_json(Path("data/textbind/val.json"), json.loads(Path("data/textbind/train.json").read_text())[:1])
    for source, (path, _, _) in BLEND.items():
        main(["blend", source, "--list", path])
