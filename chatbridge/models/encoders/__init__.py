"""Encoders read media. One file per encoder; the file name is the name in YAML."""

from chatbridge.models.encoders.base import ENCODERS, Encoder, EncoderConfig

__all__ = ["ENCODERS", "Encoder", "EncoderConfig"]
