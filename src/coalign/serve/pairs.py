"""A text and a picture whose alignment is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coalign.analysis.runs.maps import Maps, deletion, explain
from coalign.errors import InputError
from coalign.serve.sessions import Session


@dataclass(frozen=True, eq=False)
class Pair:
    """A text and a picture of one's own, or a row of `source`; `words` are the numbers of some of the text's."""

    session: Session
    source: Session
    text: str
    row: int | None
    data: bytes | None
    method: str
    words: tuple[int, ...] = ()

    def inputs(self) -> dict[str, Any]:
        """Arguments of `explain` and `deletion` besides the model."""
        said = {"text": self.text, "method": self.method}
        if self.row is None:
            return {**said, "picture": self.data}
        gallery = self.source.gallery
        try:
            regions = gallery.regions(self.row)
        except KeyError:
            raise InputError(f"there are no regions of the picture in row {self.row}") from None
        return {**said, "picture": gallery.picture(self.row), "regions": regions, "clip": gallery.clip(self.row)}


def explained(pair: Pair) -> tuple[Maps, float | None]:
    """The maps of a pair, and its P(match) by the run's own index."""
    inputs = pair.inputs()
    own = pair.row if pair.source is pair.session else None
    return explain(pair.session.loaded, **inputs), pair.session.chances.of_pair(pair.text, own, inputs["picture"])


def deleted(pair: Pair) -> dict[str, list[float]]:
    return deletion(pair.session.loaded, **pair.inputs(), words=pair.words)
