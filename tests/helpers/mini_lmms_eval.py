"""Miniature tasks of lmms-eval over local files, and its entry point for a package that is not installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ENTRY = "chatbridge = chatbridge.serve.lmms_eval_model:manifest"  # as in setup.py
UTILS = '''
from PIL import Image

def visuals(doc):
    """An opened image, the path of a video, a waveform: the three kinds that its own tasks give."""
    found = []
    for kind, path in zip(doc["kinds"], doc["paths"]):
        if kind == "image":
            found.append(Image.open(path).convert("RGB"))
        elif kind == "audio":
            import soundfile
            samples, rate = soundfile.read(path)
            found.append({"array": samples, "sampling_rate": rate})
        else:
            found.append(path)
    return found

def says(doc, results):
    return {"says": float(bool(results[0].strip()))}

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
'''
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_visual: !function mini_utils.visuals
doc_to_text: !function mini_utils.text
metadata: [{{version: 0.0}}]
"""
CAPTION = """
task: mini_caption
output_type: generate_until
doc_to_target: answer
generation_kwargs: {max_new_tokens: 6, temperature: 0, do_sample: false, num_beams: 1, until: ["\\n\\n"]}
process_results: !function mini_utils.says
metric_list:
  - {metric: says, aggregation: mean, higher_is_better: true}
"""
CHOICE = """
task: mini_choice
output_type: multiple_choice
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
QUESTION = "what color is it ?"
CHOICES = ("red", "green circle", "a blue circle moves left")


def is_installed() -> bool:
    return find_spec("lmms_eval") is not None


def write_tasks(folder: Path, files: Mapping[str, Path]) -> Path:
    """The tasks mini_caption and mini_choice; files: name -> path of image, video and audio"""
    folder.mkdir(parents=True)
    asked = [["image"], ["silent_video"], ["audio"], ["image", "audio"], []]
    docs = [
        {"id": number, "question": QUESTION, "kinds": names, "paths": [str(files[name]) for name in names],
         "answer": "red", "choices": list(CHOICES), "gold": number % 3}
        for number, names in enumerate(asked)
    ]  # fmt: skip
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "mini_utils.py").write_text(UTILS)
    for name, content in (("mini_caption", CAPTION), ("mini_choice", CHOICE)):
        (folder / f"{name}.yaml").write_text(content + COMMON.format(data=data))
    return folder


def installed(folder: Path) -> Path:
    """A folder for PYTHONPATH that announces the entry point as an installed package does."""
    place = folder / "chatbridge_of_a_checkout-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: chatbridge-of-a-checkout\nVersion: 0\n")
    (place / "entry_points.txt").write_text(f"[lmms_eval.models]\n{ENTRY}\n")
    return folder
