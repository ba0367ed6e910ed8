"""A corpus embedded by parts: killed, started again, joined, and the same as in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from colours import TOKENIZER, ColourModel, write_table

from coalign.data.core.parts import Part
from coalign.data.loaded import Loaded
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.retrieval.index import Index
from coalign.retrieval.parts import Parts
from coalign.retrieval.search import index_pairs

pytest.importorskip("lancedb")


class Dying(ColourModel):
    """A model whose process is killed at the texts."""

    def encode(self, batch: Any, *, record: bool = False) -> Any:
        if batch.text is not None:
            raise KeyboardInterrupt
        return super().encode(batch, record=record)


def test_parts_that_are_killed_and_started_again_make_the_index_of_one_go(tmp_path: Path) -> None:
    run, loaded = tmp_path / "run", Loaded(ColourModel().eval(), TOKENIZER)
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"weights")
    source = open_source(write_table(tmp_path))
    index_pairs(run, loaded, source, run / "whole")
    parts = Parts.beside(run / "index", run, source)
    first, second = Part(0, 2), Part(1, 2)
    assert parts.embed(loaded, source, first) == {"image": 1, "text": 1}
    with pytest.raises(KeyboardInterrupt):
        parts.embed(Loaded(Dying().eval(), TOKENIZER), source, second)
    assert parts.there(first) == [first.file(parts.folder, ".parquet")]
    with pytest.raises(InputError, match="part-00001"):
        parts.join_index(run / "index", 3, second)
    assert parts.embed(loaded, source, second) == {"image": 2, "text": 2}
    assert parts.embed(Loaded(Dying().eval(), TOKENIZER), source, first) == {"image": 0, "text": 0}  # passed over
    assert parts.join_index(run / "index", 3, second) == parts.join_index(run / "index", 3, first) == 6
    joined, whole = Index.open(run / "index"), Index.open(run / "whole")
    assert joined.about == whole.about
    for modality in ("image", "text"):
        assert torch.equal(joined.vectors(modality, 9), whole.vectors(modality, 9))
        kept = [index.columns(["text", "image", "meta"], modality).drop(["row"]) for index in (joined, whole)]
        assert kept[0].equals(kept[1])
    assert joined.columns([]).column("row").to_pylist() == list(range(6))
    table = tmp_path / "vectors.parquet"
    assert parts.join_table(table, first) == 6 and "thumbnail" not in pq.read_schema(table).names
    (run / "model.safetensors").write_bytes(b"others")
    with pytest.raises(InputError, match="overwrite"):
        Parts.beside(run / "index", run, source).embed(loaded, source, first)


def test_a_part_is_given_or_is_torchruns() -> None:
    assert Part.chosen("3/16", {}) == Part(3, 16)
    assert Part.chosen(None, {"RANK": "1", "WORLD_SIZE": "4"}) == Part(1, 4)
    assert Part.chosen(None, {}) is None and Part.chosen(None, {"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert [list(Part(n, 3).span(7)) for n in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    for wrong in ("3", "3/3", "a/b", "-1/2"):
        with pytest.raises(InputError, match="--part"):
            Part.parse(wrong)
