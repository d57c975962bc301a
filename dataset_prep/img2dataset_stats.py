"""The output of img2dataset as a manifest: 00000.tar and 00000_stats.json are one shard.

{"count": 10000, "successes": 8731, "failed_to_download": 1203, "failed_to_resize": 66, "duration": 71.2,
 "status_dict": {"success": 8731, "HTTP Error 404: Not Found": 702, ...}}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from dataset_prep.common.preparation import Preparation

SUFFIX = "_stats.json"
REASONS = (  # status of a link in img2dataset -> reason in the manifest
    (re.compile(r"HTTP Error (\d{3})"), r"HTTP error \1"),
    (re.compile(r"X-Robots-Tag|disallow", re.IGNORECASE), "its site does not allow it"),
    (re.compile(r"timed? ?out", re.IGNORECASE), "timed out"),
    (re.compile(r"certificate|SSL", re.IGNORECASE), "its certificate is not valid"),
    (re.compile(r"urlopen error|getaddrinfo|resolution|refused|reset|unreachable|RemoteDisconnected", re.IGNORECASE),
     "cannot be reached"),
    (re.compile(r"decod|image|resiz|codec|aspect", re.IGNORECASE), "is not a usable image"),
)  # fmt: skip


def collect(made: Preparation) -> list[str]:
    """Add every finished shard of the folder to the manifest.

    returns   a line per unfinished shard, which img2dataset repeats at the next call
    raises    DataError when there is no shard
    """
    stats = sorted(path for path in made.folder.glob(f"*{SUFFIX}") if not is_hidden(path.name))
    names = {path.name.removesuffix(SUFFIX) for path in stats}
    open_tars = [
        tar.name for tar in sorted(made.folder.glob("*.tar")) if not is_hidden(tar.name) and tar.stem not in names
    ]
    if not stats and not open_tars:
        raise DataError(f"{made.folder}: contains no output of img2dataset: no *.tar, no *{SUFFIX}")
    lost = []
    for path, file in made.open_work([(f"{name}.tar", made.folder / f"{name}{SUFFIX}") for name in sorted(names)]):
        if not (made.folder / path).is_file():
            lost.append(f"{path}: is missing; remove {file.name} and call img2dataset again")
            continue
        successes, losses = read_stats(file)
        for reason, count in losses.items():
            made.skip("", reason, count=count)
        made.add(path, successes)
    return [*lost, *(f"{name}: has no {SUFFIX}; img2dataset was stopped while writing it" for name in open_tars)]


def read_stats(path: Path) -> tuple[int, dict[str, int]]:
    """The number of downloaded images of a shard, and the number of failed links by reason."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["successes"]), losses(content["status_dict"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a statistics file of img2dataset ({type(error).__name__}: {error})") from None


def losses(statuses: Mapping[str, int]) -> dict[str, int]:
    """Reason -> number of failed links; thousands of different messages become a few reasons."""
    counts: Counter[str] = Counter()
    for status, count in statuses.items():
        if status != "success":
            counts[reason_of(status)] += int(count)
    return dict(sorted(counts.items()))


def reason_of(status: str) -> str:
    for pattern, words in REASONS:
        if found := pattern.search(status):
            return found.expand(words)
    return "a different download error"
