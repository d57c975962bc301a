"""The media of evaluated items, found again in the data set of their task, and embedded within limits."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.common.seeds import stream
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import media_parts
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import SourceChoice
from chatbridge.datasets.remote_shards.permissions import no_remote_access
from chatbridge.processors.image_file import is_image, read_image
from chatbridge.report.media import embedded, mel_image

Media = tuple[tuple[str, Path | bytes], ...]  # (modality, file or its content) in reading order
PAGE_BYTES = 40_000_000  # of all media in a page
SIDE = 448  # pixels of the longer side of an embedded image
SMALL = 60_000  # bytes of an image file that is embedded as it is
QUALITY = 82  # of the JPEG that replaces a larger one


@dataclass(frozen=True, kw_only=True)
class _Source:
    source: SourceChoice


def open_dataset(node: Mapping[str, Any] | None, name: str) -> Dataset | None:
    """The data set of a task's settings; None if it cannot be opened any more. Downloads nothing."""
    try:
        source = parse(_Source, {"source": node}).source
        with no_remote_access():
            return source.part(source.config, name)
    except (ConfigError, DataError):
        return None


def media_of(dataset: Dataset, index: int) -> Media | None:
    """The media of a sample; None if it cannot be read, or a part is no file."""
    try:
        with no_remote_access():
            record = dataset.record(index, stream(0, "report", index))
    except MediaError:
        return None
    parts = list(media_parts(record.conversation))
    refs = [(part.modality, Path(part.ref) if isinstance(part.ref, str) else part.ref) for part in parts]
    media = tuple((modality, ref) for modality, ref in refs if isinstance(ref, (Path, bytes)))
    return media if len(media) == len(parts) else None


class ItemMedia:
    """Media by the line of a prediction. The data set is opened at the first question.

    node   settings of the task, from resolved.yaml
    """

    def __init__(self, node: Mapping[str, Any], name: str) -> None:
        self._node, self._name = node.get("dataset"), name

    def of(self, row: Mapping[str, Any]) -> Media:
        """The media of an item; () if it has none, or the sample is not in the data set any more.

        The id of the sample must be that of the item (or of the item that it is a variant of): an index alone would
        show the media of another sample after the data have changed.
        """
        index = self._index(row)
        return () if index is None or self._dataset is None else media_of(self._dataset, index) or ()

    @cached_property
    def _dataset(self) -> Dataset | None:
        return open_dataset(self._node, self._name) if isinstance(self._node, Mapping) else None

    def _index(self, row: Mapping[str, Any]) -> int | None:
        dataset, index, details = self._dataset, row.get("index"), row.get("details")
        if dataset is None:
            return None
        base = details.get("item") if isinstance(details, Mapping) else None
        names = [str(name) for name in (row.get("id"), base) if name is not None]
        if isinstance(index, int) and 0 <= index < len(dataset) and dataset.sample_id(index) in names:
            return index
        return next((self._index_of[name] for name in names if name in self._index_of), None)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        dataset = self._dataset
        return {} if dataset is None else {dataset.sample_id(index): index for index in range(len(dataset))}


class MediaBudget:
    """Embeds media until their bytes in the page exceed a limit; further ones are named."""

    def __init__(self, most_bytes: int = PAGE_BYTES) -> None:
        self._left = most_bytes

    def html(self, media: Media) -> str:
        """HTML of the media of an item; "" without any."""
        return "".join(self._one(modality, ref, is_repeated) for modality, ref, is_repeated in _marked(media))

    def _one(self, modality: str, ref: Path | bytes, is_repeated: bool) -> str:
        # a video with an audio track: one player, and the spectrogram of the track
        text = (
            mel_image(ref) if is_repeated and isinstance(ref, Path) else embedded(modality, small_image(modality, ref))
        )
        if len(text) > self._left:
            name = "an item of the data file" if isinstance(ref, bytes) else ref.name
            return embedded_name(name)
        self._left -= len(text)
        return text


def embedded_name(name: str) -> str:
    """HTML in place of a file that does not fit into the page."""
    return f'<p class="quiet">{html.escape(name)}: the page has no room for more media</p>'


def _marked(media: Media) -> Iterable[tuple[str, Path | bytes, bool]]:
    shown: set[Path | bytes] = set()
    for modality, ref in media:
        yield modality, ref, ref in shown
        shown.add(ref)


def small_image(modality: str, ref: Path | bytes) -> Path | bytes:
    """A JPEG of at most `SIDE` pixels in place of a larger image file; anything else as it is."""
    from PIL import Image

    try:
        size = len(ref) if isinstance(ref, bytes) else ref.stat().st_size
        if modality != "image" or size <= SMALL or not is_image(ref):
            return ref
        image = Image.fromarray(read_image(ref))
    except (MediaError, OSError, ValueError):
        return ref
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
