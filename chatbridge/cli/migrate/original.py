"""The old file with the defaults its code base reads first: files of models and data sets, and --options.

LAVIS merges the YAML of the model type, those of the data sets, the file itself and the options, in this order. The
defaults are searched in the checkout that the file is in (`*/configs/models`, `*/configs/datasets`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.cli.migrate.families import MODEL_FILES
from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.interpolation import interpolate
from chatbridge.config.merge import display_path
from chatbridge.config.options import parse_option
from chatbridge.config.origins import OPTIONS, Origin, Origins, Unresolved, is_below, join
from chatbridge.config.yaml_io import read_yaml

SECTIONS = ("model", "run", "datasets", "preprocess", "env", "evaluation_datasets")
OURS = ("base", "data", "evaluation", "plugins")
PARENTS = 4  # folders above the file in which its checkout may begin


@dataclass
class Original:
    """A merged and interpolated configuration.

    files    the default files that were read below it, in order
    root     the checkout of the code base, or the folder of the file
    """

    path: Path
    config: dict[str, Any]
    origins: dict[str, Origin]
    root: Path
    files: list[str] = field(default_factory=list)

    def get(self, *keys: str) -> Any:
        """The value at a path, None where there is none or it is unresolved."""
        here: Any = self.config
        for key in keys:
            here = here.get(key) if isinstance(here, Mapping) else None
        return None if isinstance(here, Unresolved) else here

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """The mapping at a path; empty where there is something else."""
        found = self.get(*keys)
        return found if isinstance(found, Mapping) else {}

    def origin(self, path: str) -> Origin | None:
        """Where a key or the nearest key above it is set."""
        while path and path not in self.origins:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.origins.get(path)


def read_original(path: Path, options: Sequence[str] = (), defaults: Sequence[Path] = ()) -> Original:
    """Read a file with its defaults.

    defaults   files that are read below it, before those of its checkout
    raises     ConfigError when it is no file of LAVIS or of a fork, or is ours already
    """
    config, origins = _read(path)
    _refuse_others(path, config)
    root = _checkout(path)
    whole = Original(path, {}, {}, root)
    found = [*defaults, *_model_defaults(root, config, options), *_data_defaults(root, config)]
    for one in dict.fromkeys(file.resolve() for file in found):
        if one == path.resolve():
            continue
        below, places = _read(one)
        _keep_named_data(below, config)
        if not (below := {key: value for key, value in below.items() if key in SECTIONS and value}):
            continue
        _merge(whole, below, places)
        whole.files.append(display_path(one))
    _merge(whole, config, origins)
    for option in _pairs(options):
        keys, value, _ = parse_option(option)
        for key in reversed(keys):
            value = {key: value}
        _merge(whole, value, {".".join(keys): Origin(OPTIONS)})
    whole.config = interpolate(whole.config, Origins(whole.origins))
    return whole


def _pairs(options: Sequence[str]) -> list[str]:
    """Options as key=value; LAVIS also takes `key value key value`. raises ConfigError for a key without a value"""
    if not options or "=" in options[0]:
        return list(options)
    if len(options) % 2:
        hint = "write key=value, or key value, for each setting"
        raise ConfigError([Problem("", f"{options[-1]!r} has no value", OPTIONS, hint=hint)])
    return [f"{key}={value}" for key, value in zip(options[::2], options[1::2], strict=True)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Origin]]:
    shown = display_path(path)
    if path.is_dir():
        raise ConfigError([Problem("", "is a folder, expected a YAML file", shown)])
    if not path.exists():
        names = [one.name for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError([Problem("", "does not exist", shown, nearest=nearest(path.name, names))])
    data, entries, problems = read_yaml(path, shown)
    if problems:
        raise ConfigError(problems)
    if not isinstance(data, dict):
        what = "is empty" if data is None else "has no sections"
        raise ConfigError([Problem("", f"{what}; expected the sections model and run of LAVIS", shown)])
    return data, entries


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    """raises ConfigError for a file that is ours already, or of another program"""
    shown, model = display_path(path), config.get("model")
    arch = model.get("arch") if isinstance(model, Mapping) else None
    if path.name == "resolved.yaml" or {"data", "model", "run"} <= set(config):
        what = "the resolved configuration of a run" if path.name == "resolved.yaml" else "a configuration"
        message = f"is {what} of this project already: nothing is to be migrated"
        hint = f"train.py reads it as it is: python train.py --cfg-path {shown}"
        raise ConfigError([Problem("", message, shown, hint=hint)])
    own = [key for key in OURS if key in config]
    parts = ("encoders", "bridges", "language", "routes")
    own += [f"model.{key}" for key in parts if isinstance(model, Mapping) and key in model]
    if own and arch is None:
        message = f"is a file of ChatBridge's own layout already (it has {', '.join(own)})"
        raise ConfigError([Problem("", message, shown, hint=f"check it: python train.py --cfg-path {shown} --check")])
    if not isinstance(model, Mapping) or not isinstance(arch, str):
        held = ", ".join(list(map(str, config))[:6]) or "nothing"
        hint = "LAVIS, MiniGPT-4 and ChatBridge have model.arch, model.model_type and a section run"
        if "datasets" in config and model is None:
            hint = "this looks like the default file of a data set: give the YAML of the run, and this file with --with"
        elif "llm" in config or "model_name_or_path" in config or "lm_path" in config:
            hint = "argument lists of LLaVA, ChatBind and Multimodal-GPT: docs/original_commands.md has each argument"
        raise ConfigError([Problem("model.arch", f"is missing: the file has {held}", shown, hint=hint)])
    if not isinstance(config.get("run"), Mapping):
        hint = "this may be the default file of a model type: give the YAML of the run, and this file with --with"
        raise ConfigError([Problem("run", "is missing: a run of LAVIS has model, datasets and run", shown, hint=hint)])
    for section in ("datasets", "evaluation_datasets"):
        if config.get(section) is not None and not isinstance(config[section], Mapping):
            raise ConfigError([Problem(section, "expected a mapping: name -> its settings", shown)])
        if odd := [name for name in config.get(section) or () if not isinstance(name, str)]:
            hint = f'write it in quotes: "{odd[0]}"'
            raise ConfigError([Problem(section, f"has the name {odd[0]!r}, expected text", shown, hint=hint)])


def _checkout(path: Path) -> Path:
    """The folder above the file that has a package with configs/models; the file's own folder without one.

    A package has an __init__.py: another checkout beside the file, such as one of this project, is none.
    """
    folder = path.resolve().parent
    for one in [folder, *folder.parents][:PARENTS]:
        if any((found.parents[1] / "__init__.py").is_file() for found in one.glob("*/configs/models")):
            return one
    return folder


def _model_defaults(root: Path, config: Mapping[str, Any], options: Sequence[str]) -> Iterator[Path]:
    """The YAML of the model type, as far as its name is known."""
    model = config["model"]
    kind = next((one.partition("=")[2] for one in _pairs(options) if one.startswith("model.model_type=")), None)
    names = MODEL_FILES.get((str(model["arch"]), str(kind or model.get("model_type"))), ())
    for folder in sorted(root.glob("*/configs/models")):
        found = next((file for name in names if (file := folder / name).is_file()), None)
        if found is not None:
            yield found
            return


def _data_defaults(root: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Default files of the data sets that the configuration names, by the key inside them."""
    wanted = dict(config.get("datasets") or {})
    for own in wanted.values():
        if isinstance(own, Mapping) and isinstance(own.get("config_path"), str):
            yield from (one for one in (root / own["config_path"],) if one.is_file())
    for folder in sorted(root.glob("*/configs/datasets")):
        for file in sorted(folder.rglob("*.yaml")):
            try:
                data, _ = _read(file)
            except ConfigError:  # a default of another data set; the run does not read it either
                continue
            named = data.get("datasets")
            is_variant = any(word in file.stem for word in ("eval", "instruct", "part"))
            if isinstance(named, Mapping) and not is_variant and set(named) & set(wanted):
                yield file


def _keep_named_data(below: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Remove data sets of a default file that the configuration does not use."""
    named = below.get("datasets")
    if isinstance(named, dict):
        used = set(config.get("datasets") or {})
        below["datasets"] = {name: own for name, own in named.items() if name in used}


def _merge(whole: Original, above: Mapping[str, Any], places: Mapping[str, Origin]) -> None:
    _merge_into(whole.config, above, "", whole, places)


def _merge_into(
    below: dict[str, Any], above: Mapping[str, Any], path: str, whole: Original, places: Mapping[str, Origin]
) -> None:
    for key, value in above.items():
        inner, old = join(path, key), below.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            _merge_into(old, value, inner, whole, places)
            continue
        below[key] = _copy(value)
        kept = {at: one for at, one in whole.origins.items() if not is_below(at, inner)}
        whole.origins = kept | {at: one for at, one in places.items() if is_below(at, inner)}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def read_json(path: Path) -> Any:
    """The content of a JSON file. raises ConfigError when it cannot be read"""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError([Problem("", f"cannot be read as JSON: {error}", display_path(path))]) from None
