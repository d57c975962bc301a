"""Sources of conversations, one file per format."""

from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record

__all__ = ["BUILDERS", "Dataset", "DatasetConfig", "Record"]
