"""The public files of all sets of Multimodal-GPT in their real layouts, with a handful of records each.

As downloads, they have fields that nobody reads, a record whose image does not exist, and one without an answer.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from dataset_prep import cc_sbu_align, llava, mmgpt
from tests.helpers.tiny_media import jpeg, write_json

COCO = (9, 25, 30)  # numbers of the images that exist
NO_IMAGE = 581929
# set -> the arguments of dataset_prep.mmgpt after the set, as the cards give them
COMMANDS = {
    "vqa": "--list raw/vqa/v2_mscoco_train2014_annotations.json "
           "--questions raw/vqa/v2_OpenEnded_mscoco_train2014_questions.json",
    "okvqa": "--list raw/okvqa/mscoco_train2014_annotations.json "
             "--questions raw/okvqa/OpenEnded_mscoco_train2014_questions.json",
    "aokvqa": "--list raw/aokvqa/aokvqa_v1p0_train.json",
    "coco_caption": "--list raw/coco/dataset_coco.json --split train restval val",
    "ocr_vqa": "--list raw/ocr_vqa/dataset.json",
    "text_ocr": "--list raw/textvqa/TextVQA_0.5.1_train.json",
    "gqa": "--list raw/gqa/train_balanced_questions.json",
    "clevr": "--list raw/CLEVR_v1.0/questions/CLEVR_train_questions.json",
    "nlvrv1": "--list data/nlvr/train/train.json",
    "nlvrv2": "--list raw/lil-lab/nlvr2/data/train.json",
    "snlive": "--list raw/snli_ve/snli_ve_train.jsonl",
    "dolly": "--list raw/dolly/databricks-dolly-15k.jsonl",
    "alpaca_gpt4": "--list raw/alpaca_gpt4/alpaca_gpt4_data.json",
    "baize": "--list raw/baize/quora_chat_data.json",
}  # fmt: skip
LLAVA = ("detail_23k", "complex_reasoning_77k", "conversation_58k")


def prepare() -> None:
    """Run every command of the cards in the current folder."""
    for name, words in COMMANDS.items():
        mmgpt.main([name, *words.split()])
    for name in LLAVA:
        llava.main([f"llava_{name}", "--list", f"raw/llava/{name}.json"])
    cc_sbu_align.main(["--zip", "raw/cc_sbu_align.zip"])


def write_raw(root: Path) -> None:
    """Write downloads below raw/, and images to their folders below data/."""
    raw = root / "raw"
    for number in COCO:
        _image(root / f"data/multis/coco/images/train2014/COCO_train2014_{number:012}.jpg", number)
    _two_files(raw / "vqa", "v2_")
    _two_files(raw / "okvqa", "")
    write_json(raw / "aokvqa/aokvqa_v1p0_train.json", [*map(_aokvqa, (9, 25, NO_IMAGE)), _aokvqa(30, rationales=[])])
    _karpathy(raw / "coco/dataset_coco.json")
    _llava(raw / "llava")
    _cc_sbu_align(raw / "cc_sbu_align.zip")
    _ocr_vqa(raw / "ocr_vqa/dataset.json", root / "data/ocr_vqa/images")
    _textvqa(raw / "textvqa/TextVQA_0.5.1_train.json", root / "data/textvqa/images")
    _gqa(raw / "gqa/train_balanced_questions.json", root / "data/gqa/images")
    _clevr(raw / "CLEVR_v1.0/questions/CLEVR_train_questions.json", root / "data/clevr/images")
    _nlvr1(root / "data/nlvr/train")
    _nlvr2(raw / "lil-lab/nlvr2/data/train.json", root / "data/nlvr2/images")
    _snli_ve(raw / "snli_ve/snli_ve_train.jsonl", root / "data/flickr30k/images")
    _language(raw)


def _image(path: Path, number: int, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 37 % 250, 40, 90)).save(path)


def _lines(path: Path, records: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _two_files(folder: Path, prefix: str) -> None:
    """VQAv2's and OK-VQA's: a question of two different answers, one without its image, one without an answer."""
    asked = [(9, 90, "What is on the plate?"), (25, 250, "Is it sunny?"), (NO_IMAGE, 1, "Who?"), (30, 300, "Why?")]
    given = {90: ["food"] * 6 + ["fruit"] * 4, 250: ["yes"] * 10, 1: ["man"] * 10, 300: []}
    answers = [
        {
            "question_type": "what", "answer_type": "other", "image_id": number // 10, "question_id": number,
            "answers": [{"answer": a, "raw_answer": a, "answer_confidence": "yes", "answer_id": k}
                        for k, a in enumerate(ten, start=1)],
        }
        for number, ten in given.items()
    ]  # fmt: skip
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "train2014"}
    questions = [{"image_id": image, "question": text, "question_id": number} for image, number, text in asked]
    write_json(folder / f"{prefix}mscoco_train2014_annotations.json", {**head, "annotations": answers})
    name = f"{prefix}OpenEnded_mscoco_train2014_questions.json"
    write_json(folder / name, {**head, "task_type": "Open-Ended", "questions": questions})


def _aokvqa(image: int, **changed: Any) -> dict[str, Any]:
    """One record of the published file, which has no "image"."""
    return {
        "split": "train", "image_id": image, "question_id": f"q{image}", "question": "What is it?",
        "choices": ["ship", "bus", "van", "car"], "correct_choice_idx": 1, "direct_answers": ["bus"] * 10,
        "difficult_direct_answer": False, "rationales": ["It is long.", "It has a number.", "It is red."], **changed,
    }  # fmt: skip


def _karpathy(path: Path) -> None:
    def record(number: int, split: str) -> dict[str, Any]:
        sentences = [{"raw": f"Sentence {k} about {number}.", "tokens": [], "imgid": 0, "sentid": k} for k in range(5)]
        return {"filepath": "train2014", "filename": f"COCO_train2014_{number:012}.jpg", "cocoid": number, "imgid": 0,
                "sentids": [], "split": split, "sentences": sentences}  # fmt: skip

    splits = {9: "train", 25: "restval", 30: "test", NO_IMAGE: "val"}
    write_json(path, {"dataset": "coco", "images": [record(*one) for one in splits.items()]})


def _llava(folder: Path) -> None:
    texts = {
        "detail_23k": ("Describe the scene.\n<image>", "A wet street.\n\nIt shines."),
        "complex_reasoning_77k": ("<image>\nWhy is\nit wet?", "It rained."),
        "conversation_58k": ("What is this?\n<image>", "A red bus.", "How many doors?", "Two doors."),
    }
    for name, turns in texts.items():
        said = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(turns)]
        numbers = (*COCO, NO_IMAGE)
        records = [{"id": f"{n:012}", "image": f"{n:012}.jpg", "conversations": said} for n in numbers]
        write_json(folder / f"{name}.json", records)


def _cc_sbu_align(path: Path) -> None:
    captions = [{"image_id": str(number), "caption": f"A long text about picture {number}."} for number in (2, 7, 8)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cc_sbu_align/filter_cap.json", json.dumps({"annotations": captions}))
        for number in (2, 7):
            archive.writestr(f"cc_sbu_align/image/{number}.jpg", jpeg(number))


def _ocr_vqa(path: Path, images: Path) -> None:
    def cover(split: int, **changed: Any) -> dict[str, Any]:
        return {
            "imageURL": "http://ecx.example/51.jpg", "questions": ["Who wrote this book?", "What is the title?"],
            "answers": ["Jane Roe", "The Car"], "title": "The Car", "authorName": "Jane Roe", "genre": "Travel",
            "split": split, **changed,
        }  # fmt: skip

    covers = {"0000913154": cover(1), "1421549573": cover(1), "0764586718": cover(3), "0764586719": cover(1)}
    write_json(path, covers | {"0764586720": cover(1, answers=["Jane Roe"])})
    for name in ("0000913154", "1421549573", "0764586718", "0764586720"):
        _image(images / f"{name}.jpg", 1)


def _textvqa(path: Path, images: Path) -> None:
    def record(number: int, image: str, answers: list[str]) -> dict[str, Any]:
        return {
            "question": "what is the plate?", "image_id": image, "image_classes": ["Car"], "image_width": 1024,
            "flickr_original_url": "https://farm.example/o.jpg", "question_tokens": ["what"], "question_id": number,
            "set_name": "train", "answers": answers,
        }  # fmt: skip

    two = ["abc"] * 7 + ["abd"] * 3
    records = [record(1, "0054c91397f2fe05", two), record(2, "0000599864fd15b3", two), record(3, "gone", two)]
    write_json(path, {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": records})
    for name in ("0054c91397f2fe05", "0000599864fd15b3"):
        _image(images / f"{name}.jpg", 2)


def _gqa(path: Path, images: Path) -> None:
    def record(image: str, **changed: Any) -> dict[str, Any]:
        return {
            "semantic": [], "entailed": ["1"], "equivalent": ["1"], "imageId": image, "isBalanced": True,
            "groups": {"global": None}, "question": "Is the sky dark?", "answer": "yes", "semanticStr": "",
            "annotations": {}, "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
            "fullAnswer": "Yes, the sky is dark.", **changed,
        }  # fmt: skip

    write_json(path, {"02930152": record("2354786"), "07333408": record("2375429"), "05451382": record("1")})
    for name in ("2354786", "2375429"):
        _image(images / f"{name}.jpg", 3)


def _clevr(path: Path, images: Path) -> None:
    def record(number: int) -> dict[str, Any]:
        return {
            "image_index": number, "program": [], "question_index": number * 10, "question_family_index": 2,
            "image_filename": f"CLEVR_train_{number:06}.png", "split": "train", "answer": "yes",
            "question": "Are there more big green things than large purple shiny cubes?",
        }  # fmt: skip

    write_json(path, {"info": {"split": "train", "version": "1.0"}, "questions": [record(k) for k in range(3)]})
    for number in range(2):
        _image(images / f"train/CLEVR_train_{number:06}.png", number)


def _nlvr1(folder: Path) -> None:
    """A record per line in a file that ends in .json, beside its images, as the repository of NLVR has them."""
    records = [
        {"directory": "56", "evals": {}, "identifier": name, "label": label, "sentence": "There is a black square.",
         "structured_rep": []}
        for name, label in (("1304-0", "true"), ("1304-1", "false"), ("99-0", "true"))
    ]  # fmt: skip
    _lines(folder / "train.json", records)
    for name in ("1304-0", "1304-1"):
        for k in range(6):
            _image(folder / f"images/56/train-{name}-{k}.png", k, (40, 10))


def _nlvr2(path: Path, images: Path) -> None:
    """The two images of a pair differ in size."""
    records = [
        {"validation": {}, "identifier": f"train-{pair}-{k}", "sentence": "The left image shows two dogs.",
         "left_url": "https://a.example/l.jpg", "right_url": "https://a.example/r.jpg", "writer": "5",
         "label": label, "directory": 57, "synset": "dog", "query": "group of dogs4"}
        for pair, k, label in (("10171-0", 0, "True"), ("10171-0", 1, "False"), ("10172-1", 0, "False"))
    ]  # fmt: skip
    _lines(path, records)
    _image(images / "train/57/train-10171-0-img0.png", 1, (30, 20))
    _image(images / "train/57/train-10171-0-img1.png", 2, (20, 40))


def _snli_ve(path: Path, images: Path) -> None:
    labels = ("entailment", "neutral", "contradiction")
    records = [
        {"annotator_labels": [label], "captionID": f"{image}.jpg#0", "gold_label": label, "pairID": f"{image}.jpg#{k}",
         "sentence1": "A dog runs.", "sentence2": "A dog is outside.", "Flickr30K_ID": image}
        for k, (image, label) in enumerate(zip(("4705552913", "2407214681", "1"), labels))
    ]  # fmt: skip
    _lines(path, [*records, {**records[0], "gold_label": "-", "pairID": "4705552913.jpg#9"}])
    for image in ("4705552913", "2407214681"):
        _image(images / f"{image}.jpg", 4)


def _language(raw: Path) -> None:
    dolly = [
        {"instruction": "What is a prism?", "context": "", "response": "An optical element.", "category": "open_qa"},
        {"instruction": "Sum it up.", "context": "The dog sleeps.", "response": "It sleeps.", "category": "summary"},
        {"instruction": "Say nothing.", "context": "", "response": "", "category": "open_qa"},
    ]
    _lines(raw / "dolly/databricks-dolly-15k.jsonl", dolly)
    alpaca = [
        {"instruction": "Identify the odd one out.", "input": "Twitter, Telegram", "output": "Telegram"},
        {"instruction": "Say hi.", "input": "", "output": "Hi!"},
        {"instruction": "Draw a cat.", "input": "", "output": ""},
    ]
    write_json(raw / "alpaca_gpt4/alpaca_gpt4_data.json", alpaca)
    text = "The conversation between human and AI assistant.\n[|Human|] How do dogs sleep?\n[|AI|] They lie\ndown.\n"
    baize = [
        {"topic": "dogs", "input": f"{text}[|Human|] And cats?\n[|AI|] Cats curl up.\n[|Human|] "},
        {"topic": "none", "input": "The conversation between human and AI assistant.\n[|Human|] "},
    ]
    write_json(raw / "baize/quora_chat_data.json", baize)
