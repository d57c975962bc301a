"""Scenes as images and videos: every rendering differs in position, size, tint and noise."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

from dataset_prep.tiny_world.render_audio import RATE_HZ
from dataset_prep.tiny_world.world import Scene

IMAGE_PX = 64
VIDEO_FRAMES, VIDEO_FPS = 16, 8
SAMPLES_PER_FRAME = 1024  # of an AAC track

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


@dataclass(frozen=True)
class Drawn:
    """One shape on a canvas: center and radius in pixels, color as RGB."""

    shape: str
    color: tuple[int, int, int]
    x: float
    y: float
    radius: float


# ---------------------------------------------------------------- images


def image(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """RGB image of IMAGE_PX x IMAGE_PX with one shape."""
    side = IMAGE_PX
    dx, dy = CENTERS[scene["place"]]
    radius = side * (rng.uniform(0.21, 0.24) if scene["size"] == "big" else rng.uniform(0.125, 0.15))
    x, y = (side / 2 + d * side * 0.27 + rng.uniform(-0.03, 0.03) * side for d in (dx, dy))
    return _canvas([Drawn(scene["shape"], _tint(scene["color"], rng), x, y, radius)], _background(rng), rng)


def jpeg(scene: Scene, rng: np.random.Generator) -> bytes:
    """The image of a scene as a JPEG file."""
    return jpeg_bytes(image(scene, rng))


def jpeg_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def video_frames(scene: Scene, rng: np.random.Generator) -> list[Image.Image]:
    """VIDEO_FRAMES images of a shape that moves across the canvas and grows, shrinks or blinks."""
    style = _video_style(scene, rng)
    return [_frame(scene, step, style, rng) for step in range(VIDEO_FRAMES)]


def video_frame(scene: Scene, step: int, rng: np.random.Generator) -> Image.Image:
    """One frame of such a video."""
    return _frame(scene, step, _video_style(scene, rng), rng)


@dataclass(frozen=True)
class VideoStyle:
    """The random choices of one video that hold for all its frames; lengths in pixels."""

    color: tuple[int, int, int]
    background: tuple[int, int, int]
    drift: float
    reach: float


def _video_style(scene: Scene, rng: np.random.Generator) -> VideoStyle:
    drift, reach = rng.uniform(-0.08, 0.08) * IMAGE_PX, rng.uniform(0.22, 0.27) * IMAGE_PX
    return VideoStyle(_tint(scene["color"], rng), _background(rng), drift, reach)


def _frame(scene: Scene, step: int, style: VideoStyle, rng: np.random.Generator) -> Image.Image:
    progress = step / (VIDEO_FRAMES - 1)
    dx, dy = STEPS[scene["motion"]]
    along = (2 * progress - 1) * style.reach
    x = IMAGE_PX / 2 + dx * along + abs(dy) * style.drift
    y = IMAGE_PX / 2 + dy * along + abs(dx) * style.drift
    drawn = Drawn(scene["shape"], style.color, x, y, IMAGE_PX * _radius(scene["change"], progress))
    is_dim = scene["change"] == "blinks" and (step // 4) % 2 == 1
    return _canvas([_faded(drawn, style.background) if is_dim else drawn], style.background, rng)


def _radius(change: str, progress: float) -> float:
    """The radius as a share of the canvas side."""
    return {"grows": 0.13 + 0.12 * progress, "shrinks": 0.25 - 0.12 * progress, "blinks": 0.18}[change]


def _faded(drawn: Drawn, background: tuple[int, int, int]) -> Drawn:
    """The shape with 35 % of its color and 65 % of the background, for the dark frames of a blinking shape."""
    faded = tuple(int(0.35 * c + 0.65 * b) for c, b in zip(drawn.color, background, strict=True))
    return Drawn(drawn.shape, faded, drawn.x, drawn.y, drawn.radius)  # type: ignore[arg-type]


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    level = int(rng.integers(5, 60))
    return (level, level, level)


def _tint(color: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(c + rng.integers(-18, 19), 0, 255)) for c in RGB[color])
    return red, green, blue


def _canvas(shapes: list[Drawn], background: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """An image drawn at twice the size and scaled down for smooth edges, with a little sensor noise."""
    scale = 2
    canvas = Image.new("RGB", (IMAGE_PX * scale, IMAGE_PX * scale), background)
    pen = ImageDraw.Draw(canvas)
    for drawn in shapes:
        draw_shape(pen, drawn, scale)
    pixels = np.asarray(canvas.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BOX), dtype=np.int16)
    noisy = pixels + rng.integers(-6, 7, size=pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def draw_shape(pen: ImageDraw.ImageDraw, drawn: Drawn, scale: int) -> None:
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
    radii = [1.1 * r if k % 2 == 0 else 0.45 * r for k in range(10)]  # a star with five points
    angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for d, a in zip(radii, angles, strict=True)]


def mp4(scene: Scene, rng: np.random.Generator, samples: np.ndarray | None = None) -> bytes:
    """An H.264 video of a scene.

    samples   float32[samples], mono at RATE_HZ: its AAC track; None: a video without audio
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS)
        stream.width = stream.height = IMAGE_PX
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "ultrafast"}
        stream.codec_context.thread_count = 1
        track = None if samples is None else container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for frame in video_frames(scene, rng):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
        if track is not None and samples is not None:
            _mux_audio(container, track, samples)
    return buffer.getvalue()


def _mux_audio(container: av.container.OutputContainer, track: av.AudioStream, samples: np.ndarray) -> None:
    for start in range(0, samples.size, SAMPLES_PER_FRAME):
        frame = av.AudioFrame.from_ndarray(
            samples[None, start : start + SAMPLES_PER_FRAME], format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
        container.mux(track.encode(frame))
    container.mux(track.encode())
