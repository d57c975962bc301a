"""Sets of captions, video questions and dialogues in miniature, where the YAML files of their tasks expect them.

The contents are the published layouts (caption_files.py, dialogue_files.py); the media are tiny and can be decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.caption_files import AUDIOCAPS, CLOTHO, DESCRIPTIONS, JSFUSION, MMSA, MSRVTT
from tests.helpers.dialogue_files import AVSD_MULTIREF, AVSD_TEST
from tests.helpers.miniature import encoded
from tests.helpers.odd_videos import write_timed_video
from tests.helpers.question_files import CLOTHO_AQA
from tests.helpers.tiny_media import jpeg, wav

TIMES_S = [0.0, 0.1, 0.2]
SOUND = ("aac", 16000, "mono")
NOCAPS = {
    "licenses": [], "info": {"description": "nocaps: novel object captioning at scale"},
    "images": [
        {"id": 0, "open_images_id": "0013ea2087020901", "domain": "in-domain", "file_name": "0013ea2087020901.jpg",
         "coco_url": "", "width": 1024, "height": 732, "license": 0, "date_captured": ""},
        {"id": 1, "open_images_id": "0023f4b2a3c5d5f1", "domain": "out-domain", "file_name": "0023f4b2a3c5d5f1.jpg",
         "coco_url": "", "width": 1024, "height": 732, "license": 0, "date_captured": ""}],
    "annotations": [
        {"image_id": 0, "id": 0, "caption": "A baby stands in front of a house."},
        {"image_id": 0, "id": 1, "caption": "A little child near a house."},
        {"image_id": 1, "id": 2, "caption": "An oyster on a plate with ice."}],
}  # fmt: skip


def _number(file: str) -> int:
    """The number of an image of COCO in its name."""
    digits = Path(file).stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def karpathy(name: str, *files: str) -> dict[str, Any]:
    """A file of Karpathy's split with two captions per image of the test."""
    images = [
        {"filepath": "val2014", "filename": file, "split": split, "cocoid": _number(file), "imgid": number,
         "sentids": [],
         "sentences": [{"raw": f"A man rides bike {number}.", "tokens": [], "imgid": number, "sentid": 0},
                       {"raw": "Someone on a street.", "tokens": [], "imgid": number, "sentid": 1}]}
        for number, (file, split) in enumerate((*((file, "test") for file in files), ("gone.jpg", "train")))
    ]  # fmt: skip
    if name == "flickr30k":
        images = [{key: value for key, value in one.items() if key not in ("filepath", "cocoid")} for one in images]
    return {"images": images, "dataset": name}


def _music(number: int, video: str, kinds: str, question: str, values: str, answer: str) -> dict[str, Any]:
    return {"video_id": video, "question_id": number, "type": kinds, "question_content": question,
            "templ_values": values, "question_deleted": 0, "anser": answer}  # fmt: skip


