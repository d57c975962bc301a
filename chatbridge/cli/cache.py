"""`chatbridge cache CFG`: store the outputs of the frozen encoders of a run, for data.feature_cache.

With torchrun, or with several workers, media are decoded in parallel; each rank encodes its share. A command that was
interrupted continues where it ended, and a second one does only what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast, get_args

from filelock import FileLock, Timeout

from chatbridge.cli.arguments import add_config, whole
from chatbridge.common import dist as ranks
from chatbridge.common import log as logging
from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.seeds import seed_everything
from chatbridge.common.threads import num_cores, use_threads
from chatbridge.config.merge import load
from chatbridge.config.origins import Origin
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.datasets.feature_cache.command import cache_command, remember_file
from chatbridge.datasets.feature_cache.config import FeatureCacheConfig, Stored
from chatbridge.datasets.feature_cache.index import FeatureIndex, write_index
from chatbridge.datasets.feature_cache.record import records
from chatbridge.datasets.feature_cache.shards import KEYS, ROWS, clean, committed, verify_rows
from chatbridge.datasets.feature_cache.values import RowLayout
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.permissions import require_permission
from chatbridge.experiment.build import build_model
from chatbridge.experiment.data import open_data
from chatbridge.experiment.feature_cache.build import FAILURES, Build, size_text
from chatbridge.experiment.feature_cache.feature_sets import FeaturePlan, feature_record, fingerprints, plan_features
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import REGISTRIES, Experiment
from chatbridge.experiment.validate_levers import dtype_problems
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.feature_cache import Encoders, load_encoders
from chatbridge.models.importers.released import is_released_file
from chatbridge.models.manifest_check import reconcile
from chatbridge.runners.config import compute_dtype

log = logging.get_logger("cache")
CODES = """exit code: 0 the cache is complete; 1 --verify found damaged shards; 2 the configuration has mistakes"""
AT = ("data", "feature_cache")
ARGUMENTS = {"folder": "--folder", "values": "--dtype", "modalities": "--modality"}  # setting -> what replaces it


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = _parse(arguments)
    remember_file(args.config, args.options)
    with ExitStack() as at_exit:
        at_exit.callback(ranks.stop)
        return build_cache(args, at_exit)


def build_cache(args: argparse.Namespace, at_exit: ExitStack) -> int:
    """Build what is missing in the cache of a configuration, in order. Returns the exit code."""
    settings = _settings(args)
    if args.verify and not settings.folder.is_dir():
        hint = "name the folder of a cache, or build it first: the same command without --verify"
        message, at = f"there is no folder {settings.folder}", ".".join((*AT, "folder"))
        raise ConfigError([Problem(at, message, _at(args.folder, "--folder"), hint=hint)])
    opened = open_config(Experiment, args.config, [*args.options, f"{'.'.join(AT)}=null"])
    data = open_data(opened)
    require_permission(data.datasets)
    config, run = opened.config, opened.config.run
    if problems := list(dtype_problems(config.model, run, is_cached=True)):
        raise ConfigError(problems)
    model = reconcile(config.model, run.init_from, run.model_from).model
    plan = _required(plan_features(config.data, model, settings), _at(args.modality, "--modality"))
    dist = ranks.start(run.device)
    logging.setup(None, dist.is_main, dist.rank)
    if dist.is_main:
        at_exit.callback(_lock(settings.folder, _at(args.folder, "--folder")).release)
    dist.barrier()
    if args.verify:
        return verify(settings.folder) if dist.is_main else 0
    workers = max(1, num_cores() // dist.world_size - 1) if args.workers is None else args.workers
    use_threads(run.threads, workers)
    seed_everything(run.seed)  # encoders without weights have the random values of the training
    dtype = compute_dtype(run.precision, dist.device)
    names = dict.fromkeys(model.routes[modality].encoder for modality in plan.decoders)
    encoders = _encoders(config, model, list(names), dist)
    prints = fingerprints(plan, model, dict(encoders.encoders.items()))
    parts = {modality: encoders.part(model.routes[modality].encoder) for modality in plan.decoders}
    found = {
        modality: feature_record(plan, model, modality, part, dtype, prints[model.routes[modality].encoder])
        for modality, part in parts.items()
    }
    log.info("%s", "\n".join(plan.lines))
    sources = {name: one for name, one in data.sources.items() if one.config.weight}
    quarantine = read_quarantine(config.data.quarantine)
    build = Build(settings.folder, found, plan.decoders, parts, sources, quarantine, config.data.media, dist, dtype,
                  args.batch, workers, args.limit)  # fmt: skip
    build.run()
    _report(build)
    return 0


def verify(folder: Path) -> int:
    """Compare every row of every set with its checksum, and remove damaged shards. Returns 1 when there were any."""
    code = 0
    for at, record in records(folder).items():
        rows = 0
        for line in clean(at):  # damaged keys, missing or truncated rows
            code = 1
            log.warning("%s; the shard is removed", line)
        for shard in committed(at):
            reason, rows = verify_rows(at, shard), rows + shard.num_rows
            if reason is not None:
                code = 1
                log.warning("%s; the shard is removed", reason)
                (at / f"{shard.name}{KEYS}").unlink()
                (at / f"{shard.name}{ROWS}").unlink(missing_ok=True)
        write_index(at)
        log.info("%s: %s rows of %s read", at.name, f"{rows:,}", record.modality)
    if code:
        log.info("%s builds what is missing now", cache_command())
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chatbridge cache", description=__doc__, epilog=CODES)
    add_config(parser)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="the cache; default: data.feature_cache.folder")
    parser.add_argument("--dtype", choices=get_args(Stored), help="how values are stored; default: the file's, or bf16")
    parser.add_argument("--modality", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N samples of each source")
    parser.add_argument("--workers", type=whole(0), metavar="N",
                        help="processes per rank that decode; 0: none (default: cores per rank - 1)")  # fmt: skip
    parser.add_argument("--batch", type=whole(1), default=32, metavar="N", help="pieces encoded at once (default: 32)")
    parser.add_argument("--verify", action="store_true", help="read all shards, remove damaged ones; builds nothing")
    return parser.parse_args(arguments)


def _settings(args: argparse.Namespace) -> FeatureCacheConfig:
    """data.feature_cache with what the command line replaces. raises ConfigError"""
    mapping, origins = load(args.config, args.options)
    if AT[0] not in mapping:
        hint = "features are stored for a training; name its file. An evaluation never reads them"
        raise ConfigError([Problem("", "has no section data, so it is not a training run", file=str(args.config),
                                   hint=hint)])  # fmt: skip
    data = mapping.get(AT[0])
    node = data.get(AT[1]) if isinstance(data, Mapping) else None
    own: dict[str, Any] = dict(node) if isinstance(node, Mapping) else {}
    given = {"folder": args.folder and str(args.folder), "values": args.dtype, "modalities": args.modality}
    own |= {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if value is not None:  # a problem names the argument, not the line of the file that it replaces
            origins.replace((at := ".".join((*AT, key))), {at: Origin(ARGUMENTS[key])})
    add_plugins(REGISTRIES, plugin_names(mapping))  # which may add a modality
    if "folder" not in own:
        raise ConfigError([Problem(".".join((*AT, "folder")), "is missing", hint="set it, or give --folder DIR")])
    return parse(FeatureCacheConfig, own, origins, ".".join(AT))


def _at(value: Any, argument: str) -> str | None:
    """The origin of a setting that an argument may give; None: the file gives it."""
    return argument if value is not None else None


def _required(plan: FeaturePlan, origin: str | None) -> FeaturePlan:
    """The plan, when it has something to build. raises ConfigError with the reason of each modality"""
    reasons = {name: plan.reasons.get(name, "the model has no route for it") for name in plan.settings.modalities or ()}
    problems = [
        Problem(f"{'.'.join(AT)}.modalities", f"names {modality}, but {reasons[modality]}", origin)
        for modality in plan.settings.modalities or ()
        if modality not in plan.decoders
    ]
    if not plan.decoders and not problems:
        listed = "; ".join(f"{name}: {reason}" for name, reason in plan.reasons.items())
        problems.append(Problem(".".join(AT), f"no modality can be cached ({listed})"))
    if problems:
        raise ConfigError(problems)
    return plan


def _lock(folder: Path, origin: str | None) -> FileLock:
    """An acquired lock on building in a folder. raises ConfigError when it is in use or not writable"""
    at = ".".join((*AT, "folder"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", fallback_to_soft=False)
        lock.acquire(timeout=0)
        return lock
    except Timeout:
        hint = "wait for it; one command with several ranks or --workers builds in parallel"
        raise ConfigError(
            [Problem(at, f"{folder} is in use: another process builds there", origin, hint=hint)]
        ) from None
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror}"
        raise ConfigError(
            [Problem(at, message, origin, hint="check its permissions, or choose another folder")]
        ) from None


def _encoders(config: Experiment, model: ModelConfig, names: Sequence[str], dist: Dist) -> Encoders:
    """The frozen encoders as the training has them in its first step."""
    run = config.run
    if run.init_from is None or not is_released_file(run.init_from):
        return load_encoders(model, names, dist.device, compute_dtype(run.precision, dist.device), run.init_from)
    built = build_model(model)  # a released file may hold any part of the model
    built.load_weights(dist.device, run.precision)
    log.info("%s", built.start_from(run.init_from))
    frozen = built.model.requires_grad_(False).eval()
    return Encoders({name: cast("Encoder", frozen.encoders[name]) for name in names})


def _report(build: Build) -> None:
    """What the cache holds now, and what could not be encoded."""
    if not build.dist.is_main:
        return
    for modality, record in build.records.items():
        index = FeatureIndex(build.folder / record.name)
        row = RowLayout(record.tokens, record.width, record.values).row_bytes
        error = index.head["error"]
        relative = (error["squared"] / error["total"]) ** 0.5 if error["total"] else 0.0
        log.info("%s: %s pieces, %s in %s; stored as %s: error %.2g of the values (root mean square), at most %.2g of "
                 "the largest of a token; %s items cannot be decoded", modality, f"{len(index):,}",
                 size_text(len(index) * row), build.folder / record.name, record.values, relative, error["largest"],
                 f"{len(index.failed):,}")  # fmt: skip
    if (failures := build.folder / FAILURES).is_file():
        log.info("media that cannot be decoded are listed in %s, which data.quarantine reads too", failures)
