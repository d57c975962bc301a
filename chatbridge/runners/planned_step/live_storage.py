"""Counts the bytes of all live tensors, operation by operation: the peak of a step, and which part has it.

A dispatch mode sees the result of every operation, forward and backward. A storage counts from the operation that
creates it until torch frees it (a weak reference tells), so views count once and tensors that only the autograd graph
keeps count too. This is the peak that a caching allocator reports as allocated (torch.cuda.max_memory_allocated) up to
the rounding of blocks to 512 bytes and scratch space inside kernels; reserved memory is higher by fragmentation. The
resident size of a process would be no measure: it holds the interpreter, mapped files and pages that malloc keeps.

It works the same on real tensors and on fake ones, which have shapes and no memory.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

WEIGHTS, COPIES, GRADIENTS, OPTIMIZER = "weights", "copies of weights", "gradients", "optimizer"
INPUTS, ACTIVATIONS, LOGITS, BACKWARD = "inputs", "activations", "logits", "backward"


class StorageTracker(TorchDispatchMode):
    """A context: inside it, new tensors count under the current label.

    vocabulary   V, to recognise logits by their last axis; None: there are none
    peak         bytes at the highest point so far
    at_peak      label -> bytes at that point
    live         label -> bytes now
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.label = ACTIVATIONS
        self.live: Counter[str] = Counter()
        self.current = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._storages: dict[int, tuple[str, int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._see(tensor, self._label_of(func, args, tensor))
        return result

    def add(self, tensors: Iterable[Tensor], label: str) -> None:
        """Count tensors [...] of any dtype that existed before, or count them under another label from now on."""
        for tensor in tensors:
            for key in map(id, _storages(tensor)):
                if key in self._storages:
                    before, size, reference = self._storages[key]
                    self._storages[key] = (label, size, reference)
                    self.live[before] -= size
                    self.live[label] += size
            self._see(tensor, label)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """New tensors count under `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def reset_peak(self) -> None:
        """Forget the peak; what is live now counts."""
        self.peak, self.at_peak = self.current, {key: size for key, size in self.live.items() if size}

    def _label_of(self, func: Any, args: Any, tensor: Tensor) -> str:
        if func is torch.ops.aten._to_copy.default and self._is_weight(args[0]):
            return COPIES
        if self.vocabulary is not None and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
            return LOGITS
        return self.label

    def _is_weight(self, tensor: Tensor) -> bool:
        return any(self._storages.get(id(one), ("",))[0] == WEIGHTS for one in _storages(tensor))

    def _see(self, tensor: Tensor, label: str) -> None:
        for storage in _storages(tensor):
            key = id(storage)
            if key in self._storages:
                continue
            size = storage.nbytes()
            self._storages[key] = (label, size, weakref.ref(storage, lambda _, key=key: self._freed(key)))
            self.live[label] += size
            self.current += size
            if self.current > self.peak:
                self.peak, self.at_peak = self.current, {name: size for name, size in self.live.items() if size}

    def _freed(self, key: int) -> None:
        label, size, _ = self._storages.pop(key)
        self.live[label] -= size
        self.current -= size


def _storages(tensor: Tensor) -> list[Any]:
    """The storage of a tensor; that of its local part when it is spread over ranks; none for exotic layouts."""
    local = getattr(tensor, "_local_tensor", tensor)
    try:
        return [local.untyped_storage()]
    except (NotImplementedError, RuntimeError):
        return []


def sizes(parts: Mapping[str, int]) -> int:
    """The sum of parts in bytes."""
    return sum(parts.values())