MUSIC_AVQA = [
    _music(49, "00000093", '["Audio", "Counting"]', "How many types of musical instruments sound in the video?", "[]",
           "two"),
    _music(50, "00000093", '["Audio-Visual", "Comparative"]', "Is the <Object> louder than the <Object>?",
           '["guzheng", "pipa"]', "yes"),
    _music(51, "sa00002094", '["Visual", "Location"]', "Where is the performance?", "", "indoor"),
]  # fmt: skip
MSRVTT_QA = [
    {"answer": "cooking", "category_id": 9, "id": 158581, "question": "what is a man doing?", "video_id": 7010},
    {"answer": "girl", "category_id": 16, "id": 158582, "question": "who sings?", "video_id": 7011},
]
MSVD_QA = [
    {"answer": "squirrel", "id": 37437, "question": "what is eating a peanut?", "video_id": 1301},
    {"answer": "chipmunk", "id": 37438, "question": "what is eating?", "video_id": 1301},
]
FILES: Mapping[str, Any] = {
    "coco/dataset_coco.json": karpathy("coco", "COCO_val2014_000000391895.jpg", "COCO_val2014_000000060623.jpg"),
    "nocaps/nocaps_val_4500_captions.json": NOCAPS,
    "flickr30k/dataset_flickr30k.json": karpathy("flickr30k", "1007129816.jpg", "1009434119.jpg"),
    "msvd/AllVideoDescriptions.txt": DESCRIPTIONS,
    "msvd/test_list.txt": "-4wsuPCjDBc_5_15\nmv89psg6zh4_33_46\n",
    "msvd_qa/test_qa.json": MSVD_QA,
    "msvd_qa/youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid1301\n",
    "msrvtt/test_videodatainfo.json": MSRVTT,
    "msrvtt/MSRVTT_data.json": MSRVTT,
    "msrvtt/MSRVTT_JSFUSION_test.csv": JSFUSION,
    "msrvtt_qa/test_qa.json": MSRVTT_QA,
    "vatex/vatex_public_test_english_v1.1.json": [
        {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A man climbs a tree.", "Someone is up a tree."]},
        {"videoID": "SFAm_2b4zxM_000000_000010", "enCap": ["A girl dances.", "A child dances on a stage."]}],
    "clotho/clotho_captions_evaluation.csv": CLOTHO,
    "audiocaps/test.csv": AUDIOCAPS,
    "clotho_aqa/clotho_aqa_test.csv": CLOTHO_AQA,
    "valor32k/desc_test.json": [
        {"video_id": "x-2Abohj8VY_30.000_40.000", "desc": "With the rumble of an engine, a bus starts."},
        {"video_id": "0SdAVK79lg4_30.000_40.000", "desc": "A man speaks while a dog barks."}],
    "avsd/test_set4DSTC7-AVSD.json": AVSD_TEST,
    "avsd/test_set4DSTC7-AVSD_multiref.json": AVSD_MULTIREF,
    "music_avqa/avqa-test.json": MUSIC_AVQA,
    "mosei/label.csv": MMSA,
}  # fmt: skip
MEDIA = (
    "multis/coco/images/val2014/COCO_val2014_000000391895.jpg", "multis/coco/images/000000060623.jpg",
    "nocaps/images/0013ea2087020901.jpg", "nocaps/images/0023f4b2a3c5d5f1.jpg",
    "flickr30k/flickr30k-images/1007129816.jpg", "flickr30k/flickr30k-images/1009434119.jpg",
    "msvd/YouTubeClips/-4wsuPCjDBc_5_15.avi", "msvd/YouTubeClips/mv89psg6zh4_33_46.avi",
    "msrvtt/videos/video7010.mp4", "msrvtt/videos/video7011.mp4",
    "vatex/videos/Ptf_2VRj-V0_000122_000132.mp4", "vatex/videos/SFAm_2b4zxM_000000_000010.mp4",
    "clotho/evaluation/Santa Motor.wav", "clotho/evaluation/Radio Garble.wav",
    "clotho_aqa/audio_files/Wind and Rain.wav", "clotho_aqa/audio_files/bells.wav",
    "audiocaps/test/Y7fmOlUlwoNg_20_30.wav", "audiocaps/test/103548.wav",
    "valor32k/videos/x-2Abohj8VY_30.000_40.000.mp4", "valor32k/videos/0SdAVK79lg4_30.000_40.000.mp4",
    "avsd/Charades_vu17_test_480/7UPGT.mp4", "avsd/Charades_vu17_test_480/2WSPB.mp4",
    "music_avqa/videos/00000093.mp4", "music_avqa/videos/sa00002094.mp4", "mosei/Raw/-6rXp3zJ3kc/2.mp4",
)  # fmt: skip


def write_media_sets(data: Path) -> Path:
    """Every file below the folder that the YAML files call `data`; returns it."""
    for name, content in FILES.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(content, path))
    video = write_timed_video(data / "one.mp4", TIMES_S, sound=SOUND).read_bytes()
    content = {".jpg": jpeg(side=32), ".wav": wav(seconds=0.3), ".mp4": video, ".avi": video}
    for name in MEDIA:
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[path.suffix])
    (data / "one.mp4").unlink()
    return data
