"""Audio files whose header does not state their length, that have holes, or whose channels differ."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.audio_file import open_audio
from chatbridge.processors.audio_mp3_ogg import mp3_parts, ogg_links
from tests.helpers.media_files import tone, write_audio

RATE_HZ = 16000


def rising(seconds: float) -> np.ndarray:
    """Each second has its own pitch: 300 Hz, 500 Hz, 700 Hz ..."""
    return np.concatenate([tone(1.0, 300 + 200 * second) for second in range(round(seconds))])


def encoded(kind: str, samples: np.ndarray, **options: Any) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, RATE_HZ, format=kind, **options)
    return out.getvalue()


def vorbis(seconds: float, subtype: str = "VORBIS") -> bytes:
    return encoded("OGG", rising(seconds), subtype=subtype)


def by_av(samples: np.ndarray, codec: str, container: str, quality: int | None = None, **options: str) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options) as target:
        track: Any = target.add_stream(codec, rate=RATE_HZ, layout="mono")
        if quality is not None:  # variable bit rate
            track.codec_context.flags |= 2
            track.codec_context.global_quality = quality * 118
        whole = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        whole.sample_rate, whole.pts = RATE_HZ, 0
        cut = av.AudioResampler(format=track.format, layout="mono", rate=RATE_HZ, frame_size=track.frame_size)
        for frame in [*cut.resample(whole), *cut.resample(None)]:
            target.mux(track.encode(frame))
        target.mux(track.encode())
    return out.getvalue()


def without_total(flac: bytes) -> bytes:
    """A FLAC as a stream is recorded: STREAMINFO says 0 samples."""
    content = bytearray(flac)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def with_size(wav: bytes, size: int) -> bytes:
    return wav[:40] + struct.pack("<I", size) + wav[44:]


def quiet_start(seconds: float) -> np.ndarray:
    """Silence, then noise: a variable bit rate starts low and misleads whoever believes the first frames."""
    samples = 0.3 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))
    samples[: len(samples) // 5] = 0
    return samples


FILES: dict[str, tuple[Any, float]] = {  # name -> how it is made, seconds that are in it
    "vbr_without_header.mp3": (lambda: by_av(quiet_start(12), "libmp3lame", "mp3", 2, write_xing="0"), 12),
    "vbr_loud_start.mp3": (lambda: by_av(quiet_start(12)[::-1].copy(), "libmp3lame", "mp3", 2, write_xing="0"), 12),
    "vbr_with_header.mp3": (lambda: by_av(quiet_start(12), "libmp3lame", "mp3", 2), 12),
    "two_files.mp3": (lambda: encoded("MP3", rising(3)) + encoded("MP3", rising(9)), 12),
    "two_tagged_files.mp3": (lambda: by_av(rising(3), "libmp3lame", "mp3") + by_av(rising(9), "libmp3lame", "mp3"), 12),
    "chained.ogg": (lambda: vorbis(3) + vorbis(9), 12),
    "chained_opus.ogg": (lambda: vorbis(3, "OPUS") + vorbis(9, "OPUS"), 12),
    "stream.aac": (lambda: by_av(quiet_start(12), "aac", "adts"), 12),
    "stream.flac": (lambda: without_total(encoded("FLAC", rising(5))), 5),
    "size_0.wav": (lambda: with_size(encoded("WAV", rising(5)), 0), 5),
    "size_ffffffff.wav": (lambda: with_size(encoded("WAV", rising(5)), 0xFFFFFFFF), 5),
    "gsm.wav": (lambda: encoded("WAV", rising(5), subtype="GSM610"), 5),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_all_of_the_audio_is_read(tmp_path: Path, name: str):
    """fails when a length that a header only estimates hides a part of the audio, or invents one"""
    make, seconds = FILES[name]
    content = make()
    path = tmp_path / name
    path.write_bytes(content)
    for ref in (path, content):
        with open_audio(ref, RATE_HZ) as sound:
            assert len(sound) / RATE_HZ == pytest.approx(seconds, abs=0.2)
            assert len(sound.read_all()) == pytest.approx(len(sound), abs=0.2 * RATE_HZ)
            late = sound.read(round((seconds - 1.5) * RATE_HZ), round((seconds - 0.5) * RATE_HZ))
            assert len(late) == RATE_HZ


def test_a_chain_is_read_in_order(tmp_path: Path):
    """fails when the second part of a chained file is another position, or a piece over the border is torn"""
    for kind, options in (("OGG", {"subtype": "VORBIS"}), ("MP3", {})):
        content = encoded(kind, rising(2), **options) + encoded(kind, rising(3), **options)
        with open_audio(content, RATE_HZ) as sound:
            shift = (len(sound) - 5 * RATE_HZ) // 2
            for second, hz in ((1, 500), (2, 300), (4, 700)):
                start = round((second + 0.25) * RATE_HZ) + shift
                spectrum = np.abs(np.fft.rfft(sound.read(start, start + RATE_HZ // 2).numpy()))
                assert abs(int(spectrum.argmax()) * 2 - hz) <= 4, (kind, second)
            assert len(sound.read(RATE_HZ, 3 * RATE_HZ)) == 2 * RATE_HZ


def test_a_long_file_without_a_header_is_read_at_the_right_position():
    """fails when a position in a long MP3 or AAC of unknown length is found by the bit rate"""
    samples = np.concatenate([quiet_start(60), quiet_start(60), tone(1.0, 1000), np.zeros(RATE_HZ)])
    for codec, container, options in (("libmp3lame", "mp3", {"write_xing": "0"}), ("aac", "adts", {})):
        with open_audio(by_av(samples, codec, container, 2 if codec != "aac" else None, **options), RATE_HZ) as sound:
            assert len(sound) / RATE_HZ == pytest.approx(122, abs=0.3)
            found = sound.read(round(120.3 * RATE_HZ), round(120.8 * RATE_HZ)).numpy()
            assert abs(int(np.abs(np.fft.rfft(found)).argmax()) * 2 - 1000) <= 4, codec


def test_walking_over_files():
    """fails when a usual file is read as several, or damage ends the walk"""
    mp3, ogg = encoded("MP3", rising(3)), encoded("OGG", rising(3), subtype="VORBIS")
    assert len(mp3_parts(mp3)) == 1 and mp3_parts(mp3)[0][1] == pytest.approx(3 * RATE_HZ, abs=4 * 1152)
    assert mp3_parts(b"no frame " * 99) == [(0, 0)] and ogg_links(b"RIFF" * 99) == []
    assert ogg_links(ogg) == [0] and ogg_links(ogg + ogg) == [0, len(ogg)]
    half, long = len(ogg) // 2, encoded("OGG", quiet_start(12), subtype="VORBIS")
    with pytest.raises(MediaError, match="pages of the Ogg file are missing"):
        ogg_links(long[: len(long) // 3] + bytes(len(long) // 3) + long[2 * (len(long) // 3) :])
    assert ogg_links(ogg + bytes(half)) == [0]


@pytest.mark.parametrize(("kind", "options"), [("FLAC", {}), ("OGG", {"subtype": "VORBIS"}), ("MP3", {})])
def test_a_hole_is_not_the_end(kind: str, options: dict[str, Any]):
    """fails when damage in the middle hides the audio after it, and the rest counts as all there is"""
    content = bytearray(encoded(kind, quiet_start(12), **options))
    middle = len(content) // 2
    content[middle : middle + 5000] = b"\xff" * 5000
    with pytest.raises(MediaError, match=r"damaged|not a readable"):
        AudioProcessor(target_frames=1198).examine(bytes(content))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_channels_are_mixed(kind: str):
    """fails when audio on the right channel alone is read as silence"""
    left_right = np.stack([np.zeros(RATE_HZ), tone(1.0)], 1)
    content = encoded(kind, left_right)
    for samples in (content, torch.from_numpy(left_right.T).float()):
        with open_audio(samples, RATE_HZ) as sound:
            assert float(sound.read_all().abs().max()) == pytest.approx(0.25, abs=0.03)
        with pytest.raises(MediaError, match="first channel is silent and another is not; set channels: mean"):
            AudioProcessor(channels="first")(samples)


@pytest.mark.parametrize("channels", ["mean", "first"])
def test_channels_of_a_track(tmp_path: Path, channels: Literal["mean", "first"]):
    """fails when an audio file read by PyAV is mixed differently than one read by soundfile"""
    import av

    stereo = np.stack([tone(1.0, 440), np.zeros(RATE_HZ)]).astype(np.float32)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as target:
        track: Any = target.add_stream("pcm_f32le", rate=RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(stereo.T).reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        target.mux([*track.encode(frame), *track.encode()])
    write_audio(tmp_path / "a.wav", stereo.T, subtype="FLOAT")
    for name in ("a.mkv", "a.wav"):
        with open_audio(tmp_path / name, RATE_HZ, channels=channels) as sound:
            want = 0.5 if channels == "first" else 0.25
            assert float(sound.read_all().abs().max()) == pytest.approx(want, abs=0.01), name


def test_channels_that_cancel_each_other_out():
    """fails when audio whose channels are opposite is read as silence"""
    content = encoded("WAV", np.stack([tone(1.0), -tone(1.0)], 1))
    with pytest.raises(MediaError, match="cancel each other out in their mean; set channels: first"):
        AudioProcessor()(content)
    assert AudioProcessor(channels="first")(content).max() > 0


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)


LIST = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf60.3.100"))
RECORDED = rising(2)


def stale_flac() -> bytes:
    content = bytearray(encoded("FLAC", RECORDED))
    content[22:26] = struct.pack(">I", RATE_HZ // 2)
    return bytes(content)


def stale(kind: str, name: bytes, form: str, *stated: int) -> bytes:
    """A file with these numbers after the last `name`."""
    content = bytearray(encoded(kind, RECORDED, subtype="PCM_16"))
    at = content.rindex(name) + len(name)
    content[at : at + struct.calcsize(form)] = struct.pack(form, *stated)
    return bytes(content)


def wav_with(*behind: bytes) -> bytes:
    return encoded("WAV", RECORDED, subtype="PCM_16") + b"".join(behind)


STALE: dict[str, Any] = {
    "wav": lambda: with_size(wav_with(), 16000),
    "wav_then_chunk": lambda: with_size(wav_with(LIST), 16000),
    "two_wavs": lambda: wav_with(wav_with()),
    "wav_sound_after_list": lambda: wav_with(LIST, chunk(b"data", bytes(range(256)) * 100)),
    "rf64": lambda: stale("RF64", b"ds64", "<IQQ", 28, 64088, 16000),
    "au": lambda: stale("AU", b".snd", ">II", 24, 16000),
    "aiff": lambda: stale("AIFF", b"SSND", ">I", 16008),
    "aiff_none": lambda: stale("AIFF", b"SSND", ">I", 8),
    "caf": lambda: stale("CAF", b"data", ">Q", 16004),
    "flac": stale_flac,
}  # fmt: skip


@pytest.mark.parametrize("name", STALE)
def test_audio_after_the_stated_end_is_a_failure(tmp_path: Path, name: str):
    """fails when a header that a recorder never updated hides the audio after its stated end"""
    path = tmp_path / name
    path.write_bytes(STALE[name]())
    for ref in (path, path.read_bytes()):
        with pytest.raises(MediaError, match="header states"), open_audio(ref, RATE_HZ):
            pass


HEALTHY: dict[str, Any] = {
    "list": lambda: wav_with(LIST),
    "list_without_padding": lambda: encoded("WAV", RECORDED[:-1], subtype="PCM_U8") + LIST,
    "id3_chunk": lambda: wav_with(chunk(b"id3 ", b"ID3\x04" + bytes(20))),
    "two_chunks_cut": lambda: wav_with(LIST, chunk(b"bext", bytes(602))[:-10]),
    "id3": lambda: wav_with(b"ID3\x04\0\0\0\0\x07\x76" + b"a" * 1014),
    "id3v1": lambda: wav_with(b"TAG" + b"x" * 1025),
    "zeros": lambda: wav_with(bytes(4096)),
    "newline": lambda: wav_with(b"\r\n"),
    "flac": lambda: encoded("FLAC", RECORDED),
    "size_ffffffff": lambda: with_size(wav_with(), 0xFFFFFFFF),
    "caf_unknown": lambda: stale("CAF", b"data", ">q", -1),
    "au_unknown": lambda: stale("AU", b".snd", ">II", 24, 0xFFFFFFFF),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_metadata_after_the_audio_is_no_audio(name: str):
    """fails when a chunk, a tag or padding after the audio makes a healthy file a failure, or is read as audio"""
    with open_audio(HEALTHY[name](), RATE_HZ) as sound:
        assert len(sound.read_all()) == pytest.approx(len(RECORDED), abs=1)


def test_a_track_of_an_unknown_codec_is_told() -> None:
    """Fails when a damaged name of the codec, for which there is no decoder, ends in an error of PyAV's objects."""
    data = by_av(tone(1.0, 300), "aac", "mp4")
    at = data.rindex(b"mp4a")
    unknown = (data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]).replace(b"esds", b"free")
    with pytest.raises(MediaError, match="audio track has an unknown codec"), open_audio(unknown, RATE_HZ):
        pass
