"""A profile of some steps: where the time goes, by phase, by component and by operation.

    runs/x/profile/steps_11-13.trace.json.gz    a trace for chrome://tracing or https://ui.perfetto.dev
                   steps_11-13.txt              tables of time: by phase, by component and by operation

The backward pass is charged to the component whose forward operation it undoes: autograd numbers both alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text
from chatbridge.runners.config import ProfileConfig
from chatbridge.runners.progress import StepResult
from chatbridge.runners.watchers import Phase, Watcher

log = get_logger(__name__)
PHASE, PART = "phase: ", "component: "  # before the names of the ranges in a trace
BACKWARD = "autograd::engine::evaluate_function"
MOST_ROWS = 40


class Profiler(Watcher):
    """Profiles the steps that run.profile names, on rank 0. folder: of the run"""

    def __init__(self, config: ProfileConfig, model: nn.Module, folder: Path, dist: Dist) -> None:
        self.config = config
        self.model = model
        self.folder = folder / "profile"
        self.dist = dist
        self.name = f"steps_{config.start + 1}-{config.start + config.steps}"
        self.profile: Any = None
        self._phase: Any = None
        self._hooks = ExitStack()

    def __exit__(self, *problem: object) -> None:
        """A profile that is not complete is given up."""
        if self.profile is not None:
            self._stop()

    def phase(self, name: Phase, step: int) -> None:
        """Begin at the first phase of the first step; mark every phase."""
        if self.profile is None and step == self.config.start and name == "data" and self.dist.is_main:
            self._start()
        if self.profile is not None:
            self._end_phase()
            self._phase = record_function(f"{PHASE}{name}")
            self._phase.__enter__()

    def step(self, result: StepResult) -> None:
        """End after the last step, and write the files."""
        if self.profile is not None and result.step == self.config.start + self.config.steps:
            self._stop()

    def _start(self) -> None:
        for name, part in _components(self.model):
            self._hooks.callback(_marked(part, f"{PART}{name}"))
        activities = [ProfilerActivity.CPU]
        if self.dist.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities, acc_events=True)
        self.profile.__enter__()

    def _stop(self) -> None:
        self._end_phase()
        self._hooks.close()
        done, self.profile = self.profile, None
        done.__exit__(None, None, None)
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"{self.name}.trace.json.gz"
        done.export_chrome_trace(str(trace))
        text = summary(done.events(), self.dist.device.type == "cuda", self.config.steps)
        replace_text(self.folder / f"{self.name}.txt", text)
        log.info("profile of %s: %s and %s.txt", self.name.replace("_", " "), trace, self.name)

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
            self._phase = None


def _components(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every encoder, bridge and other component."""
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleDict):
            yield from ((f"{name}.{inner}", one) for inner, one in part.named_children())
        elif any(True for _ in part.parameters()):
            yield name, part


def _marked(part: nn.Module, name: str) -> Any:
    """Mark every forward pass of a module in the trace; returns the function that ends it."""
    open_ranges: list[Any] = []

    def begin(*_: Any) -> None:
        open_ranges.append(record_function(name))
        open_ranges[-1].__enter__()

    def end(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    hooks = [part.register_forward_pre_hook(begin), part.register_forward_hook(end, always_call=True)]
    return lambda: [hook.remove() for hook in hooks]


def summary(events: Iterable[Any], is_cuda: bool, steps: int) -> str:
    """Tables of milliseconds per step: by phase, by component and by operation.

    events   of torch.profiler, with the ranges that `Profiler` marks
    is_cuda  whether times are those of the GPU's kernels
    """
    events = list(events)
    phases: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    for one in events:
        if one.name.startswith(PHASE):
            phases[one.name.removeprefix(PHASE)] += one.cpu_time_total
        elif not one.name.startswith((PART, BACKWARD)):
            operations[one.name] += one.self_device_time_total if is_cuda else one.self_cpu_time_total
    title = f"milliseconds per step, mean of {steps} step{'s' * (steps > 1)}"
    parts = [
        _table("phase (time of the host)", phases, steps),
        _table("component, forward", _by_component(events, is_cuda, is_backward=False), steps),
        _table("component, backward", _by_component(events, is_cuda, is_backward=True), steps),
        _table("operation", operations, steps),
    ]
    return "\n\n".join([title, *parts]) + "\n"


def _by_component(events: list[Any], is_cuda: bool, is_backward: bool) -> dict[str, float]:
    """component -> microseconds, of its forward or of its backward operations."""
    owner = {
        (one.thread, one.sequence_nr): part
        for one in events
        if one.sequence_nr >= 0 and not _in_backward(one) and (part := _part_of(one)) is not None
    }
    found: dict[str, float] = defaultdict(float)
    for one in events:
        if one.name.startswith((PHASE, PART)):
            continue
        own = one.self_device_time_total if is_cuda else one.self_cpu_time_total
        top = _backward_above(one)
        if (top is not None) != is_backward or (top is None and not _is_under(one, f"{PHASE}forward")):
            continue
        part = _part_of(one) if top is None else owner.get((top.fwd_thread, top.sequence_nr))
        found[part or "(others)"] += own
    return found


def _part_of(event: Any) -> str | None:
    """The innermost component that an event runs in."""
    while event is not None:
        if event.name.startswith(PART):
            return event.name.removeprefix(PART)
        event = event.cpu_parent
    return None


def _backward_above(event: Any) -> Any:
    """The node of autograd that an event runs in; None in the forward pass."""
    while event is not None:
        if event.name.startswith(BACKWARD):
            return event
        event = event.cpu_parent
    return None


def _is_under(event: Any, name: str) -> bool:
    """Whether an event runs in the range of this name."""
    while event is not None and event.name != name:
        event = event.cpu_parent
    return event is not None


def _in_backward(event: Any) -> bool:
    return _backward_above(event) is not None


def _table(title: str, times: Mapping[str, float], steps: int) -> str:
    total = sum(times.values()) or 1.0
    rows = sorted(times.items(), key=lambda pair: -pair[1])[:MOST_ROWS]
    lines = [f"  {value / 1000 / steps:10.3f}  {value / total:6.1%}  {name}" for name, value in rows if value > 0]
    return "\n".join([f"{title}, {total / 1000 / steps:.3f} in all", *lines])
