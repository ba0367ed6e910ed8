"""A corpus embedded by parts: killed, started again, joined, and the same as in one go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Index
from coalign.retrieval.parts import Parts
from coalign.retrieval.search import index_pairs
from coalign.retrieval.vector_table import join_tables, vector_table

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
    assert (
        parts.join_table(table, first) == 6 == parts.join_table(table, second)
        and "thumbnail" not in pq.read_schema(table).names
    )
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


WIDTH = 3


def made(folder: Path, weights: str = "a") -> Parts:
    """Two parts of two rows each, one row of which is in both."""
    parts = Parts(folder / "index.parts", {"weights": weights})
    for number in range(2):
        file = Part(number, 2).file(parts.folder, ".parquet")
        with vector_table(file, WIDTH, thumbnails=True, about=parts.about) as table:
            entries = [Entry(image=f"{n}.png", meta={"n": n}) for n in (number, number + 1)]
            table.append(torch.eye(WIDTH)[[number, number + 1]], entries, "image")
    return parts


def test_parts_are_not_joined_onto_what_is_there_and_no_row_is_lost(tmp_path: Path, monkeypatch: Any) -> None:
    parts, path = made(tmp_path), tmp_path / "index"
    stopped = Index.create(path, WIDTH, parts.about)
    stopped.append(torch.eye(WIDTH)[:1], [Entry(image="0.png", meta={"n": 0})], "image")
    with pytest.raises(InputError, match=r"holds 1 rows that were not joined .*--overwrite"):
        parts.join_index(path, WIDTH, Part(0, 2))
    assert parts.join_index(path, WIDTH, Part(0, 2), overwrite=True) == 3
    others = made(tmp_path, "b")
    with pytest.raises(InputError, match="weights was a, is b now"):
        others.join_index(path, WIDTH, Part(0, 2))
    assert others.join_index(path, WIDTH, Part(1, 2), overwrite=True) == 3
    monkeypatch.setattr(Index, "append_files", None)  # the other process, of the same parts, joins nothing
    assert others.join_index(path, WIDTH, Part(0, 2), overwrite=True) == 3


def test_a_join_that_was_killed_before_or_after_its_commit_is_ended(tmp_path: Path, monkeypatch: Any) -> None:
    parts, path = made(tmp_path), tmp_path / "index"
    finished: list[int] = []
    for killed in ("append_files", "finish"):
        with monkeypatch.context() as patch:

            def die(index: Index, *given: Any) -> None:
                if given:
                    given[1](3)  # what is kept before the commit
                raise KeyboardInterrupt

            patch.setattr(Index, killed, die)
            with pytest.raises(KeyboardInterrupt):
                parts.join_index(path, WIDTH, Part(0, 2))
        assert Index.open(path).count() == (0 if killed == "append_files" else 3)
    finish = Index.finish
    monkeypatch.setattr(Index, "finish", lambda index: finished.append(index.count()) or finish(index))
    assert parts.join_index(path, WIDTH, Part(0, 2)) == 3 and finished == [3]


def test_two_processes_that_see_all_parts_join_them_once(tmp_path: Path) -> None:
    parts, path = made(tmp_path), tmp_path / "index"
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda n: parts.join_index(path, WIDTH, Part(n, 2)), range(2))) == [3, 3]


def test_old_parts_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    old = made(tmp_path)
    assert len(old.there(Part(0, 2))) == 2 and Parts(old.folder, {"weights": "b"}).there(Part(0, 2)) == []
    table = tmp_path / "t.parquet"
    assert old.join_table(table, Part(0, 2)) == 4 == old.join_table(table, Part(1, 2))
    with pytest.raises(InputError, match=r"t.parquet: of other data"):
        made(tmp_path, "b").join_table(table, Part(0, 2))
    assert made(tmp_path, "b").join_table(table, Part(0, 2), overwrite=True) == 4


def test_a_part_with_a_flipped_bit_is_named_and_not_joined(tmp_path: Path) -> None:
    parts = [tmp_path / f"{number}.parquet" for number in range(2)]
    for part in parts:
        with vector_table(part, 4, thumbnails=True) as table:
            table.append(torch.eye(4), [Entry(f"{part.stem} {n}", meta={"n": n}) for n in range(4)], "text")
    column = pq.read_metadata(parts[1]).row_group(0).column(5)
    data = bytearray(parts[1].read_bytes())
    begins = column.dictionary_page_offset or column.data_page_offset
    data[begins + column.total_compressed_size - 2] ^= 4
    parts[1].write_bytes(data)
    index = Index.create(tmp_path / "index", 4, {})
    for join in (lambda: index.append_files(parts), lambda: join_tables(tmp_path / "all.parquet", parts, {})):
        with pytest.raises(InputError, match=r"1\.parquet: .*CRC"):
            join()
    assert index.count() == 0 and not (tmp_path / "all.parquet").exists()
