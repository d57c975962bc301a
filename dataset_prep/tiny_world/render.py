"""Scenes to pixels and waveforms: every rendering differs in place, size, tint, timing and noise."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw

from dataset_prep.tiny_world.world import Scene

IMAGE_PX = 64
VIDEO_FRAMES, VIDEO_FPS = 16, 8
RATE_HZ, SOUND_SECONDS = 16000, 2.0
FRAMES_PER_PACKET = 1024

RGB = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 240),
    "yellow": (240, 220, 40),
    "purple": (160, 50, 200),
    "white": (245, 245, 245),
}
CENTERS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}
STEPS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
BASE_HZ = {"high": (1600.0, 2100.0), "medium": (600.0, 800.0), "low": (220.0, 300.0)}
LEVELS = {"loud": (0.6, 0.9), "quiet": (0.015, 0.03)}
BEATS = {
    "one beat": (1, (0.0, 0.0)),
    "fast beats": (14, (0.1, 0.12)),
}  # count, gap in s
STROKE_SECONDS = 0.4  # after that a stroke has faded to a thousandth
BACKGROUND_LEVEL = 0.08  # of the sound's own
HUM_HZ = (50.0, 60.0)
FLOOR = 0.0002  # noise that every recording has
SWEEP = 1.6  # how far tones rise and fall


@dataclass(frozen=True)
class Drawn:
    """One shape on a canvas: center and radius in pixels, color as RGB."""

    shape: str
    color: tuple[int, int, int]
    x: float
    y: float
    radius: float


# ---------------------------------------------------------------- pictures


def image(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """RGB picture of IMAGE_PX x IMAGE_PX with one shape."""
    side = IMAGE_PX
    dx, dy = CENTERS[scene["place"]]
    radius = side * (rng.uniform(0.21, 0.24) if scene["size"] == "big" else rng.uniform(0.125, 0.15))
    x, y = (side / 2 + d * side * 0.27 + rng.uniform(-0.03, 0.03) * side for d in (dx, dy))
    return _canvas([Drawn(scene["shape"], _tint(scene["color"], rng), x, y, radius)], _background(rng), rng)


def jpeg(scene: Scene, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    image(scene, rng).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def video_frames(scene: Scene, rng: np.random.Generator) -> list[Image.Image]:
    """VIDEO_FRAMES pictures of a shape that moves across the canvas and grows, shrinks or blinks."""
    take = _take(scene, rng)
    return [_frame(scene, step, take, rng) for step in range(VIDEO_FRAMES)]


def video_frame(scene: Scene, step: int, rng: np.random.Generator) -> Image.Image:
    """One picture of such a clip."""
    return _frame(scene, step, _take(scene, rng), rng)


@dataclass(frozen=True)
class Take:
    """What stays the same while one clip is filmed; lengths in pixels."""

    color: tuple[int, int, int]
    background: tuple[int, int, int]
    drift: float
    reach: float


def _take(scene: Scene, rng: np.random.Generator) -> Take:
    drift, reach = rng.uniform(-0.08, 0.08) * IMAGE_PX, rng.uniform(0.22, 0.27) * IMAGE_PX
    return Take(_tint(scene["color"], rng), _background(rng), drift, reach)


def _frame(scene: Scene, step: int, take: Take, rng: np.random.Generator) -> Image.Image:
    progress = step / (VIDEO_FRAMES - 1)
    dx, dy = STEPS[scene["motion"]]
    along = (2 * progress - 1) * take.reach
    x = IMAGE_PX / 2 + dx * along + abs(dy) * take.drift
    y = IMAGE_PX / 2 + dy * along + abs(dx) * take.drift
    drawn = Drawn(scene["shape"], take.color, x, y, IMAGE_PX * _radius(scene["change"], progress))
    is_dim = scene["change"] == "blinks" and (step // 4) % 2 == 1
    return _canvas([_faded(drawn, take.background) if is_dim else drawn], take.background, rng)


def _radius(change: str, progress: float) -> float:
    """Share of the canvas side."""
    return {"grows": 0.13 + 0.12 * progress, "shrinks": 0.25 - 0.12 * progress, "blinks": 0.18}[change]


def _faded(drawn: Drawn, background: tuple[int, int, int]) -> Drawn:
    """While a shape blinks it nearly melts into the background."""
    faded = tuple(int(0.35 * c + 0.65 * b) for c, b in zip(drawn.color, background, strict=True))
    return Drawn(drawn.shape, faded, drawn.x, drawn.y, drawn.radius)  # type: ignore[arg-type]


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    level = int(rng.integers(5, 60))
    return (level, level, level)


def _tint(color: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(c + rng.integers(-18, 19), 0, 255)) for c in RGB[color])
    return red, green, blue


def _canvas(shapes: list[Drawn], background: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """Drawn twice as large and scaled down, for smooth edges, with a little sensor noise."""
    scale = 2
    picture = Image.new("RGB", (IMAGE_PX * scale, IMAGE_PX * scale), background)
    pen = ImageDraw.Draw(picture)
    for drawn in shapes:
        _draw(pen, drawn, scale)
    pixels = np.asarray(picture.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BOX), dtype=np.int16)
    noisy = pixels + rng.integers(-6, 7, size=pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _draw(pen: ImageDraw.ImageDraw, drawn: Drawn, scale: int) -> None:
    x, y, r = drawn.x * scale, drawn.y * scale, drawn.radius * scale
    if drawn.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=drawn.color)
    elif drawn.shape == "square":
        pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=drawn.color)
    elif drawn.shape == "cross":
        arm = r * 0.34
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=drawn.color)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=drawn.color)
    else:
        pen.polygon(_corners(drawn.shape, x, y, r), fill=drawn.color)


def _corners(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [(x, y - r), (x + 0.95 * r, y + 0.8 * r), (x - 0.95 * r, y + 0.8 * r)]
    radii = [1.1 * r if k % 2 == 0 else 0.45 * r for k in range(10)]  # a star of five
    angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]


# ---------------------------------------------------------------- sounds


def sound(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """float32[samples] in [-1, 1], mono at RATE_HZ."""
    base_hz, level = rng.uniform(*BASE_HZ[scene["pitch"]]), rng.uniform(*LEVELS[scene["volume"]])
    return sound_of(scene["sound"], base_hz, level, scene["background"], rng)


def sound_of(kind: str, base_hz: float, level: float, background: str, rng: np.random.Generator) -> np.ndarray:
    """The same for any pitch and any loudness (peak of the waveform), also those between the named ones."""
    seconds = SOUND_SECONDS * rng.uniform(0.85, 1.0)
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = _wave(kind, time, base_hz, rng)
    wave = wave / (np.abs(wave).max() + 1e-6) + BACKGROUND_LEVEL * _background_sound(background, time, rng)
    return np.clip(level * wave + rng.normal(0, FLOOR, wave.shape), -1, 1).astype(np.float32)


def _background_sound(background: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a poor recording adds all the time: hiss has every frequency, hum has the first four of the mains."""
    if background == "hissing":
        return rng.normal(size=time.size)
    if background == "humming":
        phase = 2 * math.pi * (rng.uniform(*HUM_HZ) * time + rng.uniform())
        return sum((np.sin(harmonic * phase) for harmonic in range(1, 5)), np.zeros_like(time))
    return np.zeros_like(time)


