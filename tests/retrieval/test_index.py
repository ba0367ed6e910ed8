import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from coalign.errors import InputError
from coalign.retrieval import checksums
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import BATCH, Index

pytest.importorskip("lancedb")
pa = pytest.importorskip("pyarrow")


def vectors(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


TENS = {"1 ", "2 ", *(str(number) for number in range(10, 20))}


def filled(path: Path, rows: int = 40) -> Index:
    index = Index.create(path, 8, {"run": "tiny"})
    images = [Entry(image=f"{i}.png", thumbnail=bytes([i % 256]), meta={"größe": i}) for i in range(rows)]
    index.append(vectors(rows), images, "image")
    index.append(vectors(rows, seed=1), [Entry(text=f"text {i} 'quoted'") for i in range(rows)], "text")
    return index


def test_round_trip(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert (len(index), index.count("image"), index.count("text"), index.count("sound")) == (80, 40, 40, 0)
    assert (index.width, index.about) == (8, {"run": "tiny"})
    hit = index.search(vectors(40)[7], 1)[0][0]
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert (hit.row, hit.modality) == (7, "image")
    assert hit.entry == Entry(image="7.png", thumbnail=b"\x07", meta={"größe": 7})


def test_search_is_exact_cosine_in_order(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    queries = vectors(5, seed=2) * 3
    expected = normalize(queries, dim=1) @ normalize(vectors(40, seed=1), dim=1).T
    for found, scores in zip(index.search(queries, 6, "text"), expected, strict=True):
        best = scores.sort(descending=True)
        assert [hit.row - 40 for hit in found] == best.indices[:6].tolist()
        assert [hit.score for hit in found] == pytest.approx(best.values[:6].tolist(), abs=1e-5)
    assert len(index.search(queries[0], 1000, "image")[0]) == 40


def test_answers_are_those_that_fulfil_a_condition(tmp_path: Path) -> None:
    made = filled(tmp_path / "index")
    made.finish()
    query = vectors(1, seed=2)
    for exact in (True, False):
        index = Index.open(tmp_path / "index")  # from its copy, which knows no conditions
        (plain,) = index.search(query, 80, "text", exact=exact)
        (found,) = index.search(query, 80, "text", exact=exact, where="text LIKE 'text 1%' OR text LIKE 'text 2 %'")
        assert [hit.row for hit in found] == [hit.row for hit in plain if hit.entry.text[5:7] in TENS], exact
        made.build_approximate(partitions=4)
    (hit,) = index.search(query, 80, where="meta LIKE '%: 7}'")[0]
    assert hit.entry.image == "7.png"
    with pytest.raises(InputError, match="index"):
        index.search(query, 1, where="colour = 'red'")


def test_many_queries_at_once_get_the_answers_of_each_by_itself(tmp_path: Path) -> None:
    index = filled(tmp_path / "index", 400)
    queries = vectors(2 * BATCH + 3, seed=2)
    queries[1] = queries[0]
    asked = list[int]()
    search = index._table.search

    def counted(vector: object = None, **named: object) -> object:
        asked.append(len(vector) if isinstance(vector, list) else 1)
        return search(vector, **named)

    for exact in (True, False):
        for where in (None, "text LIKE '%1%'"):
            given = {"modality": "text", "exact": exact, "probes": 2, "where": where}
            alone = [index.search(query, 5, **given)[0] for query in queries]  # pyright: ignore[reportArgumentType]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(index._table, "search", counted)
                assert index.search(queries, 5, **given) == alone  # pyright: ignore[reportArgumentType]
            assert asked == [BATCH, BATCH, 3] and len(alone[0]) == 5
            asked.clear()
        index.build_approximate(partitions=4)


@pytest.mark.parametrize("kind", ["flat", "product"])
def test_approximate_index_finds_nearly_the_same_and_the_exact_one_stays_exact(tmp_path: Path, kind: str) -> None:
    index = Index.create(tmp_path / "index", 16)
    stored = vectors(600, 16)
    index.append(stored, [Entry()] * 600, "image")
    index.build_approximate(kind, partitions=8)  # type: ignore[arg-type]
    index.append(vectors(1, 16, seed=9), [Entry(text="late")], "image")
    queries = vectors(20, 16, seed=3)
    exact = [{hit.row for hit in found} for found in index.search(queries, 5)]
    unit = normalize(torch.cat([stored, vectors(1, 16, seed=9)]), dim=1)
    assert exact == [set(rows) for rows in (normalize(queries, dim=1) @ unit.T).topk(5).indices.tolist()]
    near = [{hit.row for hit in found} for found in index.search(queries, 5, exact=False, probes=8, refine=20)]
    assert sum(len(a & b) for a, b in zip(exact, near, strict=True)) >= 95
    assert index.search(vectors(1, 16, seed=9), 1, exact=False)[0][0].entry.text == "late"
    index.compact()
    assert len(index) == 601


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    with pytest.raises(InputError, match="is an index already"):
        Index.create(tmp_path / "index", 8)
    assert len(Index.open(tmp_path / "index")) == 80
    assert len(Index.create(tmp_path / "index", 4, overwrite=True)) == 0
    assert Index.open(tmp_path / "index").width == 4
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an index"):
        Index.create(tmp_path, 8, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_resume_goes_on_with_the_same_vectors_only(tmp_path: Path) -> None:
    about = {"run": "a", "sizes": (1, 2)}
    Index.resume(tmp_path / "index", 8, about).append(vectors(3), [Entry()] * 3, "image")
    assert Index.resume(tmp_path / "index", 8, about).count() == 3
    with pytest.raises(InputError, match="made from something else"):
        Index.resume(tmp_path / "index", 8, {"run": "b"})
    with pytest.raises(InputError, match="width was 8, is 9 now"):
        Index.resume(tmp_path / "index", 9, about)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an index"):
        Index.open(tmp_path / "nowhere")
    index = filled(tmp_path / "index", 3)
    broken = vectors(2)
    broken[1, 3] = torch.nan
    with pytest.raises(InputError, match="vector 1"):
        index.append(broken, [Entry(), Entry()], "image")
    with pytest.raises(InputError, match=r"vectors are \(2, 8\), expected \(1, 8\)"):
        index.append(vectors(2), [Entry()], "image")
    with pytest.raises(InputError, match="queries are 5 wide"):
        index.search(vectors(1, 5), 1)
    with pytest.raises(InputError, match="modality"):
        index.search(vectors(1), 1, "image' or '1'='1")
    with pytest.raises(InputError, match="too few"):
        index.build_approximate("product")
    with pytest.raises(InputError, match="k is 0"):
        index.search(vectors(1), 0)
    assert len(index) == 6


def test_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(InputError, match=r"coalign\[retrieval\]"):
        Index.create(tmp_path / "index", 8)


def test_two_indexers_at_once_are_refused(tmp_path: Path) -> None:
    with Index.writing(tmp_path / "index"):
        index = Index.create(tmp_path / "index", 8)
        index.append(vectors(2), [Entry("a"), Entry("b")], "text")
        with pytest.raises(InputError, match="another process is indexing"), Index.writing(tmp_path / "index"):
            pass
    with Index.writing(tmp_path / "index"):
        assert len(Index.open(tmp_path / "index")) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    with pytest.raises(InputError, match="is not an index"), Index.writing(tmp_path / "other"):
        pass
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes"]


def test_an_item_that_is_added_again_is_there_once(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", 8)
    entries = [Entry(f"text {n}", meta={"row": n}) for n in range(6)]
    index.append(vectors(4), entries[:4], "text")
    index.append(vectors(5), entries[1:], "text")
    again = Index.open(tmp_path / "index")
    again.append(vectors(6), entries, "text")
    again.append(vectors(6), entries, "image")
    assert again.count("text") == 6 and again.count("image") == 6
    (hits,) = again.search(vectors(1)[0], 10, "text")
    assert sorted(hit.entry.meta["row"] for hit in hits) == list(range(6))
    assert sorted(hit.row for hit in hits) == list(range(6))


def test_a_large_index_is_searched_approximately_with_a_recall_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.retrieval.index.LARGE", 500)
    index = Index.create(tmp_path / "index", 16)
    index.append(vectors(400, 16), [Entry()] * 400, "image")
    index.finish()
    assert index.approximate is None
    index.append(vectors(200, 16, seed=4), [Entry()] * 200, "image")
    index.finish()
    built = index.approximate
    assert built is not None and (built.rows, built.partitions, built.queries) == (600, 24, 100)
    assert built.recall >= 0.95 and 16 <= built.probes <= 32
    near = [{hit.row for hit in found} for found in index.search(vectors(20, 16, seed=3), 5, exact=None)]
    exact = [{hit.row for hit in found} for found in index.search(vectors(20, 16, seed=3), 5)]
    assert sum(len(a & b) for a, b in zip(near, exact, strict=True)) >= 90
    again = Index.create(tmp_path / "index", 16, overwrite=True)
    assert again.approximate is None


def test_a_flipped_bit_is_noticed_when_an_index_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "index").finish()
    files = sorted((tmp_path / "index" / "items.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    index = Index.open(tmp_path / "index")
    index.append(vectors(1, seed=5), [Entry(text="late")], "text")
    assert len(Index.open(tmp_path / "index")) == 81
    late = max((tmp_path / "index" / "items.lance" / "data").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    sound = late.read_bytes()  # of an indexing that was stopped
    late.write_bytes(sound[:100] + bytes([sound[100] ^ 4]) + sound[101:])
    with pytest.raises(InputError, match=f"{late.name}: is damaged; make the index again"):
        Index.open(tmp_path / "index")
    late.write_bytes(sound)
    sound = files[-1].read_bytes()
    for at in (100, len(sound) // 2):
        files[-1].write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        with pytest.raises(InputError, match=f"{files[-1].name}: is damaged; make the index again"):
            Index.open(tmp_path / "index")
    monkeypatch.setattr(checksums, "MOST", 0)
    Index.open(tmp_path / "index")  # of a large one no more is read than this
    files[-1].write_bytes(sound)
    monkeypatch.undo()
    Index.open(tmp_path / "index").finish()
    (tmp_path / "index" / "checksums.json").write_text("[]")
    with pytest.raises(InputError, match=r"checksums.json: is damaged"):
        Index.open(tmp_path / "index")
    assert len(Index.create(tmp_path / "index", 8, overwrite=True)) == 0
    Index.open(tmp_path / "index")


def test_an_index_that_was_killed_while_it_was_made_is_made_and_lost_versions_are_not_taken_for_one(
    tmp_path: Path,
) -> None:
    begun = tmp_path / "begun" / "items.lance" / "_transactions"
    begun.mkdir(parents=True)
    (begun / "0.txn").touch()
    with Index.writing(tmp_path / "begun"):
        assert len(Index.resume(tmp_path / "begun", 8, {})) == 0
    filled(tmp_path / "index")
    shutil.rmtree(tmp_path / "index" / "items.lance" / "_versions")
    with pytest.raises(InputError, match="is not an index"), Index.writing(tmp_path / "index"):
        pass


def test_a_small_index_is_read_from_its_copy_as_from_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = filled(tmp_path / "index")
    queries = vectors(3, seed=2)

    def answers(index: Index) -> list[object]:
        hits = [[(h.row, h.modality, h.entry) for h in found] for found in index.search(queries, 7, exact=None)]
        table = index.columns(["text", "meta"], "text").to_pylist()
        return [hits, table, index.vectors("image", 5).tolist(), index.count("text"), index.thumbnails([3, 50, 99])]

    expected = answers(live)
    live.finish()
    with monkeypatch.context() as without:
        without.setattr("coalign.retrieval.index._lancedb", lambda *_: pytest.fail("the table was opened"))
        copied = Index.open(tmp_path / "index")
        assert answers(copied) == expected
        scores = [hit.score for hit in copied.search(queries[0], 7, "image")[0]]
    assert scores == pytest.approx([hit.score for hit in live.search(queries[0], 7, "image")[0]], abs=1e-5)
    copied.append(vectors(1, seed=5), [Entry(text="late")], "text")
    for index in (copied, Index.open(tmp_path / "index")):  # the copy is of the rows before
        (hit,) = index.search(vectors(1, seed=5)[0], 1, "text")[0]
        assert (hit.entry.text, hit.row, len(index)) == ("late", 80, 81)
    copied.finish()
    assert len(list((tmp_path / "index").glob("*.arrow"))) == 1
    assert len(Index.open(tmp_path / "index")) == 81


def test_a_copy_with_offsets_that_lead_elsewhere_is_left_for_the_table(tmp_path: Path) -> None:
    live = filled(tmp_path / "index")
    live.finish()
    expected = live.columns(["text"], "text").to_pylist()
    (copy,) = (tmp_path / "index").glob("*.arrow")
    offsets = pa.ipc.open_file(copy).read_all().column("text").combine_chunks().buffers()[1].to_pybytes()
    beyond = (np.frombuffer(offsets, np.int32) + np.int32(1 << 28)).tobytes()
    content = copy.read_bytes()
    assert offsets in content
    copy.write_bytes(content.replace(offsets, beyond))
    (tmp_path / "index" / "checksums.json").unlink()
    assert Index.open(tmp_path / "index").columns(["text"], "text").to_pylist() == expected


def test_a_copy_without_rows_of_a_modality_answers_as_the_table_does(tmp_path: Path) -> None:
    live = Index.create(tmp_path / "index", 8, {})
    live.append(vectors(3), [Entry(f"{n}.png", meta={"n": n}) for n in range(3)], "image")
    live.finish()
    copied = Index.open(tmp_path / "index")
    assert copied.search(vectors(1)[0], 2, "text") == [[]]
    assert (copied.count("text"), copied.vectors("text", 5).shape, copied.thumbnails([7])) == (0, (0, 8), {})
    assert copied.columns(["text"], "text").to_pylist() == []
    assert len(copied.search(vectors(1)[0], 2, "image")[0]) == 2


def test_rows_are_deleted_by_a_condition_and_the_others_numbered_anew(tmp_path: Path) -> None:
    made = filled(tmp_path / "index")
    made.finish()
    assert made.delete("text = 'nothing'") == 0
    query = vectors(40)[7]
    with Index.writing(tmp_path / "index"):
        live = Index.open(tmp_path / "index")
        assert live.delete("image = '7.png' OR text LIKE 'text 3%'") == 12  # rows without a text are no such rows
        live.finish()
    for index in (live, Index.open(tmp_path / "index")):
        assert (len(index), index.count("image"), index.about) == (68, 39, {"run": "tiny"})
        table = index.columns(["text", "image", "thumbnail"]).to_pylist()
        assert [row["row"] for row in table] == list(range(68))
        images = [number for number in range(40) if number != 7]
        assert [(row["image"], row["thumbnail"]) for row in table[:39]] == [(f"{n}.png", bytes([n])) for n in images]
        hit = index.search(vectors(40)[20], 1, "image")[0][0]
        assert (hit.row, hit.entry.image, index.thumbnail(19)) == (19, "20.png", bytes([20]))
        assert all(hit.entry.image != "7.png" for hit in index.search(query, 68)[0])
    live.append(vectors(1), [Entry(image="7.png", meta={"größe": 7})], "image")  # it is new again
    assert live.columns(["image"]).to_pylist()[-1] == {"row": 68, "image": "7.png"}
    with pytest.raises(InputError, match="index"):
        live.delete("colour = 'red'")
    assert len(live) == 69
    assert live.delete("row >= 0") == 69 and len(live) == 0


@pytest.mark.parametrize("digests", [True, False])
def test_a_pipe_among_the_files_is_refused_and_not_waited_for(tmp_path: Path, digests: bool) -> None:
    made = filled(tmp_path / "index")
    if digests:
        made.finish()
    file = next((tmp_path / "index" / "items.lance" / "data").iterdir())
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=f"{file.name}: is a pipe or a device"):
        Index.open(tmp_path / "index")


def test_a_folder_that_the_library_takes_for_damaged_is_refused(tmp_path: Path) -> None:
    for name in ("a\x1b[31m", "a\n", os.fsdecode(b"caf\xe9")):
        with pytest.raises(InputError, match="takes no folder with control characters"):
            Index.create(tmp_path / name, 4)
    assert not [*tmp_path.iterdir()]
    Index.create(tmp_path / "caf\u00e9 \u202e", 4)


def test_an_index_that_finds_no_room_says_so_and_keeps_its_rows(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", 4)
    index.append(torch.eye(4), [Entry(f"t{n}", meta={"n": n}) for n in range(4)], "text")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limit[1]))
        with pytest.raises(InputError, match=r"index: cannot be written: .*added before are whole"):
            index.append(torch.eye(4), [Entry("x" * 999, meta={"m": n}) for n in range(4)], "text")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(Index.open(tmp_path / "index")) == 4
