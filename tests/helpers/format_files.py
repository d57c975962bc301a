"""Miniatures of public annotation files, field for field as they are published, and the expected samples."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset

FOLDERS = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """One layout.

    files     name -> content; the first is `annotations`, others are named by their key
    media     the media files of the first sample
    first     (role, text, names of media) of each message of the first sample
    breaks    place of a value in the first file, its replacement, and the message that must follow
    """

    builder: str
    settings: dict[str, Any]
    files: dict[str, Any]
    count: int
    id: str
    first: tuple[tuple[str, str, tuple[str, ...]], ...]
    references: tuple[str, ...]
    breaks: tuple[tuple[Any, ...], Any, str]
    media: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, broken: bool = False) -> dict[str, Any]:
        """The files in `folder`; the node of the source without its name."""
        node = dict(self.settings)
        for number, (key, content) in enumerate(self.files.items()):
            path = folder / (key if "." in key else f"{key}.json")
            if broken and number == 0:
                content = replaced(content, *self.breaks[:2])
            path.write_bytes(encoded(content, path))
            node["annotations" if number == 0 else key.partition(".")[0]] = str(path)
        for kind in FOLDERS.get(node.get("tag", "").split("-")[0], ()):
            node[f"{kind}_folder"] = str(folder / "media")
        for name in self.media:
            (folder / "media" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "media" / name).write_bytes(b"not decoded here")
        (folder / "media").mkdir(exist_ok=True)
        return node

    def open(self, folder: Path, broken: bool = False, **settings: Any) -> Dataset:
        part = BUILDERS.get(self.builder)
        return part(parse(part.Config, {**self.write(folder, broken), **settings}), "miniature")


def encoded(content: Any, path: Path) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if path.suffix == ".jsonl":
        return "".join(json.dumps(record) + "\n" for record in content).encode()
    return json.dumps(content).encode()


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced, or removed when `value` is `...`."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def ask(text: str, *media: str) -> tuple[str, str, tuple[str, ...]]:
    return "user", text, media


def reply(text: str) -> tuple[str, str, tuple[str, ...]]:
    return "assistant", text, ()


VQA_QUESTIONS = {
    "info": {"version": "2.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 393225, "question": "How many?", "question_id": 393225000},
    ],
}


def ten(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": word, "answer_confidence": "yes", "answer_id": number + 1} for number, word in enumerate(answers)
    ]


VQA_ANSWERS = {
    "info": {},
    "annotations": [
        {"question_type": "how many", "multiple_choice_answer": "2", "answers": ten(*["2"] * 10), "image_id": 393225,
         "answer_type": "number", "question_id": 393225000},
        {"question_type": "none of the above", "multiple_choice_answer": "down",
         "answers": ten(*["down"] * 7, "table", "at table", "skateboard"), "image_id": 262148, "answer_type": "other",
         "question_id": 262148000},
    ],
}  # fmt: skip
COCO = {
    "info": {}, "licenses": [],
    "images": [{"id": 391895, "file_name": "COCO_train2014_000000391895.jpg", "height": 360, "width": 640},
               {"id": 5, "file_name": "COCO_train2014_000000000005.jpg"}],
    "annotations": [{"id": 1, "image_id": 391895, "caption": "A man on a bike."},
                    {"id": 2, "image_id": 5, "caption": "A cat."},
                    {"id": 3, "image_id": 391895, "caption": "Ein Mann fährt Motorrad \U0001f3cd."}],
}  # fmt: skip
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test", "cocoid": 391895,
         "imgid": 0, "sentids": [1], "sentences": [{"raw": "A man.", "tokens": ["a", "man"], "imgid": 0, "sentid": 1}]},
        {"filepath": "val2014", "filename": "COCO_val2014_000000522418.jpg", "split": "restval", "cocoid": 522418,
         "imgid": 1, "sentids": [2, 3], "sentences": [{"raw": "A cake."}, {"raw": "A knife."}]},
        {"filepath": "train2014", "filename": "COCO_train2014_000000000009.jpg", "split": "train", "cocoid": 9,
         "imgid": 2, "sentids": [], "sentences": [{"raw": "Food."}]},
    ],
}  # fmt: skip
FLICKR = {"dataset": "flickr30k", "images": [
    {"filename": "1000092795.jpg", "split": "train", "imgid": 0, "sentences": [{"raw": "Two men."}]}]}  # fmt: skip
QA_VIDEO = [{"answer": "couch", "category_id": 14, "id": 0, "question": "what is a man sitting on?", "video_id": 7},
            {"answer": 2, "category_id": 14, "id": 1, "question": "how many men?", "video_id": 9}]  # fmt: skip
AVSD = {"type": "train", "version": "0.1", "dialogs": [{
    "image_id": "7UPGT", "caption": "person is walking", "summary": "A man walks.", "script": "...",
    "dialog": [{"question": "is there only one person ?", "answer": "yes , one man"},
               {"question": "any sound ?", "answer": "some music"}]}]}  # fmt: skip

MINIATURES = {
    "coco": Miniature(
        builder="captions", settings={"format": "coco", "tag": "ti"}, files={"captions_train2014": COCO}, count=2,
        id="391895", media=("000000391895.jpg",),
        references=("a man on a bike.", "ein mann fährt motorrad \U0001f3cd."),
        first=(ask("", "000000391895.jpg"), reply("a man on a bike.")),
        breaks=(("annotations", 1, "caption"), None, "annotations, record 1: 'caption' is null, expected text"),
    ),
    "nocaps": Miniature(
        builder="captions", settings={"format": "nocaps", "tag": "ti-cap"}, count=1, id="0", references=("A baby.",),
        files={"nocaps_val": {"images": [{"id": 0, "open_images_id": "0013ea2087020901", "domain": "in-domain",
                                          "file_name": "0013ea2087020901.jpg"}],
                              "annotations": [{"image_id": 0, "id": 0, "caption": "A baby."}]}},
        media=("0013ea2087020901.jpg",), details={"domain": "in-domain"},
        first=(ask("PROMPT", "0013ea2087020901.jpg"), reply("A baby.")),
        breaks=(("images", 0, "id"), 1, "annotations: the captions of image_id 0 have no entry in 'images'"),
    ),
    "karpathy": Miniature(
        builder="captions", settings={"format": "karpathy", "tag": "ti", "split": ["train", "restval"]}, count=2,
        files={"dataset_coco": KARPATHY}, media=("val2014/COCO_val2014_000000522418.jpg",), id="522418",
        first=(ask("", "val2014/COCO_val2014_000000522418.jpg"), reply("a cake.")),
        references=("a cake.", "a knife."), details={"split": "restval"},
        breaks=(("images", 1, "sentences"), "x", "images, record 1: 'sentences' is the text 'x', expected a list"),
    ),
    "flickr30k": Miniature(
        builder="captions", settings={"format": "karpathy", "tag": "ti-cap", "split": "train"}, id="0", count=1,
        files={"dataset_flickr30k": FLICKR}, media=("1000092795.jpg",), references=("Two men.",),
        first=(ask("PROMPT", "1000092795.jpg"), reply("Two men.")),
        breaks=(("images", 0, "filename"), ..., "images, record 0: has no 'filename'"),
    ),
    "pretrain_txt_mapper": Miniature(
        builder="captions", settings={"format": "pretrain_txt_mapper", "tag": "ta"}, id="Yab", count=1,
        files={"pretrain_txt_mapper": [{"video_id": "Yab", "desc": "A Dog - barks"}]}, media=("Yab.wav",),
        first=(ask("", "Yab.wav"), reply("a dog barks")), references=("a dog barks",),
        breaks=((0, "desc"), {}, "record 0: 'desc' is neither text nor a list of texts"),
    ),
    "vqav2": Miniature(
        builder="questions", settings={"format": "vqav2", "tag": "ti-qa"}, count=2, id="262148000",
        files={"v2_annotations": VQA_ANSWERS, "questions": VQA_QUESTIONS}, details={"answer_type": "other"},
        media=("COCO_val2014_000000262148.jpg",), references=("down",) * 7 + ("table", "at table", "skateboard"),
        first=(ask("Where is he looking?", "COCO_val2014_000000262148.jpg"), reply("down")),
        breaks=(("annotations", 0, "answers", 3, "answer"), [],
                "v2_annotations.json: annotations, record 0: 'answer' is a list"),
    ),
    "okvqa": Miniature(
        builder="questions", settings={"format": "okvqa", "tag": "ti-qa"}, count=1, id="2971475",
        files={"mscoco_val2014_annotations": {"annotations": [{
            "image_id": 297147, "answer_type": "other", "question_type": "four", "question_id": 2971475,
            "answers": [{"answer_id": 1, "raw_answer": "racing", "answer": "race"}]}]},
            "questions": {"data_subtype": "val2014", "questions": [
                {"image_id": 297147, "question": "Which sport?", "question_id": 2971475}]}},
        media=("val2014/COCO_val2014_000000297147.jpg",), references=("race",),
        first=(ask("Which sport?", "val2014/COCO_val2014_000000297147.jpg"), reply("race")),
        breaks=(("annotations", 0, "question_id"), 5, "1 answers, the first to question_id 5, have no question in"),
    ),
    "aokvqa": Miniature(
        builder="questions", settings={"format": "aokvqa", "tag": "ti-qa", "choices": True, "split": "train"}, count=1,
        files={"aokvqa_v1p0_train": [{
            "split": "train", "image_id": 299207, "question_id": "22MexNkBPpdZGX6sxbxVBH", "question": "What is it?",
            "choices": ["ship", "bus", "van", "car"], "correct_choice_idx": 1, "direct_answers": ["bus"] * 10,
            "difficult_direct_answer": False, "rationales": ["It is long."]}]},
        id="22MexNkBPpdZGX6sxbxVBH", media=("000000299207.jpg",), references=("bus",),
        first=(ask("What is it? Choose from: ship, bus, van, car.", "000000299207.jpg"), reply("bus")),
        breaks=((0, "correct_choice_idx"), 4, "record 0: the correct choice is 4, expected 0 to 3"),
    ),
    "textvqa": Miniature(
        builder="questions", settings={"format": "textvqa", "tag": "ti-qa"}, count=1, id="34602",
        files={"TextVQA_0.5.1_val": {"dataset_type": "val", "dataset_name": "textvqa", "data": [{
            "question": "what is the brand?", "image_id": "003a8ae2ef43b901", "image_classes": ["Camera"],
            "question_tokens": ["what"], "question_id": 34602, "set_name": "val", "answers": ["dakota"] * 10}]}},
        media=("003a8ae2ef43b901.jpg",), references=("dakota",) * 10, details={"image_classes": ["Camera"]},
        first=(ask("what is the brand?", "003a8ae2ef43b901.jpg"), reply("dakota")),
        breaks=(("data", 0), {"queston": "x", "image_id": "1", "question_id": 1, "answers": ["x"]},
                "data, record 0: has no 'question'; found 'queston', did you mean 'question'?"),
    ),
    "gqa": Miniature(
        builder="questions", settings={"format": "gqa", "tag": "ti-qa", "full_answers": True}, count=1, id="02930152",
        files={"train_balanced_questions": {"02930152": {
            "semantic": [], "entailed": [], "imageId": "2354786", "isBalanced": True, "groups": {"global": None},
            "question": "Is the sky dark?", "answer": "yes", "fullAnswer": "Yes, the sky is dark.",
            "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"}}}},
        media=("2354786.jpg",), references=("Yes, the sky is dark.",), details={"structural": "verify"},
        first=(ask("Is the sky dark?", "2354786.jpg"), reply("Yes, the sky is dark.")),
        breaks=(("02930152", "imageId"), ..., "'02930152': has no 'imageId'"),
    ),
    "vg": Miniature(
        builder="questions", settings={"format": "vg", "tag": "ti-qa"}, count=2, id="986768", references=("Green.",),
        files={"question_answers": [{"id": 1, "qas": [
            {"a_objects": [], "question": "What color is the clock?", "image_id": 1, "qa_id": 986768,
             "answer": "Green.", "q_objects": []},
            {"a_objects": [], "question": "How tall?", "image_id": 1, "qa_id": 986769, "answer": "Very tall."}]},
            {"id": 2, "qas": []}]},
        media=("VG_100K_2/1.jpg",), first=(ask("What color is the clock?", "VG_100K_2/1.jpg"), reply("Green.")),
        breaks=((0, "qas", 1, "answer"), False, "record 0, question 1: 'answer' holds true or false, expected text"),
    ),
    "ocrvqa": Miniature(
        builder="questions", settings={"format": "ocrvqa", "tag": "ti-qa", "split": "train"}, count=2,
        files={"dataset": {"761183272": {
            "imageURL": "http://x/61Y5.gif", "questions": ["Who wrote this book?", "Which year?"],
            "answers": ["Ann Lee", "2016"], "authorName": "Ann Lee", "split": 1, "genre": "Calendars"},
            "1": {"imageURL": "http://x/2.jpg", "questions": ["q"], "answers": ["a"], "genre": "g", "split": 3}}},
        id="761183272_0", media=("761183272.gif",), references=("Ann Lee",), details={"genre": "Calendars"},
        first=(ask("Who wrote this book?", "761183272.gif"), reply("Ann Lee")),
        breaks=(("761183272", "answers"), ["x"], "'761183272': has 2 questions and 1 answers"),
    ),
    "msrvttqa": Miniature(
        builder="questions", settings={"format": "msrvttqa", "tag": "tv-shortqa"}, files={"train_qa": QA_VIDEO},
        count=2, id="0", media=("video7.mp4",), references=("couch",), details={"category_id": 14},
        first=(ask("PROMPT what is a man sitting on?", "video7.mp4"), reply("couch")),
        breaks=((1, "video_id"), "x", "record 1: 'video_id' is the text 'x', expected a whole number"),
    ),
    "msvdqa": Miniature(
        builder="questions", settings={"format": "msvdqa", "tag": "tv-qa"}, count=1, id="0", media=("-4wsu_5_15.avi",),
        files={"test_qa": QA_VIDEO[:1], "mapping.txt": "mv89psg6zh4_33_46 vid1\n-4wsu_5_15 vid7\n"},
        first=(ask("what is a man sitting on?", "-4wsu_5_15.avi"), reply("couch")), references=("couch",),
        breaks=((0, "video_id"), 8, "record 0: video_id 8 is not in mapping.txt"),
    ),
    "music_avqa": Miniature(
        builder="questions", settings={"format": "avqa", "tag": "tva-qa"}, count=1, id="17", media=("00000272.mp4",),
        files={"avqa-train": [{
            "video_id": "00000272", "question_id": 17, "type": "[\"Audio-Visual\", \"Existential\"]",
            "question_content": "Is the <Object> on the <LR> louder than the <Object>?",
            "templ_values": "[\"guzheng\", \"left\", \"flute\"]", "question_deleted": 0, "anser": "yes"}]},
        references=("yes",), details={"modality": "Audio-Visual", "kind": "Existential"},
        first=(ask("Is the guzheng on the left louder than the flute?", "00000272.mp4", "00000272.mp4"), reply("yes")),
        breaks=((0, "templ_values"), "[\"guzheng\"]", "has 3 slots and 'templ_values' has 1"),
    ),
    "avqa": Miniature(
        builder="questions", settings={"format": "avqa", "tag": "tva-qa", "choices": True}, count=1, id="183",
        files={"train_qa": [{"id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341, "answer": 1,
                             "question_text": "What happened in the video?", "question_relation": "Both",
                             "multi_choice": ["motorboat", "Yacht consignment", "Sailboat", "Consignment car"],
                             "question_type": "Happening"}]},
        media=("-HG3Omg_89c_000030.mp4",), references=("Yacht consignment",), details={"question_relation": "Both"},
        first=(ask("What happened in the video? Choose from: motorboat, Yacht consignment, Sailboat, Consignment car.",
                   "-HG3Omg_89c_000030.mp4", "-HG3Omg_89c_000030.mp4"), reply("Yacht consignment")),
        breaks=((0, "multi_choice"), ..., "record 0: has no 'choices'"),
    ),
    "llava": Miniature(
        builder="dialogues", settings={"format": "llava", "tag": "ti-conv"}, count=2, id="000000033471",
        files={"llava_v1_5_mix665k": [
            {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
                {"from": "human", "value": "<image>\nWhat colors?"}, {"from": "gpt", "value": "White and red."},
                *[{"from": who, "value": f"m{n}"} for n, who in enumerate(["human", "gpt"] * 5)]]},
            {"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]},
        media=("coco/train2017/000000033471.jpg",), references=("m9",),
        first=(ask("What colors?", "coco/train2017/000000033471.jpg"), reply("White and red."),
               *[(ask, reply)[n % 2](f"m{n}") for n in range(10)]),
        breaks=((0, "conversations", 1, "from"), "gtp", "record 0: turn 1: 'from' is 'gtp'"),
    ),
    "sharegpt_media": Miniature(
        builder="dialogues", settings={"format": "sharegpt", "tag": "ti-conv"}, count=1, id="s",
        media=("a.png", "b.png"),
        files={"sharegpt": [{"id": "s", "images": ["a.png", "b.png"], "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "user", "value": "<image>\nNow compare it with\n<image>"},
            {"from": "assistant", "value": "Larger."}, {"from": "user", "value": "And then?"}]}]},
        first=(("system", "Be brief.", ()), ask("Now compare it with", "a.png", "b.png"), reply("Larger.")),
        references=("Larger.",), breaks=((0, "images"), [1.5, None], "record 0: 'images' holds null"),
    ),
    "avsd": Miniature(
        builder="dialogues", settings={"format": "avsd", "tag": "tva-conv", "context": ["summary"]}, count=1,
        id="7UPGT",
        files={"train_set4DSTC7-AVSD": AVSD}, media=("7UPGT.mp4",), references=("some music",),
        first=(ask("A man walks.\nis there only one person ?", "7UPGT.mp4", "7UPGT.mp4"), reply("yes , one man"),
               ask("any sound ?"), reply("some music")),
        breaks=(("dialogs", 0, "dialog"), [], "dialogs, record 0: 'dialog' has no rounds"),
    ),
    "videochat": Miniature(
        builder="dialogues", settings={"format": "videochat", "tag": "tv-conv"}, count=1, id="046401_046450/10.mp4",
        files={"videochat_instruct_11k": [{"video": "046401_046450/10.mp4", "QA": [
            {"i": "Answer in detail.", "q": "What happens?", "a": "A dog runs."},
            {"q": "Where?", "a": "In a park."}]}]},
        media=("046401_046450/10.mp4",), references=("In a park.",),
        first=(ask("Answer in detail. What happens?", "046401_046450/10.mp4"), reply("A dog runs."), ask("Where?"),
               reply("In a park.")),
        breaks=((0, "QA", 1), "Where?", "record 0: QA 1 is the text 'Where?', expected an object with 'q' and 'a'"),
    ),
    "video_chatgpt": Miniature(
        builder="dialogues", settings={"format": "videochat", "tag": "tv-det"}, count=2, id="v_k_ZXmr8pmrs",
        files={"VideoInstruct100K": [{"q": "What is shown?", "a": "Tennis.", "video_id": "v_k_ZXmr8pmrs"},
                                     {"q": "Who?", "a": "A woman.", "video_id": "v_k_ZXmr8pmrs"}]},
        media=("v_k_ZXmr8pmrs.mkv",), references=("Tennis.",),
        first=(ask("What is shown?", "v_k_ZXmr8pmrs.mkv"), reply("Tennis.")),
        breaks=((1, "a"), ..., "record 1: has no 'a'"),
    ),
    "alpaca": Miniature(
        builder="instructions", settings={"format": "alpaca", "preamble": True}, count=2,
        id="alpaca_data.json, record 0",
        files={"alpaca_data": [{"instruction": "Sort.", "input": "3, 1", "output": "1, 3"},
                               {"instruction": "Generate.", "input": "", "output": ""},
                               {"instruction": "Name a color.", "input": "", "output": "Red"}]},
        first=(("system", "Below is an instruction that describes a task, paired with an input that provides further "
                "context. Write a response that appropriately completes the request.", ()),
               ask("Sort.\n\n3, 1"), reply("1, 3")),
        references=("1, 3",), breaks=((2, "output"), ..., "record 2: has no 'output'"),
    ),
    "dolly": Miniature(
        builder="instructions", settings={"format": "dolly"}, count=1, id="dolly.jsonl, line 1", references=("2000",),
        files={"dolly.jsonl": [{"instruction": "When?", "context": "Founded in 2000.", "response": "2000",
                                "category": "closed_qa"}]},
        details={"category": "closed_qa"}, first=(ask("When?\n\nFounded in 2000."), reply("2000")),
        breaks=((0, "instruction"), None, "line 1: 'instruction' is null, expected text"),
    ),
    "baize": Miniature(
        builder="instructions", settings={"format": "baize"}, count=1, id="quora_chat_data.json, record 0",
        files={"quora_chat_data": [{"topic": "t", "input": "The conversation between human and AI assistant.\n"
                                    "[|Human|] Hi"
                                    "\n[|AI|] Hello.\nHow are you?\n[|Human|] Fine.\n[|AI|] Good.\n[|Human|] "}]},
        first=(ask("Hi"), reply("Hello.\nHow are you?"), ask("Fine."), reply("Good.")), references=("Good.",),
        breaks=((0, "input"), "Human: Hi", "record 0: 'input' has no [|Human|] and [|AI|]"),
    ),
    "sharegpt": Miniature(
        builder="instructions", settings={"format": "sharegpt", "max_turns": 3}, count=1, id="QWJhYvA_0",
        files={"ShareGPT_V3": [{"id": "QWJhYvA_0", "conversations": [
            {"from": "gpt", "value": "Lost its question."}, {"from": "human", "value": "Hi"},
            {"from": "chatgpt", "value": "Hello"}, {"from": "human", "value": "More"}]}]},
        first=(ask("Hi"), reply("Hello")), references=("Hello",),
        breaks=((0, "image"), "a.jpg", "record 0: has image files; the builder `dialogues` takes them"),
    ),
}  # fmt: skip
