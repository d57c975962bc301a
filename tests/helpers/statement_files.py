"""Miniatures of public files of statements about images, field for field as they are published."""

from __future__ import annotations

from tests.helpers.miniature import Miniature, ask, reply

PLAIN = {"tag": "ti", "options": 0.0}  # without prompts and listed labels
ORDERS = [f"train/images/56/train-1304-0-{number}.png" for number in range(6)]

STATEMENT_FILES = {
    "nlvr1": Miniature(
        builder="statements", settings={"format": "nlvr1", **PLAIN}, count=1, id="1304-0", references=("true",),
        files={"train": '{"sentence": "There is a black box.", "identifier": "1304-0", "directory": "56", '
                        '"label": "true", "evals": {"r1": "true"}, "structured_rep": []}\n'},
        media=(ORDERS[2], *ORDERS[:2], *ORDERS[3:]), details={"label": "true"},
        first=(ask("There is a black box.", ORDERS[2]), reply("true")),
        breaks=((), '{"sentence": "x", "identifier": "1", "label": "ture"}', "did you mean 'true'?"),
    ),
    "nlvr2": Miniature(
        builder="statements", settings={"format": "nlvr2", "pair": "apart", "flips": 0.0, **PLAIN}, count=1,
        files={"nlvr_train": [{"sentence": "The left image shows a dog.", "label": "True",
                               "images": ["train/dog.png", "train/car.png"], "synset": "dog"}]},
        id="nlvr_train.json, record 0", media=("train/dog.png", "train/car.png"), references=("true",),
        first=(ask("The left image shows a dog.", "train/dog.png", "train/car.png"), reply("true")),
        breaks=((0, "images"), ["train/dog.png"], "record 0: 'images' has 1 files, expected two"),
    ),
    "nlvr2_published": Miniature(
        builder="statements", count=1, id="train-10171-0-0", references=("False",),
        settings={"format": "nlvr2", "pair": "apart", "flips": 0.0, "labels": "file", **PLAIN},
        files={"train.json": '{"sentence": "Two dogs.", "label": "False", "identifier": "train-10171-0-0", '
                             '"directory": 40, "left_url": "http://x/1.jpg", "right_url": "http://x/2.jpg"}\n'},
        media=("images/train/40/train-10171-0-img0.png", "images/train/40/train-10171-0-img1.png"),
        first=(ask("Two dogs.", "images/train/40/train-10171-0-img0.png", "images/train/40/train-10171-0-img1.png"),
               reply("False")),
        breaks=((), '{"sentence": "", "label": "True", "identifier": "a-0"}', "line 1: 'sentence' is empty"),
    ),
    "snli_ve": Miniature(
        builder="statements", settings={"format": "snli_ve", **PLAIN}, count=1, id="4705552913.jpg#2r1n",
        files={"snli_ve_train.jsonl": [
            {"annotator_labels": ["neutral"], "captionID": "4705552913.jpg#2", "Flickr30K_ID": "4705552913",
             "pairID": "4705552913.jpg#2r1n", "gold_label": "neutral", "sentence1": "Two women.",
             "sentence2": "The sisters are hugging."},
            {"Flickr30K_ID": "4705552913", "pairID": "x", "gold_label": "-", "sentence2": "No one agreed."}]},
        media=("4705552913.jpg",), references=("neutral",), details={"label": "neutral"},
        first=(ask("The sisters are hugging.", "4705552913.jpg"), reply("neutral")),
        breaks=((0, "gold_label"), "entail", "line 1: 'gold_label' is the text 'entail', expected entailment or"),
    ),
}  # fmt: skip
