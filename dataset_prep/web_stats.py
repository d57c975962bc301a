"""What img2dataset wrote, as our manifest: 00000.tar and 00000_stats.json are one shard.

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
REASONS = (  # what img2dataset says of a link -> the words that the manifest counts by
    (re.compile(r"HTTP Error (\d{3})"), r"HTTP error \1"),
    (re.compile(r"X-Robots-Tag|disallow", re.IGNORECASE), "its site does not allow it"),
    (re.compile(r"timed? ?out", re.IGNORECASE), "timed out"),
    (re.compile(r"certificate|SSL", re.IGNORECASE), "its certificate is not valid"),
    (re.compile(r"urlopen error|getaddrinfo|resolution|refused|reset|unreachable|RemoteDisconnected", re.IGNORECASE),
     "cannot be reached"),
    (re.compile(r"decod|image|resiz|codec|aspect", re.IGNORECASE), "is no picture that can be used"),
)  # fmt: skip


def collect(made: Preparation) -> list[str]:
    """Add every finished shard of the folder to the manifest.

    returns   what is not finished, one line each: img2dataset makes those again when it is called again
    raises    DataError when there is nothing at all
    """
    stats = sorted(path for path in made.folder.glob(f"*{SUFFIX}") if not is_hidden(path.name))
    names = {path.name.removesuffix(SUFFIX) for path in stats}
    open_tars = [
        tar.name for tar in sorted(made.folder.glob("*.tar")) if not is_hidden(tar.name) and tar.stem not in names
    ]
    if not stats and not open_tars:
        raise DataError(f"{made.folder}: img2dataset has written nothing here: no *.tar, no *{SUFFIX}")
    lost = []
    for path, file in made.open_work([(f"{name}.tar", made.folder / f"{name}{SUFFIX}") for name in sorted(names)]):
        if not (made.folder / path).is_file():
            lost.append(f"{path}: is missing; remove {file.name} and call img2dataset again")
            continue
        successes, losses = read_stats(file)
        for reason, count in losses.items():
            made.skip("", reason, count=count)
        made.add(path, successes)
    return [*lost, *(f"{name}: has no {SUFFIX}; img2dataset was stopped in it" for name in open_tars)]


def read_stats(path: Path) -> tuple[int, dict[str, int]]:
    """How many links of a shard became pictures, and how many were lost for which reason."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["successes"]), losses(content["status_dict"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no statistics of img2dataset ({type(error).__name__}: {error})") from None


def losses(statuses: Mapping[str, int]) -> dict[str, int]:
    """Thousands of different messages as a few reasons."""
    counts: Counter[str] = Counter()
    for status, count in statuses.items():
        if status != "success":
            counts[reason_of(status)] += int(count)
    return dict(sorted(counts.items()))


def reason_of(status: str) -> str:
    for pattern, words in REASONS:
        if found := pattern.search(status):
            return found.expand(words)
    return "another fault of the download"
