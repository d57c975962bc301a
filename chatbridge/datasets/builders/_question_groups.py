"""Base of data sets whose questions are scored together: a limit takes whole groups, never a part of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatbridge.datasets.builders.base import Dataset


class QuestionGroups(Dataset):
    """Questions in the order of their files; `limit` counts groups."""

    _questions: NDArray[np.int64] = np.zeros(0, np.int64)  # positions of the used questions

    def _settle_groups(self, groups: Sequence[int], where: str) -> None:
        """groups: for every question its group, numbered from 0. raises DataError if there is none"""
        numbers = np.asarray(groups, np.int64)
        self._settle(int(numbers.max(initial=-1)) + 1, where)
        kept = np.arange(self._size) if self._chosen is None else self._chosen
        self._questions = np.flatnonzero(np.isin(numbers, kept))

    def __len__(self) -> int:
        return len(self._questions)

    def _stored(self, index: int) -> int:
        """Position of the index-th question. raises IndexError"""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)} in source {self.name!r}")
        return int(self._questions[index])
