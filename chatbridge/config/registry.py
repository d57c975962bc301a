"""Parts by name, where the name is the file name: listing imports nothing, getting imports one file.

ENCODERS = Registry[Encoder]("encoder", "chatbridge.models.encoders")

@ENCODERS.register("eva_vit")                     # in chatbridge/models/encoders/eva_vit.py
class EvaViT(Encoder):
    @dataclass(frozen=True, kw_only=True)
    class Config(EncoderConfig): ...
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from typing import Any, Generic, Protocol, TypeVar

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.common.extras import how_to_install

T = TypeVar("T")
P = TypeVar("P", bound=type)
RESOLVED = "resolved.yaml"  # marks a run folder


class Registry(Generic[T]):
    """The parts of one kind. A plugin adds a folder to search; nothing else is global.

    kind      noun for messages: "encoder"
    package   dotted package whose files are the parts; "base" and names with a leading "_" are not parts
    besides   other names in it that are not parts
    """

    def __init__(self, kind: str, package: str, besides: Iterable[str] = ()):
        self.kind = kind
        self.packages = [package]
        self.besides = frozenset(besides)
        self._parts: dict[str, Any] = {}  # name -> class

    def register(self, name: str) -> Callable[[P], P]:
        """Class decorator. `name` must be the file's name, and the class must nest a frozen keyword-only Config.

        raises   ValueError when the name differs from the file's or is taken, TypeError when Config is not right
        """

        def enter(part: P) -> P:
            module = part.__module__.rpartition(".")[2]
            if module != name:
                raise ValueError(
                    f"{part.__module__}: register this {self.kind} as {module!r}, its file's name, not {name!r}"
                )
            taken = self._parts.get(name)
            if taken is not None and _identity(taken) != _identity(part):
                raise ValueError(f"{self.kind} {name!r} is taken by {'.'.join(_identity(taken))}")
            _check_config(part)
            self._parts[name] = part
            return part

        return enter

    def names(self) -> tuple[str, ...]:
        """Return every name that `get` accepts, sorted. Lists files, imports no part."""
        return tuple(sorted({name for package in self.packages for name in self._files(package)}))

    def get(self, name: str) -> type[T]:
        """Import and return the part of this name.

        raises   ConfigError if there is no such part (with the nearest name), a package it needs is not installed, or
                 the file of a plugin raises
        """
        package = next((package for package in self.packages if name in self._files(package)), None)
        if package is None:
            names = self.names()
            message = f"there is no {self.kind} named {name!r}"
            example = f"my_lab/{self._folder_name}/{name}.py"
            hint = None if names else f"no {self.kind} ships; add one in a plugin: {example} and plugins: [my_lab]"
            raise ConfigError([Problem("", message, allowed=names, nearest=nearest(name, names), hint=hint)])
        import_file(f"{package}.{name}", f"the {self.kind} {name!r}", is_plugin=package != self.packages[0])
        if name not in self._parts:
            raise ConfigError([Problem("", f"the file of {self.kind} {name!r} ({package}) registers no {self.kind}")])
        return self._parts[name]

    def add_plugin(self, package: str) -> None:
        """Search `package/<folder of this kind>/` too; a plugin without that folder adds no part of this kind.

        raises   ConfigError if the package cannot be found, or one of its parts has a name that is taken
        """
        plugin_folder(package)
        inner = f"{package}.{self._folder_name}"
        if inner in self.packages:
            return
        doubles = sorted(set(self._files(inner)) & set(self.names()))
        if doubles:
            message = f"{package} uses {self.kind} names that are taken: {', '.join(doubles)}"
            raise ConfigError([Problem("plugins", message, hint="rename those files")])
        self.packages.append(inner)

    @property
    def _folder_name(self) -> str:
        return self.packages[0].rpartition(".")[2]

    def _files(self, package: str) -> tuple[str, ...]:
        return tuple(name for name in _part_files(package) if name not in self.besides)


def import_file(module: str, subject: str, path: str = "", is_plugin: bool = True) -> None:
    """Import a file of parts.

    subject    name of its content, for messages
    path       the setting that requires it
    is_plugin  any error of its code becomes a problem with file and line; errors of our own code are raised as they are
    raises     ConfigError if it needs a package that is not installed, or its code raises
    """
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except Exception as error:  # the code of a plugin may raise anything
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if missing and missing.partition(".")[0] != module.partition(".")[0]:
            message = f"{subject} needs the package {missing!r}, which is not installed"
            raise ConfigError([Problem(path, message, hint=how_to_install(missing))]) from error
        if not is_plugin:
            raise
        raise ConfigError([_import_problem(error, module, subject, path)]) from error


def _import_problem(error: Exception, module: str, subject: str, path: str) -> Problem:
    """Return an error of a plugin's code with the last line of the plugin in its traceback."""
    package = module.partition(".")[0]
    root = _folder(package)
    frames = [one for one in extract_tb(error.__traceback__) if root and Path(one.filename).is_relative_to(root)]
    lines = [(one.filename, one.lineno) for one in frames]
    if isinstance(error, SyntaxError) and error.filename:
        lines, error = [(error.filename, error.lineno)], SyntaxError(error.msg)
    location = f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""
    message = f"{subject} cannot be imported: {type(error).__name__}: {error}{location}"
    hint = f"correct that file, or remove {package!r} from plugins; CHATBRIDGE_TRACEBACK=1 prints the traceback"
    return Problem(path, message, hint=hint)


