"""`chatbridge weights fetch CFG.yaml`: bring everything that a YAML names to where it is looked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.cli.weights.fetch_source import fetch_url
from chatbridge.cli.weights.hub_download import Repository, download_repository, read_repository, total
from chatbridge.cli.weights.list import Needed, needed_files
from chatbridge.cli.weights.published_files import published_file
from chatbridge.config.origins import MISSING
from chatbridge.experiment.open import open_model_file
from chatbridge.models.hf_folder import names_hub_model
from chatbridge.models.tensor_headers import readable_size

SPARE = 1 << 30  # bytes that stay free on the disk


@dataclass
class Wanted:
    """What a YAML names, by how it can be had.

    present        files and folders that are there
    repositories   of the hub
    addresses      path of the YAML -> address of a published file
    by_hand        lines about what no command can bring
    """

    present: list[Needed] = field(default_factory=list)
    repositories: list[Repository] = field(default_factory=list)
    addresses: dict[Path, str] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)


def fetch_config(config: Path, options: Sequence[str], dry_run: bool) -> int:
    """Download what a YAML names and what is not there yet; prints the plan first.

    returns  0 when everything is there afterwards, otherwise 1
    raises   ValueError when the disk has too little space
    """
    wanted = examine(list(needed_files(open_model_file(config, options))))
    for line in _plan(wanted):
        print(line, flush=True)
    failed = list(wanted.by_hand)
    if not dry_run:
        _check_space(wanted)
        failed += _bring(wanted)
    if failed:
        print("not there:\n" + "\n".join(f"  {one}" for one in failed))
        return 1
    print("everything that it names is there" if not dry_run else "dry run: nothing was downloaded")
    return 0


def examine(needed: Sequence[Needed]) -> Wanted:
    """Sort what a YAML names by how it can be had; asks the hub for the sizes."""
    wanted = Wanted()
    seen: set[str] = set()
    for one in needed:
        if one.value != MISSING and one.value in seen:
            continue
        seen.add(one.value)
        published = published_file(one.value)
        is_url = published is not None and published.source.startswith("https://") and published.is_file
        if one.key.endswith("init_from") and not is_url:
            if not one.present:
                wanted.by_hand.append(f"{one.key}: {one.value}: a run or a checkpoint of yours")
        elif one.value != MISSING and names_hub_model(Path(one.value)):
            _ask_hub(one, wanted)
        elif one.present:
            wanted.present.append(one)
        elif is_url and one.value != MISSING:
            assert published is not None
            wanted.addresses[Path(one.value)] = published.source
        else:
            where = "give it a path first" if one.value == MISSING else f"{one.value} is not here, and no id of the hub"
            wanted.by_hand.append(f"{one.key}: {where}" + (f"; from: {one.source}" if one.source else ""))
    return wanted


def _ask_hub(one: Needed, wanted: Wanted) -> None:
    """A copy in the cache will do when the hub cannot be asked."""
    try:
        wanted.repositories.append(read_repository(one.value))
    except ValueError as error:
        if one.present:
            wanted.present.append(one)
        else:
            wanted.by_hand.append(f"{one.key}: {error}")


def _plan(wanted: Wanted) -> Iterator[str]:
    for one in wanted.present:
        yield f"there  {one.key}: {one.value}"
    for repository in wanted.repositories:
        state = "there " if repository.missing == 0 else "fetch "
        left = f", {readable_size(repository.missing)} to download" if 0 < repository.missing < repository.bytes else ""
        licence = f", licence {repository.licence}" if repository.licence else ""
        yield (
            f"{state} {repository.identifier}: {readable_size(repository.bytes)} in {len(repository.files)} files{left}"
            f", commit {repository.commit[:12]}{licence}"
        )
    for path, address in wanted.addresses.items():
        yield f"fetch  {path} from {address}"
    if total(wanted.repositories):
        yield f"{readable_size(total(wanted.repositories))} from the hub, {readable_size(_free())} free in {_cache()}"


def _bring(wanted: Wanted) -> Iterator[str]:
    """Download everything; yields what failed, and goes on with the rest."""
    for repository in wanted.repositories:
        if repository.missing:
            try:
                download_repository(repository)
                print(f"{repository.identifier}: complete", flush=True)
            except ValueError as error:
                yield str(error)
    for path, address in wanted.addresses.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"{fetch_url(address, path)}: complete", flush=True)
        except (ValueError, OSError) as error:  # of the disk: read-only, full, a file in place of a folder
            yield f"{path}: {error}"


def _check_space(wanted: Wanted) -> None:
    needed, free = total(wanted.repositories), _free()
    if needed and needed + SPARE > free:
        raise ValueError(
            f"{readable_size(needed)} are to be downloaded, and {_cache()} has {readable_size(free)} free; make room, "
            "or set HF_HOME to a folder on another disk"
        )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _free() -> int:
    folder = next(path for path in (_cache(), *_cache().parents) if path.exists())
    return shutil.disk_usage(folder).free
