"""Operations of a fusion's layers inside the language model, in which text reads media."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.models.flops_parts import Flops, LinearLayers, is_trainable
from chatbridge.models.fusion import Reader


@dataclass(frozen=True)
class MediaTokens:
    """The media of a batch.

    count         bridge tokens of all items
    has_gradient  whether a gradient flows to them
    """

    count: int
    has_gradient: bool


class ReaderCost:
    """Operations of one layer. Rows are counted as if their media were equally many: rows with fewer are filled up, and
    what that costs is not work of the model."""

    def __init__(self, reader: Reader) -> None:
        self.layer = reader.layer
        self.query, self.key_value, self.output = (
            LinearLayers.of_modules([inner for part in parts for inner in part.modules()])
            for parts in (reader.query, reader.key_value, reader.output)
        )
        self.width = reader.width

    def __call__(self, rows: int, length: int, media: MediaTokens, has_gradient: bool) -> tuple[Flops, bool]:
        """The operations for `rows` sequences of `length` positions, and whether a gradient flows to what they give.

        has_gradient   whether one flows to the text
        """
        query, key_value = self.query(has_gradient) * (rows * length), self.key_value(media.has_gradient) * media.count
        trains_query = has_gradient or self.query.is_trainable
        trains_media = media.has_gradient or self.key_value.is_trainable
        product = 2.0 * self.width * length * media.count  # queries times keys, or probabilities times values
        is_any = trains_query or trains_media
        scores = Flops(2 * product, product * (is_any + trains_query + 2 * trains_media))
        output = self.output(is_any) * (rows * length)
        total = query + key_value + scores + output
        trains = is_any or is_trainable(self.layer)
        repeated = self.query.products + self.output.products[:-1]
        again = (
            sum(cost for cost, _ in repeated) * rows * length + sum(c for c, _ in self.key_value.products) * media.count
        )
        return total + Flops(repeated=(again + 2 * product) * trains), trains


__all__ = ["MediaTokens", "ReaderCost"]
