"""Miniatures of public files of captions and questions, field for field as they are published."""

from __future__ import annotations

from typing import Any

from tests.helpers.mini_questions import POPE, VIZWIZ, lines
from tests.helpers.miniature import Miniature, ask, reply

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
CLOTHO_AQA = (  # three annotators per question
    "file_name,QuestionText,answer,confidence\n"
    "Wind and Rain.wav,Is it raining?,yes,yes\nWind and Rain.wav,Is it raining?,Yes,maybe\n"
    'Wind and Rain.wav,"What falls, on the roof?",rain,yes\nWind and Rain.wav,Is it raining?,no,no\n'
    'Wind and Rain.wav,"What falls, on the roof?",rain,yes\nWind and Rain.wav,"What falls, on the roof?",rain,yes\n'
    "bells.wav,Is it raining?,no,yes\nbells.wav,Is it raining?,no,yes\nbells.wav,Is it raining?,no,yes\n"
)
QA_VIDEO = [{"answer": "couch", "category_id": 14, "id": 0, "question": "what is a man sitting on?", "video_id": 7},
            {"answer": 2, "category_id": 14, "id": 1, "question": "how many men?", "video_id": 9}]  # fmt: skip

QUESTION_FILES = {
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
    "vqa_converted": Miniature(
        builder="questions", settings={"format": "vqa", "tag": "ti-qa", "answer": "majority"}, count=1,
        id="vqa.json, record 0",
        files={"vqa": [{"image": "val2014/a.jpg", "question": "What animal is this?",
                                  "answer": ["puppy", "dog", "dog"], "dataset": "vqa"}]},
        media=("val2014/a.jpg",), references=("puppy", "dog", "dog"),
        first=(ask("What animal is this?", "val2014/a.jpg"), reply("dog")),
        breaks=((0, "image"), 7, "record 0: 'image' is the number 7, expected text"),
    ),
    "ocrvqa_list": Miniature(
        builder="questions", settings={"format": "ocrvqa_list", "tag": "ti-qa"}, count=1, id="ocr_vqa.json, record 0",
        files={"ocr_vqa": [{"filename": "car.jpg", "questions": ["Who wrote this book?", "What is the title?"],
                            "answers": ["A. Author", "The Car"], "genre": "Cars"}]},
        media=("car.jpg",), references=("The Car",), details={"genre": "Cars"},
        first=(ask("What is the title?", "car.jpg"), reply("The Car")),
        breaks=((0, "answers"), ["x"], "record 0: has 2 questions and 1 answers"),
    ),
    "clevr": Miniature(
        builder="questions", settings={"format": "clevr", "tag": "ti-qa"}, count=1, id="CLEVR_train_000000_0",
        files={"CLEVR_train_questions": {"info": {"split": "train"}, "questions": [{
            "question_index": 0, "question_family_index": 2, "image_index": 0, "split": "train", "program": [],
            "image_filename": "CLEVR_train_000000.png", "question": "How many cubes are there?", "answer": "2"}]}},
        media=("train/CLEVR_train_000000.png",), references=("2",), details={"split": "train"},
        first=(ask("How many cubes are there?", "train/CLEVR_train_000000.png"), reply("2")),
        breaks=(("questions", 0, "answer"), ["2", None], "questions, record 0: 'answer' holds null, expected text"),
    ),
    "vizwiz": Miniature(
        builder="questions", settings={"format": "vizwiz", "tag": "ti-qa"}, count=2, id="VizWiz_val_00000000",
        files={"val": VIZWIZ}, media=("VizWiz_val_00000000.jpg",),
        references=("unanswerable",) * 8 + ("unsuitable", "no"),
        details={"image": "VizWiz_val_00000000.jpg", "answer_type": "unanswerable", "answerable": 0},
        first=(ask(VIZWIZ[0]["question"], "VizWiz_val_00000000.jpg"), reply("unanswerable")),
        breaks=((1, "question"), None, "record 1: 'question' is null, expected text"),
    ),
    "pope": Miniature(
        builder="questions", settings={"format": "pope", "tag": "ti-qa"}, count=3, id="1",
        files={"coco_pope_random": lines(POPE)}, media=("COCO_val2014_000000310196.jpg",), references=("yes",),
        details={"image": "COCO_val2014_000000310196.jpg", "label": "yes"},
        first=(ask("Is there a snowboard in the image?", "COCO_val2014_000000310196.jpg"), reply("yes")),
        breaks=((), lines([{**POPE[0], "label": "maybe"}]), "line 1: 'label' is the text 'maybe', expected yes or no"),
    ),
    "coco_caption": Miniature(
        builder="captions", settings={"format": "coco_caption", "tag": "ti-cap"}, count=2,
        id="coco_karpathy_train.json, record 0", media=("000000522418.jpg",), references=("A cake.", "A knife."),
        files={"coco_karpathy_train": [
            {"image": "val2014/COCO_val2014_000000522418.jpg", "caption": ["A cake.", "A knife."]},
            {"image": "val2014/COCO_val2014_000000522418.jpg", "caption": "A woman.", "image_id": "coco_1"}]},
        first=(ask("PROMPT", "000000522418.jpg"), reply("A cake.")),
        breaks=((1, "caption"), ..., "record 1: has no 'caption'"),
    ),
    "aokvqa_explained": Miniature(
        builder="questions", settings={"format": "aokvqa", "tag": "ti-qa", "explain": True}, count=1,
        files={"aokvqa_train": [{
            "split": "train", "image": "val2014/car.jpg", "question": "What is the man by the bags awaiting?",
            "choices": ["skateboarder", "train", "delivery", "cab"], "correct_choice_idx": 3,
            "rationales": ["A train would not be on the street.", "He is near the street."]}]},
        id="aokvqa_train.json, record 0", media=("val2014/car.jpg",),
        references=("The answer is cab. Because A train would not be on the street. He is near the street.",),
        first=(ask("What is the man by the bags awaiting?", "val2014/car.jpg"),
               reply("The answer is cab. Because A train would not be on the street. He is near the street.")),
        breaks=((0, "rationales"), [], "record 0: has no 'rationales', which `explain: true` answers with"),
    ),
    "msrvttqa": Miniature(
        builder="questions", settings={"format": "msrvttqa", "tag": "tv-shortqa"}, files={"train_qa": QA_VIDEO},
        count=2, id="0", media=("video7.mp4",), references=("couch",), details={"category_id": 14, "asks": "what"},
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
    "clotho_aqa": Miniature(
        builder="questions", settings={"format": "clotho_aqa", "tag": "ta-qa", "answer": "majority"}, count=3,
        files={"clotho_aqa_train.csv": CLOTHO_AQA}, id="Wind and Rain_0", media=("Wind and Rain.wav",),
        references=("yes", "yes", "no"),
        details={"file_name": "Wind and Rain.wav", "asks": "yes_no", "agreement": "2 of 3"},
        first=(ask("Is it raining?", "Wind and Rain.wav"), reply("yes")),
        breaks=((), CLOTHO_AQA.replace("bells.wav,Is it raining?,no,yes", ",Is it raining?,no,yes"),
                "line 8: 'file_name' is the text ''"),
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
}  # fmt: skip
