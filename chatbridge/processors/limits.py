"""What one media file may cost, in a run and in a chat."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Range, Unit

MB = 1_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the media of a run. What exceeds one cannot be used: it goes to the failure log and is replaced."""

    max_pixels: Annotated[int, Range(low=1)] = 100_000_000  # of an image or one frame, before it is made smaller
    max_file_mb: Annotated[float, Unit("MB"), Range(above=0)] = 4096.0  # of one media file
    max_seconds: Annotated[float, Unit("seconds"), Range(above=0)] = 14_400.0  # of a video or audio file
    too_long: Literal["cut", "refuse"] = "cut"  # cut: only the first max_seconds are used; refuse: not used
    time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] = 60.0  # for reading one sample; beyond: not used
    video_backend: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"  # which library decodes videos
    missing_sound: Literal["say", "refuse"] = "say"  # a video without its audio: say so in the prompt, or do not use it
    sound_note: str = "The video has no sound."  # what the prompt says instead of the audio (missing_sound: say)
    # frames and clips of training: random, one of each group is drawn each time; fixed, its middle one, as at
    # evaluation, so that data.feature_cache can hold videos and audio
    piece_choice: Literal["random", "fixed"] = "random"
    # what training images leave the workers as: uint8 is a quarter of the memory, normalised on the device
    pixels: Literal["uint8", "float"] = "uint8"

    def problems(self) -> list[Problem]:
        if self.missing_sound == "say" and not self.sound_note.strip():
            hint = "write what the prompt says, or set missing_sound: refuse"
            return [Problem("sound_note", "is empty, so a prompt could not say that the audio is missing", hint=hint)]
        return []


@dataclass(frozen=True, kw_only=True)
class ChatLimits:
    """Limits of a chat and its files. They are smaller than those of a run: uploads are not trusted, and a user waits.

    Decoding happens in a process of its own, which is ended after time_limit_s; the upload is then refused.
    """

    max_pixels: Annotated[int, Range(low=1)] = 50_000_000  # of an image or one frame, before it is made smaller
    max_file_mb: Annotated[float, Unit("MB"), Range(above=0)] = 200.0  # of one file
    max_seconds: Annotated[float, Unit("seconds"), Range(above=0)] = 1800.0  # of a video or audio file
    too_long: Literal["cut", "refuse"] = "refuse"  # cut: only the first max_seconds are used; refuse: not used
    time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] = 20.0  # for reading one file; beyond: not used
    video_backend: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"  # which library decodes videos
    # of a whole conversation, questions and answers together; a question beyond them is not given to the model, and the
    # user is asked to begin a new conversation. null: the model's context is the only limit
    max_words: Annotated[int | None, Range(low=1)] = None
    max_images: Annotated[int | None, Range(low=0)] = None  # attached and drawn ones
    max_batch: Annotated[int, Range(low=1)] = 16  # answers that are generated at the same time; others wait
    max_waiting: Annotated[int, Range(low=0)] = 64  # questions that may wait; beyond: refused at once, to ask again
    # what is kept so that it is neither read nor encoded again, what was used longest ago goes first; 0: nothing.
    # KV caches of conversations, on the device of the model
    prompt_cache_mb: Annotated[float, Unit("MB"), Range(low=0)] = 4096.0
    media_cache_mb: Annotated[float, Unit("MB"), Range(low=0)] = 256.0  # encoded images, videos and sounds, also there
    upload_cache_mb: Annotated[float, Unit("MB"), Range(low=0)] = 256.0  # decoded files, in the memory of the machine

    @property
    def limits(self) -> Limits:
        """For the processors."""
        own = {one.name for one in fields(self)} & {one.name for one in fields(Limits)}
        return Limits(**{name: getattr(self, name) for name in own})