class Extensible(Protocol):
    """An object that a plugin can extend: a registry of parts, or the modalities."""

    def add_plugin(self, package: str) -> None: ...


def plugin_folder(package: str) -> Path:
    """Return the folder of a plugin without importing it.

    raises   ConfigError if the package cannot be found, or is in a run folder
    """
    folder = _folder(package)
    if folder is None:
        message = f"there is no importable package {package!r}"
        hint = "add its parent folder to PYTHONPATH, install it, or run `python -m chatbridge ...` in its parent folder"
        raise ConfigError([Problem("plugins", message, hint=hint)])
    if (run := _run_folder(folder)) is not None:
        message = f"the package {package!r} is inside the run folder {run}; code of a run folder is never executed"
        hint = "if you trust it, move the package out of the run folder and add its parent folder to PYTHONPATH"
        raise ConfigError([Problem("plugins", message, hint=hint)])
    return folder


def add_plugins(registries: Iterable[Extensible], packages: Iterable[str]) -> None:
    """Add every plugin of a configuration to every registry. Raises one ConfigError with all problems."""
    problems: dict[Problem, None] = {}  # a missing package is the same problem in every registry
    registries = tuple(registries)
    for package in packages:
        for registry in registries:
            try:
                registry.add_plugin(package)
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(problems)


def plugin_names(mapping: Mapping[str, Any]) -> list[str]:
    """Return the plugins of an unvalidated configuration; entries that are not text are left to validation."""
    names = mapping.get("plugins")
    return [name for name in names if isinstance(name, str)] if isinstance(names, (list, tuple)) else []


def _identity(part: type) -> tuple[str, str]:
    return part.__module__, part.__qualname__


def _check_config(part: type) -> None:
    config: Any = getattr(part, "Config", None)
    if not isinstance(config, type):
        raise TypeError(f"{part.__qualname__} has no nested Config")
    params = vars(config).get("__dataclass_params__")  # in its own body: an undecorated subclass would lose its fields
    if params is None or not params.frozen or not all(field.kw_only for field in fields(config)):
        raise TypeError(f"{config.__qualname__} must be decorated with @dataclass(frozen=True, kw_only=True)")
    if any(field.name == "name" for field in fields(config)):
        raise TypeError(
            f"{config.__qualname__} has a field 'name', which is reserved for the name of the part; rename the field"
        )


def _part_files(package: str) -> tuple[str, ...]:
    folder = _folder(package)
    if folder is None:
        return ()
    files = [path.stem for path in folder.glob("*.py")] + [path.parent.name for path in folder.glob("*/__init__.py")]
    return tuple(name for name in files if name != "base" and not name.startswith("_"))


def _run_folder(folder: Path) -> Path | None:
    """Return the run folder that contains a folder. With `python -m` the current folder is importable, and it may be a
    run folder from another source."""
    return next((above for above in folder.resolve().parents if (above / RESOLVED).is_file()), None)


def _folder(package: str) -> Path | None:
    """Return the folder of a package without importing it or its parents; None if there is none."""
    top, *inner = package.split(".")
    if not all(part.isidentifier() for part in (top, *inner)):
        return None
    try:
        spec = find_spec(top)
    except ValueError:  # a module without a file, such as __main__
        return None
    for location in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(location, *inner)
        if folder.is_dir():
            return folder
    return None
