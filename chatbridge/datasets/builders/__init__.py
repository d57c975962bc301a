"""Builders of sources: annotated media (captions, questions, dialogues), instructions, records and web pairs."""

from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record

__all__ = ["BUILDERS", "Dataset", "DatasetConfig", "Record"]
