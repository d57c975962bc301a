"""Reads finished runs and writes their results, losses and examples: one page, one JSON file, one table."""
