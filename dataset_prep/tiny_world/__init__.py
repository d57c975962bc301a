"""Shapes & Sounds: a data set that a laptop can train on, in the file formats of the real data sets."""
