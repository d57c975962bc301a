"""Answers with images: captions are rendered while an answer is generated, and the answer goes on from the images."""

from chatbridge.models.drawing.artist import Artist, Drawn
from chatbridge.models.drawing.decoding import DrawingDecoding
from chatbridge.models.drawing.start import start_drawing

__all__ = ["Artist", "Drawn", "DrawingDecoding", "start_drawing"]
