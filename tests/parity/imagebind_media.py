"""Preprocessing of ImageBind: images, clips of audio and video, and the ids of its text tokenizer."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from chatbridge.conversation.clip_tokenizer import ClipTokenizer
from chatbridge.processors.imagebind_audio import ClipRule, ImageBindAudioProcessor
from chatbridge.processors.imagebind_image import ImageRule, imagebind_image
from chatbridge.processors.imagebind_video import CROPS, ImageBindVideoProcessor
from tests.parity.golden import Check
from tests.parity.tolerance import Tolerance

STATISTICS = 1e-3  # of the mean and the spread of a whole image, of which outputs are a part
SAMPLERS: dict[str, ClipRule] = {
    "pinned": "imagebind",
    "0.1.5": "chatbind",
}  # the version of pytorchvideo -> our rule for clips


def image_preproc(check: Check) -> None:
    """Both rules on the image files. The third transform, of open_clip, equals ImageBind's."""
    rules: dict[str, ImageRule] = {"imagebind": "imagebind", "hf_clip": "chatbind", "open_clip": "imagebind"}
    about = check.golden.about
    for name, want in check.golden.outputs.items():
        subject, _, kind = name.rpartition(".")
        file = re.sub(r"\{.*\}", subject, about["inputs"])
        size = about["stats"][name]["shape"][-1]
        image = imagebind_image(size, rules[kind])(check.golden.file(file))
        step = -(-size // want.shape[-1])
        check.close(name, image[:, ::step, ::step])
        for what, got in (("mean", image.mean()), ("std", image.std())):
            check.equal(f"{name}: {what}", abs(float(got) - about["stats"][name][what]) <= STATISTICS, True)


def audio_preproc(check: Check) -> None:
    """The clips of the audio files by the rule of the sidecar: exactly with the reference's step where clips overlap,
    and as clean clips within the looser bound."""
    said, config = check.golden.about["tolerance"], check.golden.config
    bounds = {key.split()[0]: Tolerance.of({"tolerance": text}) for key, text in said.items()}
    settings: dict[str, Any] = {
        "clip_rule": SAMPLERS[check.golden.about["sampler"]],
        "mel_bins": config["fbank"]["num_mel_bins"], "num_clips": config["clips"], "rate_hz": config["sample_rate"],
        "mean": config["mean"], "std": config["std"],
        "target_frames": next(iter(check.golden.outputs.values())).shape[-1],
    }  # fmt: skip
    exact, clean = ImageBindAudioProcessor(**settings, overlap="released"), ImageBindAudioProcessor(**settings)
    for name, about in check.golden.about["inputs"].items():
        path, want = check.golden.file(about["file"]), check.golden.outputs[name]
        made = exact(path)
        check.close(name, made)
        check.equal(f"{name}: out of bounds", bounds["exact"].problem((made - want).abs(), want, False), None)
        apart = (clean(path) - want).abs()
        for number, clip in enumerate(apart):
            mean, most = float(clip.mean()), bounds["clean"].mean
            check.equal(f"{name}, clip {number}, clean: {mean:.1e} on average", most is None or mean <= most, True)
        slices = [list(one) for one in exact._slices(len(exact.waveform(path)))]
        check.equal(f"{name}: clips", slices, about["clip_samples"])


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
    now, old = ClipTokenizer(), ClipTokenizer(keep_end=False)
    for case in check.golden.about["cases"]:
        check.equal(case["text"], now(case["text"])[0].tolist(), case["ids"])
        check.equal(
            f"{case['text']}, ChatBind", old(case["text"])[0].tolist(), case.get("ids_chatbind_old", case["ids"])
        )
