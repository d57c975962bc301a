"""The new file: shipped bases where they match, and below them only what differs."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.config.merge import load
from chatbridge.config.origins import MISSING, Origins
from chatbridge.config.yaml_io import YamlDumper

ORDER = (  # of the keys in our own files
    "model", "data", "run", "evaluation", "template", "mix", "max_tokens", "num_workers", "sources", "output_dir",
    "init_from", "max_steps", "max_epochs", "micro_batch", "accumulate", "optimizer", "schedule", "clip_norm",
    "save_every", "seed", "kind", "lr",
)  # fmt: skip
FLOW = ("optimizer", "schedule", "generation", "trackers")  # mappings written on one line


@dataclass
class Target:
    """Settings by dotted path, over bases.

    settings   path -> value; a path of a base with the same value is not written
    comments   path -> comment at the end of its line
    """

    bases: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    _read: tuple[list[str], tuple[dict[str, Any], Origins]] | None = None  # the bases that were merged last

    def set(self, path: str, value: Any, comment: str = "") -> None:
        """Set a value; a later one replaces an earlier one."""
        self.settings[path] = value
        self.comments.pop(path, None)
        if comment:
            self.comments[path] = " ".join(comment.split())

    def below(self) -> tuple[dict[str, Any], Origins]:
        """The merged bases alone, and the origins of their keys."""
        if not self.bases:
            return {}, Origins()
        if self._read is None or self._read[0] != self.bases:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "bases.yaml"
                replace_text(file, yaml.safe_dump({"base": self.bases}))
                self._read = list(self.bases), load(file)
        return self._read[1]

    def tree(self) -> dict[str, Any]:
        """The settings that differ from the bases, nested, in the order of our files."""
        bases, _ = self.below()
        tree: dict[str, Any] = {}
        for path, value in self.settings.items():
            if _at(bases, path) == (True, value):
                continue
            here = tree
            *keys, last = path.split(".")
            for key in keys:
                here = here.setdefault(key, {})
            here[last] = value
        return {key: _ordered(tree[key]) if key in ("data", "run") else tree[key] for key in _ordered(tree)}

    def text(self, head: Sequence[str]) -> str:
        """The file. head: lines of the comment at its top"""
        lines = [line for one in head for line in _comment_lines(one)]
        if self.bases:
            lines.append(f"base: [{', '.join(self.bases)}]")
        lines += self._lines(self.tree(), "", 0)
        return "\n".join(lines) + "\n"

    def _lines(self, tree: Mapping[str, Any], path: str, depth: int) -> list[str]:
        lines: list[str] = []
        for key, value in tree.items():
            inner = f"{path}.{key}" if path else str(key)
            comment = self.comments.get(inner, "")
            if isinstance(value, Mapping) and value and key not in FLOW and not _is_flat(value, inner, self.comments):
                lines += [f"{'  ' * depth}{key}:", *self._lines(value, inner, depth + 1)]
                continue
            line = f"{'  ' * depth}{_flow(key)}: {_flow(value)}"
            lines.append(f"{line:<36}# {comment}" if comment else line)
        return lines


def _ordered(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section in the order of our files, the others after them."""
    return {key: tree[key] for key in sorted(tree, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))}


def _is_flat(value: Mapping[str, Any], path: str, comments: Mapping[str, str]) -> bool:
    """Whether a mapping fits on one line: few scalars without comments."""
    if any(isinstance(one, (Mapping, list)) for one in value.values()) or path.count(".") == 0:
        return False
    return len(value) <= 3 and not any(f"{path}.{key}" in comments for key in value) and len(_flow(value)) < 80


def _flow(value: Any) -> str:
    if value == MISSING:
        return MISSING
    text = yaml.dump(
        value, Dumper=YamlDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _comment_lines(text: str) -> list[str]:
    indent = "    " if text.startswith("  ") else "  "
    return [f"# {line}" for line in textwrap.wrap(text, 116, subsequent_indent=indent, break_long_words=False)] or ["#"]


def _at(config: Any, path: str) -> tuple[bool, Any]:
    for key in path.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return False, None
        config = config[key]
    return True, config


def still_needed(text: str, is_training: bool) -> tuple[list[Problem], list[Problem]]:
    """Check the new file with our own schema. Returns (what it still needs: paths, mistakes in it)."""
    from chatbridge.experiment.open import open_chat, open_config
    from chatbridge.experiment.roots import Evaluation, Experiment

    with tempfile.TemporaryDirectory() as inside:
        file = Path(inside) / "new.yaml"
        replace_text(file, text)
        try:
            if "\nevaluation:" in text or is_training:
                problems = open_config(Experiment if is_training else Evaluation, file).problems
            else:
                open_chat(file)
                problems = ()
        except ConfigError as error:
            problems = error.problems
    needs = [one for one in problems if is_need(one)]
    return needs, [one for one in problems if one not in needs]


def is_need(problem: Problem) -> bool:
    """Whether a problem is a path to give or a file to bring, not a mistake."""
    message = problem.message
    return problem.is_absent or MISSING in message or message.startswith(("there is no file", "there is no folder"))
