"""Bridges turn features into tokens of the language model's width. One file per bridge."""

from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig

__all__ = ["BRIDGES", "Bridge", "BridgeConfig"]
