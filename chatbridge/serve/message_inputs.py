"""The inputs of `reply` as typed parts of a message: text, files, images, arrays, waveforms.

str                     text
Path                    a file: image, video or audio
PIL image               an image of any mode
array or tensor         image: uint8 or float in 0..1, [H, W], [H, W, 1 | 3 | 4] or [1 | 3 | 4, H, W]
                        video: the same with a leading axis of frames, [T, H, W, 3] or [T, 3, H, W]
(waveform, rate_hz)     audio: float in -1..1 or int16, [samples] or [channels, samples]
{"array", "sampling_rate"}   the same, in the form of Hugging Face's data sets
Text, Media             typed parts; Media("image", data) holds the bytes of a file
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Role, Text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.processors.image_file import frame_of
from chatbridge.serve.context_length import NoAnswer

ACCEPTED = (
    "text (str), a file (pathlib.Path), a PIL image, an array or tensor of an image or video, a waveform as "
    "(array, rate_hz), or typed parts of chatbridge.conversation.messages"
)
MAX_CHANNELS = 32  # of a waveform [channels, samples]
COLORS = (1, 3, 4)
ROLES: tuple[str, ...] = get_args(Role)


def parts_of(item: Any, attach: Callable[[Path], tuple[Media, ...]], rates: Mapping[str, Any]) -> tuple[Part, ...]:
    """One item of a turn as parts.

    attach   file -> its decoded media
    rates    modality -> processor; the one for audio has a rate_hz, to which waveforms are resampled
    raises   TypeError with the accepted types, MediaError for values or shapes that fit no image, video or audio
    """
    if isinstance(item, str):
        return (Text(item),)
    if isinstance(item, Path):
        return attach(item)
    if isinstance(item, (Text, Media, Drawing)):
        return (item,)
    if is_pil(item):
        return (Media("image", _image(_frame(item))),)
    if isinstance(item, (np.ndarray, Tensor)):
        return (_pixels(_tensor(item)),)
    if isinstance(item, Mapping) and {"array", "sampling_rate"} <= item.keys():
        return (_audio(item["array"], item["sampling_rate"], rates),)
    if is_waveform(item):
        return (_audio(item[0], item[1], rates),)
    hint = "; for the bytes of a file write Media('image', data)" if isinstance(item, (bytes, bytearray)) else ""
    raise TypeError(f"reply accepts {ACCEPTED}; found {type(item).__name__}{hint}")


def check_message(message: Any) -> None:
    """raises TypeError for an invalid message: an unknown role, or text or media that are not typed parts"""
    if not isinstance(message, Message):
        raise TypeError(f"a conversation is a list of Messages; found {type(message).__name__}")
    if message.role not in ROLES:
        raise TypeError(f"the role of a message must be one of {', '.join(ROLES)}; found {message.role!r}")
    if not isinstance(message.parts, (list, tuple)):
        raise TypeError(_not_parts(message.parts))
    for part in message.parts:
        if not isinstance(part, (Text, Media, Drawing)):
            raise TypeError(_not_parts(part))
        if isinstance(part, Text) and not isinstance(part.text, str):
            raise TypeError(f"the text of Text must be a str, found {type(part.text).__name__}")
        if isinstance(part, Drawing) and not isinstance(part.caption, str):
            raise TypeError(f"the caption of a Drawing must be a str, found {type(part.caption).__name__}")


def check_question(conversation: Conversation, modalities: Iterable[str]) -> None:
    """raises NoAnswer if a conversation does not end with a question, or the question is empty"""
    questions = [message for message in conversation if message.role == "user"]
    if not questions or conversation[-1].role == "assistant":
        raise NoAnswer("there is no question to answer")
    if not questions[-1].text.strip() and not questions[-1].media:
        kinds = ", ".join(map(MODALITIES.noun, modalities))
        raise NoAnswer("the question is empty: write text" + (f", or attach a file ({kinds})" if kinds else ""))


def _not_parts(found: Any) -> str:
    return (
        f"the parts of a message must be a tuple of Text, Media and Drawing, found {type(found).__name__}; "
        "for text write user('...')"
    )


def is_waveform(item: Any) -> bool:
    """Whether an item is (array, rate_hz)."""
    is_pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], (np.ndarray, Tensor))
    return is_pair and isinstance(item[1], (int, float))


def is_pil(item: Any) -> bool:
    """Whether an item is a PIL image; does not import Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, module.Image)


def _frame(image: Any) -> np.ndarray:
    try:
        return frame_of(image)
    except (ValueError, OSError, AttributeError) as error:  # closed, or its file is truncated
        raise MediaError(f"a PIL image of mode {image.mode} cannot be read ({error}); open its file again") from error