def _wave(kind: str, time: np.ndarray, base_hz: float, rng: np.random.Generator) -> np.ndarray:
    progress = time / time[-1]
    if kind == "rising tone":
        return _tone(base_hz * SWEEP**progress, time)
    if kind == "falling tone":
        return _tone(base_hz * SWEEP ** (1 - progress), time)
    if kind == "steady tone":
        return _tone(np.full_like(time, base_hz * SWEEP**0.5), time)
    if kind == "siren":
        turns_hz = rng.uniform(1.6, 2.2)
        return _tone(base_hz * SWEEP ** (0.5 + 0.5 * np.sin(2 * math.pi * turns_hz * time)), time)
    if kind == "noise":
        return _band_noise(time.size, base_hz, rng)
    return _beats(*BEATS[kind], time, base_hz, rng)


def _tone(frequency_hz: np.ndarray, time: np.ndarray) -> np.ndarray:
    phase = 2 * math.pi * np.cumsum(frequency_hz) / RATE_HZ
    fade = np.minimum(1, np.minimum(time, time[-1] - time) / 0.03)
    return fade * (np.sin(phase) + 0.3 * np.sin(2 * phase))


def _band_noise(size: int, center_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Noise from center_hz / SWEEP to center_hz * SWEEP."""
    length = 1 << (size - 1).bit_length()  # a sample count with a large prime factor takes ten times as long
    spectrum = np.fft.rfft(rng.normal(size=length))
    hz = np.fft.rfftfreq(length, 1 / RATE_HZ)
    spectrum[(hz < center_hz / SWEEP) | (hz > center_hz * SWEEP)] = 0
    return np.fft.irfft(spectrum, length)[:size]


def _beats(
    count: int, gaps_s: tuple[float, float], time: np.ndarray, base_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """`count` short strokes, with a gap drawn from `gaps_s`."""
    gap_s = rng.uniform(*gaps_s)
    start_s = rng.uniform(0.05, max(0.06, time[-1] - gap_s * (count - 1) - 0.2))
    wave = np.zeros_like(time)
    for beat in range(count):
        beat_s = start_s + beat * gap_s
        first, last = np.searchsorted(time, (beat_s, beat_s + STROKE_SECONDS))
        since = time[first:last] - beat_s
        wave[first:last] += np.exp(-since / 0.05) * np.sin(2 * math.pi * 1.4 * base_hz * since)
    return wave


def wav(scene: Scene, rng: np.random.Generator) -> bytes:
    return wav_bytes(sound(scene, rng))


def wav_bytes(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


# ---------------------------------------------------------------- clips


def mp4(scene: Scene, rng: np.random.Generator, samples: np.ndarray | None = None) -> bytes:
    """H.264 clip of a video scene, with an AAC track when `samples` (float32, mono, RATE_HZ) are given."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS)
        stream.width = stream.height = IMAGE_PX
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "ultrafast"}
        stream.codec_context.thread_count = 1
        track = None if samples is None else container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for picture in video_frames(scene, rng):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
        if track is not None and samples is not None:
            _mux_sound(container, track, samples)
    return buffer.getvalue()


def _mux_sound(container: av.container.OutputContainer, track: av.AudioStream, samples: np.ndarray) -> None:
    for start in range(0, samples.size, FRAMES_PER_PACKET):
        frame = av.AudioFrame.from_ndarray(
            samples[None, start : start + FRAMES_PER_PACKET], format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
        container.mux(track.encode(frame))
    container.mux(track.encode())
