"""Shapes & Sounds: a world small enough to learn on a laptop, written as ordinary files in the real formats."""