def _tensor(item: np.ndarray | Tensor) -> Tensor:
    if isinstance(item, Tensor):
        if item.is_meta:
            raise TypeError("a tensor on the meta device has no values; move it to the CPU first")
        return (item if item.layout == torch.strided else item.to_dense()).detach().cpu()
    try:
        return torch.from_numpy(np.array(item))
    except TypeError:
        raise TypeError(f"an array of {item.dtype} is not an image, video or audio; use uint8 or float32") from None


def _pixels(x: Tensor) -> Media:
    """[H, W], [H, W, C], [C, H, W] or a video of them -> uint8[3, H, W], or uint8[T, 3, H, W]"""
    found = f"{'x'.join(map(str, x.shape)) or 'a number'} of {str(x.dtype).removeprefix('torch.')}"
    if x.ndim == 1 or (x.ndim == 2 and x.shape[0] <= 2 and x.shape[1] > 100):
        raise TypeError(f"an array {found} is a waveform and needs its rate: write (array, rate_hz)")
    if x.ndim not in (2, 3, 4) or not x.numel():
        raise MediaError(f"an array {found} is neither an image [H, W, 3] or [3, H, W], nor a video [T, H, W, 3]")
    frames = _bytes(x, found)
    frames = frames[None, :, :, None] if x.ndim == 2 else frames[None] if x.ndim == 3 else frames
    if frames.shape[-1] in COLORS:
        frames = frames.permute(0, 3, 1, 2)
    elif frames.shape[1] not in COLORS:
        raise MediaError(f"an array {found} has no axis of 1, 3 or 4 channels, first or last")
    frames = _rgb(frames)  # [T, 3, H, W]
    return Media("video", frames) if x.ndim == 4 else Media("image", frames[0])


def _bytes(x: Tensor, found: str) -> Tensor:
    if x.dtype == torch.uint8:
        return x
    if x.dtype == torch.bool:
        return x.to(torch.uint8) * 255
    if not x.is_floating_point():
        raise MediaError(f"pixels {found}: expected uint8, or float in 0..1")
    if not (torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        reach = f"{float(x.min()):.3g} to {float(x.max()):.3g}"
        raise MediaError(f"pixels {found} range from {reach}; float pixels must be in 0..1, others uint8")
    return (x.float() * 255).round().to(torch.uint8)


def _rgb(frames: Tensor) -> Tensor:
    """uint8[T, 1 | 3 | 4, H, W] -> uint8[T, 3, H, W]; transparent pixels become white, as in image files"""
    if frames.shape[1] == 1:
        return frames.expand(-1, 3, -1, -1).contiguous()
    if frames.shape[1] == 4:
        alpha = frames[:, 3:].float() / 255
        return (frames[:, :3].float() * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    return frames.contiguous()


def _image(pixels: np.ndarray) -> Tensor:
    """uint8[H, W, 3] -> uint8[3, H, W]"""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def _array(samples: Any) -> np.ndarray:
    try:
        return np.asarray(samples)
    except ValueError:  # lists of different lengths
        raise MediaError("a waveform must be a list of numbers, or one such list of equal length per channel") from None


def _audio(samples: Any, rate_hz: Any, rates: Mapping[str, Any]) -> Media:
    if not isinstance(rate_hz, (int, float)) or isinstance(rate_hz, bool) or not 0 < rate_hz < 10_000_000:
        raise TypeError(f"the rate of a waveform must be a number of samples per second, found {rate_hz!r}")
    wave = _tensor(samples if isinstance(samples, (np.ndarray, Tensor)) else _array(samples))
    found = f"{'x'.join(map(str, wave.shape))} of {str(wave.dtype).removeprefix('torch.')}"
    if wave.ndim == 2 and wave.shape[0] > MAX_CHANNELS >= wave.shape[1]:
        wave = wave.T  # [samples, channels], as soundfile returns it
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[0] > MAX_CHANNELS):
        raise MediaError(f"a waveform must be [samples] or [channels, samples], found {found}")
    if wave.dtype == torch.int16:
        wave = wave.float() / 32768
    elif wave.dtype == torch.int32:
        wave = wave.float() / 2147483648
    elif not wave.is_floating_point():
        raise MediaError(f"a waveform must be float in -1..1, int16 or int32, found {found}")
    wanted = getattr(rates.get("audio"), "rate_hz", None) or int(rate_hz)
    if round(rate_hz) == wanted:
        return Media("audio", wave.float())
    resample: Any = import_module("torchaudio.functional").resample
    return Media("audio", resample(wave.float(), round(rate_hz), wanted))
