"""The processors of a run that read from the feature cache, after every check that wrong features are refused by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.common.log import get_logger
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.feature_cache.command import build_hint
from chatbridge.datasets.feature_cache.record import FeatureRecord, read_record, records
from chatbridge.datasets.feature_cache.store import FeatureSet
from chatbridge.datasets.feature_cache.stored_features import StoredFeatures
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.experiment.feature_cache.feature_sets import (
    FeaturePlan,
    feature_record,
    fingerprints,
    plan_features,
)
from chatbridge.experiment.feature_cache.items import lacks
from chatbridge.experiment.roots import Experiment
from chatbridge.experiment.validate_features import missing_set
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.encoders import Encoder
from chatbridge.models.feature_cache import trained_parts
from chatbridge.processors.description import library_versions

log = get_logger(__name__)


def cached_processors(
    config: Experiment, model: ChatModel, sources: Mapping[str, Dataset], quarantine: Quarantine, dist: Dist
) -> dict[str, StoredFeatures]:
    """modality -> what reads its features, of the modalities that use the cache; empty without data.feature_cache.

    Call it once the weights are final: after run.init_from and after a resume.
    raises   ConfigError when the cache was made with other weights or in another way, is damaged, or lacks items
    """
    settings = config.data.feature_cache
    if settings is None:
        return {}
    plan = plan_features(config.data, config.model, settings)
    problems = [*_trained(plan, model), *_listed(plan)]
    stores: dict[str, FeatureSet] = {}
    if not problems:
        now = _records(plan, config, model)
        problems = [*_missing_sets(plan, now)]
        stores = {name: FeatureSet(settings.folder / record.name, record) for name, record in now.items()}
    if not problems and dist.is_main:
        problems = [*_damage(stores)] or [*_lacking(stores, plan, sources, quarantine)]
    if found := next((one for one in dist.gather(problems) if one), None):
        raise ConfigError(found)
    log.info("\n".join([*plan.lines, *_versions(stores)]))
    return {modality: StoredFeatures(store, plan.decoders[modality]) for modality, store in stores.items()}


def feature_note(config: Experiment) -> str:
    """For --check: a line per modality, read from the cache or not and why; empty without data.feature_cache."""
    settings = config.data.feature_cache
    return "" if settings is None else "\n".join(plan_features(config.data, config.model, settings).lines)


def _trained(plan: FeaturePlan, model: ChatModel) -> Iterator[Problem]:
    """Encoders with trainable tensors or adapters, which no pattern of the file showed."""
    for modality in plan.decoders:
        name = model.config.routes[modality].encoder
        if trained := trained_parts(model.encoders[name]):
            message = f"{modality} cannot use it: its encoder {name!r} has trainable tensors ({trained[0]}, ...)"
            yield Problem("data.feature_cache", message, hint="freeze the encoder, or list the other modalities")


def _listed(plan: FeaturePlan) -> Iterator[Problem]:
    for modality in plan.settings.modalities or ():
        if modality not in plan.decoders:
            reason = plan.reasons.get(modality, "the model has no route for it")
            yield Problem("data.feature_cache.modalities", f"names {modality}, but {reason}")


def _records(plan: FeaturePlan, config: Experiment, model: ChatModel) -> dict[str, FeatureRecord]:
    """modality -> the set that this run needs"""
    prints = fingerprints(plan, config.model, cast("Mapping[str, Any]", model.encoders))
    found = {}
    for modality in plan.decoders:
        name = config.model.routes[modality].encoder
        encoder = cast("Encoder", cast("nn.Module", model.encoders[name]))
        found[modality] = feature_record(plan, config.model, modality, encoder, model.compute_dtype, prints[name])
    return found


def _missing_sets(plan: FeaturePlan, now: Mapping[str, FeatureRecord]) -> Iterator[Problem]:
    """Sets that are not there, with both fingerprints and the weights file that differs."""
    there = records(plan.settings.folder)
    for modality, record in now.items():
        if (plan.settings.folder / record.name) in there:
            continue
        alike = [one for one in there.values() if one.modality == modality]
        problem = missing_set(plan.settings.folder, modality, record.identity, [one.identity for one in alike])
        prints = {path: one for other in alike for path, one in other.notes.get("files", {}).items()}
        changed = [path for path, one in record.notes["files"].items() if prints.get(path, one) != one]
        others = [path for path in record.notes["files"] if path not in prints]
        notes = [f"the weights file {path} has changed since" for path in changed]
        notes += [f"the features were made with {', '.join(prints)}, the run uses {path}" for path in others if prints]
        yield Problem(problem.path, problem.message, hint="\n".join(filter(None, [*notes, problem.hint])))


def _damage(stores: Mapping[str, FeatureSet]) -> Iterator[Problem]:
    for store in stores.values():
        try:
            store.check()
        except DataError as error:
            message, _, rest = str(error).partition("\n")
            yield Problem("data.feature_cache.folder", message, hint=rest.strip() or build_hint())


def _lacking(
    stores: Mapping[str, FeatureSet], plan: FeaturePlan, sources: Mapping[str, Dataset], quarantine: Quarantine
) -> Iterator[Problem]:
    """Items of the sources that are not in the cache, by modality."""
    for modality, store in stores.items():
        if found := list(lacks(store, plan.decoders[modality], sources, quarantine)):
            message = f"the features of {modality} are incomplete"
            hint = "\n".join([*map(str, found), build_hint("what is missing")])
            yield Problem("data.feature_cache.folder", message, hint=hint)


def _versions(stores: Mapping[str, FeatureSet]) -> Iterator[str]:
    """Libraries that were others at the build."""
    now = library_versions()
    for modality, store in stores.items():
        then = read_record(store.folder).notes.get("libraries", {})
        changed = [f"{name} {version} (now {now.get(name, 'absent')})" for name, version in then.items()
                   if now.get(name) != version]  # fmt: skip
        if changed:
            yield f"feature cache: {modality} was decoded and encoded with {', '.join(changed)}"
