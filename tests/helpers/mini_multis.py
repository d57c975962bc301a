"""The public files of the 14 sources of stage 2 in their real layouts, with a handful of tiny files each."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from dataset_prep import audiocap, cococap, msrvtt, multis, valor, vgqa, vqav2
from tests.helpers.media_files import tone, write_audio
from tests.helpers.odd_videos import write_timed_video
from tests.helpers.tiny_media import jpeg, write_json

TENTHS = [k / 10 for k in range(12)]  # a clip of 1.2 s: five frames at four a second
COCO = (9, 25, 30)  # numbers of the images that exist
NO_IMAGE = 581929
WORKERS = ("--workers", "0")


def write_raw(raw: Path, root: Path) -> None:
    """Writes downloads below `raw`, and images directly to their folders below `root`."""
    for number in COCO:
        _picture(root / f"coco/images/train2014/COCO_train2014_{number:012}.jpg", number)
    _picture(root / "VG/images/VG_100K/1.jpg", 1)
    _picture(root / "VG/images/VG_100K_2/2417997.jpg", 2)
    _vqav2(raw / "vqa")
    _visual_genome(raw / "vg")
    _coco(raw / "coco")
    _msrvtt(raw / "msrvtt")
    _audiocaps(raw / "audiocaps")
    _clips(raw / "audioset")
    _chats(raw / "llava", raw / "multis")


def prepare(raw: Path, root: Path) -> None:
    """Every script, as the data cards call it."""
    out = ("--out", str(root))
    vqav2.main(
        [*out, "--questions", str(raw / "vqa/v2_OpenEnded_mscoco_train2014_questions.json"),
         "--annotations", str(raw / "vqa/v2_mscoco_train2014_annotations.json")]
    )  # fmt: skip
    vgqa.main([*out, "--annotations", str(raw / "vg/question_answers.json")])
    cococap.main([*out, "--annotations", str(raw / "coco/captions_train2014.json")])
    msrvtt.main(
        [*out, *WORKERS, "--videos", str(raw / "msrvtt/TrainValVideo"), "--qa", str(raw / "msrvtt/train_qa.json"),
         "--info", str(raw / "msrvtt/train_val_videodatainfo.json")]
    )  # fmt: skip
    audiocap.main([*out, *WORKERS, "--csv", str(raw / "audiocaps/train.csv"), "--sounds", str(raw / "audiocaps/train")])
    valor.main([*out, *WORKERS, "--clips", str(raw / "audioset")])
    multis.main([*out, "--from", str(raw / "llava"), str(raw / "multis")])


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(number % 250, side=32))


def _vqav2(folder: Path) -> None:
    asked = [(9, 9000, "What is on the plate?"), (25, 25000, "Is it sunny?"), (NO_IMAGE, 581929002, "Who?")]
    questions = [{"image_id": image, "question": text, "question_id": number} for image, number, text in asked]
    given = {9000: ["food"] * 6 + ["fruit"] * 4, 25000: ["no"] * 3 + ["yes"] * 7, 581929002: ["man"] * 10}
    answers = [
        {
            "question_type": "what", "multiple_choice_answer": max(set(ten), key=ten.count), "answer_type": "other",
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(ten, start=1)],
            "image_id": number // 1000, "question_id": number,
        }
        for number, ten in given.items()
    ]  # fmt: skip
    info = {"info": {"version": "2.0"}, "license": {}, "data_subtype": "train2014"}
    write_json(
        folder / "v2_OpenEnded_mscoco_train2014_questions.json",
        {**info, "task_type": "Open-Ended", "data_type": "mscoco", "questions": questions},
    )
    write_json(folder / "v2_mscoco_train2014_annotations.json", {**info, "data_type": "mscoco", "annotations": answers})


def _visual_genome(folder: Path) -> None:
    def asked(image: int, number: int, question: str, answer: str) -> dict[str, Any]:
        return {"a_objects": [], "question": question, "image_id": image, "qa_id": number, "answer": answer,
                "q_objects": []}  # fmt: skip

    records = [
        {"id": 1, "qas": [asked(1, 986769, "What color is the clock?", "Green."), asked(1, 986768, "Where?", "Here.")]},
        {"id": 2417997, "qas": [asked(2417997, 5, "Who is there?", "A man.")]},
        {"id": 3, "qas": [asked(3, 6, "Why?", "Nobody knows.")]},
    ]
    write_json(folder / "question_answers.json", records)


def _coco(folder: Path) -> None:
    images = [{"license": 5, "file_name": f"COCO_train2014_{n:012}.jpg", "id": n} for n in (*COCO, NO_IMAGE)]
    captions = [
        {"image_id": n, "id": n * 10 + k, "caption": f"Sentence {k} about picture {n}."}
        for n in (9, 25, NO_IMAGE)
        for k in range(5)
    ]
    write_json(
        folder / "captions_train2014.json", {"info": {}, "images": images, "licenses": [], "annotations": captions}
    )
    karpathy = [
        {"filepath": "train2014", "filename": f"COCO_train2014_{n:012}.jpg", "cocoid": n, "imgid": n, "sentids": [],
         "split": split, "sentences": [{"raw": f"Picture {n}.", "tokens": [], "imgid": n, "sentid": 1}]}
        for n, split in ((9, "train"), (25, "restval"), (30, "test"))
    ]  # fmt: skip
    write_json(folder / "dataset_coco.json", {"images": karpathy, "dataset": "coco"})


def _msrvtt(folder: Path) -> None:
    videos = folder / "TrainValVideo"
    videos.mkdir(parents=True)
    for number in range(3):
        write_timed_video(videos / f"video{number}.mp4", TENTHS, size=(64, 48))
    (videos / "video3.mp4").write_bytes((videos / "video0.mp4").read_bytes()[:900])
    splits = ("train", "train", "validate", "train")
    listed = [
        {"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": f"video{n}", "id": n,
         "start time": 137.72, "end time": 149.44, "split": split}
        for n, split in enumerate(splits)
    ]  # fmt: skip
    sentences = [
        {"caption": f"person {k} cooks in video {n}", "video_id": f"video{n}", "sen_id": 20 * n + k}
        for n in range(4)
        for k in range(20)
    ]
    write_json(folder / "train_val_videodatainfo.json", {"info": {}, "videos": listed, "sentences": sentences})
    asked = [
        {"answer": "cooking", "category_id": 9, "id": n, "question": f"what is person {n} doing?", "video_id": n}
        for n in range(4)
    ]
    write_json(folder / "train_qa.json", asked)


def _audiocaps(folder: Path) -> None:
    audio = folder / "train"
    audio.mkdir(parents=True)
    write_audio(audio / "91139.wav", tone(1.0, rate_hz=8000), 8000)
    write_audio(audio / "Y-AheI8Epim4_30.wav", tone(1.0, rate_hz=44100), 44100)
    write_audio(audio / "whole_video.wav", tone(40.0, rate_hz=4000), 4000)
    (audio / "broken_file.wav").write_bytes(b"RIFF and nothing else")
    rows = [
        (91139, "r1nicOVtvkQ", 130, "A woman talks nearby as water pours"),
        (58146, "-AheI8Epim4", 30, "Multiple clanging and clanking sounds"),
        (7, "whole_video", 20, "A tone, for long"),
        (8, "broken_file", 0, "Nothing can be heard"),
        (9, "GONE0000000", 0, "The video is private"),
    ]
    with (folder / "train.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("audiocap_id", "youtube_id", "start_time", "caption"), *rows])


def _clips(folder: Path) -> None:
    folder.mkdir(parents=True)
    sound = ("aac", 16000, "mono")
    write_timed_video(folder / "0SdAVK79lg_30.000_40.000.mp4", TENTHS, sound=sound)
    write_timed_video(folder / "x1.mp4", TENTHS, sound=sound)
    write_timed_video(folder / "silent.mp4", TENTHS)


def _turns(marker: str, *texts: str) -> list[dict[str, str]]:
    turns = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    turns[0]["value"] += f"\n{marker}"
    return turns


def _chats(llava: Path, lists: Path) -> None:
    """LLaVA's names of 2023, images by their short names; MULTIS's ids with and without an ending."""
    for name, texts in (
        ("complex_reasoning_77k.json", ("Why is it wet?", "It rained.")),
        ("detail_23k.json", ("Describe the scene.", "A wet street.")),
        ("conversation_58k.json", ("What is this?", "A red bus.", "How many doors?", "Two doors.")),
    ):
        records = [
            {"id": f"{n:012}", "image": f"{n:012}.jpg", "conversations": _turns("<image>", *texts)}
            for n in (*COCO, NO_IMAGE)
        ]
        write_json(llava / name, records)
    for kind in ("conversation", "detail", "complex_reasoning"):
        ids = ("video0", "video1.mp4", "video3", "video7777")
        write_json(
            lists / f"MULTIS/video_{kind}_10k.json",
            [{"video_id": one, "conversations": _turns("<video>", "Who runs?", "A boy.")} for one in ids],
        )
    for kind in ("conversation", "detail"):
        ids = ("0SdAVK79lg_30.000_40.000", "x1", "silent")
        write_json(
            lists / f"MULTIS/audiovideo_{kind}_10k.json",
            [{"video_id": one, "conversations": _turns("<video>", "What do you hear?", "A horn.")} for one in ids],
        )


def skips(path: Path) -> dict[str, str]:
    """id -> reason, of a skipped.jsonl."""
    return {entry["id"]: entry["reason"] for entry in map(json.loads, path.read_text().splitlines())}
