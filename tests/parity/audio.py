"""BEATs, log-mel features, and the choice of clips."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from chatbridge.models.encoders._beats_layers import relative_buckets, token_padding
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.loading import load_component
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.piece_choice import groups, sample_frames
from tests.parity.golden import Check, Golden
from tests.parity.weight_files import other_eps, released_file

EMPTY_SLICE = (
    "clips of padding only: the reference appends one to audio that fills its clips exactly or is shorter than the "
    "requested clips, and may choose it; ours always contain audio"
)


def beats(check: Check) -> None:
    """Features of log-mel and of waveforms, padding, buckets, bias and kernel; sizes come from the file's cfg."""
    golden = check.golden
    with released_file(golden.weights, golden.config) as path:
        encoder = BEATs(BEATs.Config(weights=path, norm=False, mel_bins=golden.config["num_mel_bins"])).eval()
        load_component(encoder, path)
    other_eps(encoder, golden.config.get("norm_eps"), released=1e-5)
    config, found = encoder.config, {}
    log_mel = {"fbank_from_waveform", "features_from_waveform", "features_padded"}
    with torch.no_grad():
        found["features_from_fbank"] = encoder(golden.inputs["fbank"]).x
        if "waveform" in golden.inputs:
            found |= _from_waveform(encoder, golden)
        for name in set(golden.outputs) & {"relative_bias"}:
            found[name] = encoder.relative_bias(golden.outputs[name].shape[-1])
        found["pos_conv_weight"] = encoder.position.weight
    if "probe_distance" in golden.inputs:
        reach = int(golden.inputs["probe_distance"])
        distances = torch.arange(-reach, reach + 1)
        found["bucket_of_distance"] = relative_buckets(distances, config.num_buckets, config.max_distance)
    for name, want in golden.outputs.items():
        if name in found:
            got = found[name] if want.is_floating_point() else found[name].to(want.dtype)
            check.close(name, got, log_mel=name in log_mel)


def _from_waveform(encoder: BEATs, golden: Golden) -> dict[str, Tensor]:
    """Our processor on each waveform, then features with and without padding. The reference's own preprocessing has 128
    mel bins for any network size, so their number is taken from its output."""
    inputs, sizes = golden.inputs, golden.config
    num_mel = golden.outputs["fbank_from_waveform"].shape[-1] if "fbank_from_waveform" in golden.outputs else 128
    processor = AudioProcessor(channels="first", mel_bins=num_mel, mean=sizes["fbank_mean"], std=sizes["fbank_std"])
    fbank = torch.stack([processor.features(wave) for wave in inputs["waveform"]])
    found = {"fbank_from_waveform": fbank, "features_from_waveform": encoder(fbank).x}
    if "padding_mask" in inputs:
        padding = token_padding(inputs["padding_mask"].bool(), fbank.shape[1])
        features = encoder(fbank, padding=padding)
        found["features_padded"] = features.x
        if features.mask is not None:
            found["token_padding_mask"] = ~features.mask
    return found


def wav_bytes(wave: Tensor, rate_hz: int) -> bytes:
    """Write float[channels, samples] as a lossless audio file."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave.T.numpy(), rate_hz, format="WAV", subtype="FLOAT")
    return out.getvalue()


def kaldi_fbank(check: Check) -> None:
    """Log-mel features of audio files of any rate and number of channels, raw and normalised."""
    golden = check.golden
    for clip, rate_hz in golden.config["clips"].items():
        sound = wav_bytes(golden.inputs[clip], rate_hz)
        wave = AudioProcessor(channels="first").waveform(sound)
        name = f"{clip}_resampled16k"
        if name in golden.outputs:
            check.near(name, wave, golden.outputs[name][0])
        if len(golden.inputs[clip]) > 1:
            check.deviates("further channels of a sound are not resampled: only the first one is used, there and here")
        for num_mel in golden.config["mel_bins"]:
            kinds = {
                "fbank": AudioProcessor(channels="first", mel_bins=num_mel, mean=0.0, std=0.5),
                "norm": AudioProcessor(channels="first", mel_bins=num_mel),
            }
            for kind, processor in kinds.items():
                if f"{clip}_{kind}{num_mel}" in golden.outputs:
                    check.close(f"{clip}_{kind}{num_mel}", processor.features(wave), log_mel=True)


def audio_mapper(check: Check) -> None:
    """Clips of audio files. Where the reference counts an empty clip, its chosen clips are compared by number."""
    golden = check.golden
    for name, call in golden.config["calls"].items():
        sound, target = wav_bytes(golden.inputs[call["wave"]], call["sr"]), call["target_length"]
        processor = AudioProcessor(
            channels="first", mel_bins=call["mel"], target_frames=target, num_clips=call["sample_num"]
        )
        num_frames = processor.num_frames(len(processor.waveform(sound)))
        real, theirs = -(-num_frames // target), reference_slices(num_frames, target, call["sample_num"])
        if real == theirs:
            check.close(name, processor(sound), log_mel=True)
            continue
        check.deviates(EMPTY_SLICE)
        every = AudioProcessor(channels="first", mel_bins=call["mel"], target_frames=target, num_clips=real)(sound)
        ours = processor(sound)
        check.equal(f"{name}: clips that hold sound", bool((ours != 0).flatten(1).any(1).all()), True)
        check.equal(f"{name}: shape", ours.shape, golden.outputs[name].shape)
        for clip, index in zip(golden.outputs[name], sample_frames(theirs, call["sample_num"]), strict=True):
            if index < real:
                check.near(name, every[index], clip, log_mel=True, whole=golden.outputs[name])
            else:
                check.deviates(EMPTY_SLICE, name)
                check.equal(f"{name}: sound in a slice of padding", bool(clip.any()), False)


def reference_slices(num_frames: int, target: int, count: int) -> int:
    """Return the number of clips the reference counts: at least `count`, and one of padding after an exact multiple."""
    padding = max(target * count - num_frames, target - num_frames % target)
    return (num_frames + padding) // target


def audio_slicing(check: Check) -> None:
    """Compare the chosen clips wherever the reference chose among clips that contain audio."""
    for case in check.golden.about["cases"]:
        frames, target, count = case["frames"], case["target_length"], case["sample_num"]
        what, real = f"{frames} frames, {count} of {target}", -(-frames // target)
        check.equal(f"{what}: slices with sound", real, case["total_slices"] - len(case["all_padding_slices"]))
        if case["all_padding_slices"]:
            check.deviates(EMPTY_SLICE)
            continue
        picks, found = sample_frames(real, count), groups(real, count)
        ours = {
            "total_slices": real,
            "pad_frames": real * target - frames,
            "group_first": [first for first, _ in found],
            "group_last": [first + size - 1 for first, size in found],
            "eval_slice": picks,
            "eval_first_frame": [index * target for index in picks],
            "eval_real_frames": [min(target, frames - index * target) for index in picks],
        }
        for name, value in ours.items():
            if name in case:
                check.equal(f"{what}: {name}", value, case[name])
