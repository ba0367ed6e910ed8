"""Attention between the streams of an utterance (MulT), as a browser draws it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coalign.analysis.runs.stream_attention import directions
from coalign.errors import InputError
from coalign.evaluation.series import SeriesRun

SPLITS = ("test", "valid", "train")


class Streams:
    """The utterances of one run, opened when they are first wanted."""

    def __init__(self, run: Path, data: str | None) -> None:
        self._run, self._data = run, data
        self._opened: SeriesRun | None = None
        self._lock = threading.Lock()

    @property
    def opened(self) -> SeriesRun:
        """Raises InputError where no data was given, or data of another kind."""
        if self._data is None:
            raise InputError(f"{self._run}: reads utterances; give the data of its training with --data")
        with self._lock:
            if self._opened is None:
                self._opened = SeriesRun.open(self._run, self._data)
            return self._opened

    @torch.no_grad()
    def attention(self, number: int) -> tuple[dict[str, Any], bytes]:
        """The description of one utterance, and its attention as bytes: direction by direction, uint8 [layers, heads,
        rows of the target, rows of the source], 255 standing for the direction's greatest value (`most`).

        Raises:
            InputError: There is no such utterance, or the model has no attention between streams.
        """
        opened = self.opened
        items = next((utterances for split in SPLITS if (utterances := opened.data.split(split))), [])
        if not 0 <= number < len(items):
            raise InputError(f"there is no utterance {number}; the split has {len(items)}")
        item, model = items[number], opened.model
        encoder: Any = model
        batch = opened.collate([item]).to(next(model.parameters()).device)
        maps = directions(encoder.encode(batch, record=True).record)
        assert batch.series is not None
        lengths = {name: int(rows.layout.lengths[0]) for name, rows in batch.series.streams.items()}
        parts: list[bytes] = []
        listed: list[dict[str, Any]] = []
        for (target, source), weights in maps.items():
            own = weights[:, 0, :, : lengths[target], : lengths[source]].float().cpu().numpy()
            most = float(own.max(initial=0.0)) or 1.0
            parts.append(np.rint(own / most * 255).astype(np.uint8).tobytes())
            layers, heads = own.shape[:2]
            listed.append({"target": target, "source": source, "layers": layers, "heads": heads, "most": most})
        said = {"item": number, "count": len(items), "id": str(item.id), "words": list(item.words or ())}
        return {**said, "streams": lengths, "directions": listed}, b"".join(parts)
