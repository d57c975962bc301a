"""Preprocessing of ImageBind: images, clips of audio and video, and the ids of its text tokenizer."""

from __future__ import annotations

import os
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from chatbridge.conversation.clip_tokenizer import BPE_FILE, ClipTokenizer
from chatbridge.processors.imagebind_audio import ImageBindAudioProcessor
from chatbridge.processors.imagebind_image import imagebind_image
from chatbridge.processors.imagebind_video import CROPS, ImageBindVideoProcessor
from tests.parity.golden import Check, NeedsFile

VOCABULARY = "CHATBRIDGE_CLIP_VOCABULARY"  # names a folder or file of CLIP's vocabulary
EXACT, CLEAN = 1e-4, 3e-3  # of log-mel values, as the sidecars state: the largest and the mean difference
SAMPLERS = {"pinned": "imagebind", "0.1.5": "chatbind"}  # the version of pytorchvideo -> our rule for clips


def image_preproc(check: Check) -> None:
    """Both rules on the image files. The third transform, of open_clip, equals ImageBind's."""
    rules = {"imagebind": "imagebind", "hf_clip": "chatbind", "open_clip": "imagebind"}
    for name in check.golden.outputs:
        animal, _, kind = name.partition(".")
        image = imagebind_image(224, rules[kind])(check.golden.file(f"data/{animal}_image.jpg"))
        check.close(name, image[:, ::4, ::4])


def audio_preproc(check: Check) -> None:
    """The clips of the audio files by the rule of the sidecar: exactly with the reference's step where clips overlap,
    and as clean clips within the looser bound."""
    rule = SAMPLERS[check.golden.about["sampler"]]
    exact, clean = ImageBindAudioProcessor(clip_rule=rule, overlap="released"), ImageBindAudioProcessor(clip_rule=rule)
    for name, about in check.golden.about["inputs"].items():
        path, want = check.golden.file(about["file"]), check.golden.outputs[name]
        made = exact(path)
        check.close(name, made)
        check.equal(f"{name} within 1e-4", bool((made - want).abs().max() <= EXACT), True)
        apart = float((clean(path) - want).abs().mean((1, 2, 3)).max())
        check.equal(f"{name}, clean, within 3e-3 on average", apart <= CLEAN, True)


def video_preproc(check: Check) -> None:
    """Both rules on the recorded frames: which frames, and all crops of them."""
    config, frames = check.golden.config, check.golden.inputs["frames"].permute(0, 3, 1, 2)
    for version, about in check.golden.about["clips"].items():
        processor = ImageBindVideoProcessor(
            config["size"], config["clips_per_video"] * CROPS, SAMPLERS[version], untimed_fps=config["fps"]
        )
        picks = processor.choice(len(frames), Fraction(config["fps"]))
        check.equal(
            f"{version}: frames", [picks[at : at + 2] for at in range(0, len(picks), 2)], about["frame_indices"]
        )
        check.close("pinned" if version == "pinned" else f"pv{version.replace('.', '')}", processor(frames))


def tokenizer(check: Check) -> None:
    """The ids of texts, and of those that are cut, by both rules."""
    path = _vocabulary()
    now, old = ClipTokenizer(path), ClipTokenizer(path, keep_end=False)
    for case in check.golden.about["cases"]:
        check.equal(case["text"], now(case["text"])[0].tolist(), case["ids"])
        check.equal(
            f"{case['text']}, ChatBind", old(case["text"])[0].tolist(), case.get("ids_chatbind_old", case["ids"])
        )


def _vocabulary() -> Path:
    """What VOCABULARY names, or the file of an installed package that has it. raises NeedsFile"""
    if os.environ.get(VOCABULARY):
        return Path(os.environ[VOCABULARY])
    for package, folder in (("open_clip", "."), ("clip", "."), ("imagebind", "bpe")):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(place) / folder / BPE_FILE).is_file():
                return Path(place) / folder / BPE_FILE
    raise NeedsFile(f"no vocabulary of CLIP here; set {VOCABULARY} to a folder of a CLIP model, or to {BPE_FILE}")
