"""Messages of decoders in plain words: one table for Pillow, libsndfile, FFmpeg, decord and torchcodec."""

from __future__ import annotations

import re

DAMAGED = "its data are damaged or cut off"
UNKNOWN = "of a kind that this build of the decoder cannot read"
FOREIGN = "of a format that is not accepted"
_TABLE = (
    (r"is a directory", "it is a folder, not a file"),
    (r"permission denied", "its permissions do not allow reading"),
    (r"decoder not found|encoder \(codec .*\) not found|unimplemented format|not yet implemented", UNKNOWN),
    (r"format not recogni[sz]ed|no decoder could|unknown format", FOREIGN),
    (r"image file is truncated|truncated file read|unexpected end of (file|stream)|^end of file", "it is cut off"),
    (r"cannot allocate memory", "its header asks for more memory than there is, so it is probably damaged"),
    (r"invalid data found|lost sync|data stream|decoder (object|error)|not enough image data|malformed", DAMAGED),
    (
        r"failed to (read next frame|send packet)|cannot decode|error reading|broken (png|gif|jpeg)|check failed",
        DAMAGED,
    ),
    (r"seek_accurate|error number -?\d+|unspecified internal|internal psf", DAMAGED),
    (r"\b(avcodec|avformat|avfilter|avutil|swr|sws)_\w+", DAMAGED),
)
_WORDS = tuple((re.compile(pattern, re.IGNORECASE), words) for pattern, words in _TABLE)
_TAGS = (  # details for the authors of the libraries
    r"\[Errno -?\d+\] ?",
    r"\[[\d:]+\] \S+: ",  # clock, source file and line of decord
    r"\w+, /\S+\.cpp:\d+, ",  # function, source file and line of torchcodec
    r"\[\w+ @ 0x[0-9a-f]+\] ?",  # FFmpeg's parts
    r"'?<_io\.BytesIO[^>]*>'?",
    r"\bError ?: ",
    r"(: )?'?\b\w+_\w+\(\)'?",  # functions
)
_TAG = re.compile("|".join(_TAGS))


def in_words(said: str) -> str:
    """The reason in plain words; a message that the table does not list, without tags."""
    for pattern, words in _WORDS:
        if pattern.search(said):
            return words
    return " ".join(_TAG.sub("", said).split())[:200] or DAMAGED
