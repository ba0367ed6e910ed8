"""What an index names is read where it lies in the folders that the index was made from, or that the user names."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from coalign.cli.commands.search import _contact_sheet
from coalign.data.core.samples import Grouped, InMemory
from coalign.data.images.decode import BadSample
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.files import outside_paths
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Hit, Index
from coalign.retrieval.index_files import IndexFiles, folders_of
from coalign.retrieval.moments import picture_of_moment
from coalign.retrieval.search import picture_of


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    return str(path)


@pytest.fixture
def places(tmp_path):
    """A picture in the data's folder, one outside, and a link in the folder that leads to it."""
    own, other = picture(tmp_path / "data" / "own.png"), picture(tmp_path / "private" / "other.png")
    link = tmp_path / "data" / "link.png"
    link.symlink_to(other)
    return own, other, str(link)


def test_files_stay_in_the_folders_that_the_index_was_made_from(places, tmp_path):
    own, other, link = places
    files = IndexFiles(tmp_path / "index", {"folders": [str(tmp_path / "data")]})
    assert files.checked(own) == own and files.checked(None) is None and files.refusal("") == ""
    for path in (other, link, str(tmp_path / "data" / ".." / "private" / "other.png"), "/etc/hostname"):
        with pytest.raises(BadSample, match=r"leads out of .*--images FOLDER"):
            files.checked(path)
    with outside_paths():
        assert IndexFiles(tmp_path / "index", {}).checked(other) == other
    named = IndexFiles(tmp_path / "index", {"folders": [str(tmp_path / "data")]}, tmp_path / "private")
    assert named.checked(other) == other and named.refusal(own)
    with pytest.raises(InputError, match="no such folder"):
        IndexFiles(tmp_path / "index", {}, tmp_path / "nowhere")


def test_an_index_that_lists_no_folders_has_those_of_its_data(places, tmp_path):
    own, other, _ = places
    (tmp_path / "data" / "pairs.csv").write_text("image,text\n")
    for data in ("data/pairs.csv", "data", "data/gone.csv"):
        files = IndexFiles(tmp_path / "index", {"data": str(tmp_path / data)})
        assert files.checked(own) == own and files.refusal(other)
    beside = picture(tmp_path / "index" / "kept.png")
    assert IndexFiles(tmp_path / "index", {}).checked(beside) == beside


@pytest.mark.parametrize("claimed", ["/", "HOME/..", "HOME/../.."])
def test_an_index_cannot_claim_everything(places, tmp_path, claimed, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "private"))
    claimed = claimed.replace("HOME", str(tmp_path / "private"))
    for about in ({"folders": [claimed]}, {"data": claimed}, {"folders": ["\0", claimed]}, {"folders": "/"}):
        assert IndexFiles(tmp_path / "index", about).refusal(places[1]), about


def test_a_source_says_where_its_files_lie(places, tmp_path):
    own, other, _ = places
    (tmp_path / "data" / "pairs.csv").write_text("image,text\nown.png,a\nown.png,b\n")
    data, private = str(tmp_path / "data"), str(tmp_path / "private")
    source = open_source(tmp_path / "data" / "pairs.csv")
    assert folders_of(source) == folders_of(source.grouped()) == {"folders": [data]}
    assert isinstance(source.grouped(), Grouped)
    with_images = open_source(tmp_path / "data" / "pairs.csv", images=private)
    assert folders_of(with_images) == {"folders": [private, data]}
    assert folders_of(InMemory([(own, "a"), (other, "b"), (torch.zeros(3, 8, 8), "c")])) == {"folders": [data, private]}
    many = InMemory([(str(tmp_path / f"{n}" / "a.png"), "a") for n in range(100)])
    assert folders_of(many) == {"folders": [str(tmp_path)]}


def test_a_contact_sheet_shows_no_picture_from_outside(places, tmp_path):
    own, other, _ = places
    index = Index.create(tmp_path / "index", 2, {"folders": [str(tmp_path / "data")]})
    hits = [Hit(1.0, row, "image", Entry("a", path)) for row, path in enumerate((own, other))]
    assert picture_of(index, hits[0].entry) == own
    with pytest.raises(BadSample, match="leads out of"):
        _contact_sheet(tmp_path, "words", hits, lambda entry: picture_of(index, entry))
    assert not (tmp_path / "searches").exists()
    moment = Entry(None, None, b"kept", {"video": str(tmp_path / "private" / "film.mp4"), "start": 0.0, "end": 1.0})
    assert picture_of_moment(index, moment) == b"kept"


def test_folders_are_nothing_that_an_index_was_made_from(tmp_path):
    """Rows are added to an index of an older version, and to one whose pictures were moved."""
    about = {"data": "pairs.csv"}
    Index.create(tmp_path / "index", 2, about)
    assert Index.resume(tmp_path / "index", 2, {**about, "folders": ["/new"]}).about == about
    Index.create(tmp_path / "index", 2, {**about, "folders": ["/old"]}, overwrite=True)
    assert Index.resume(tmp_path / "index", 2, {**about, "folders": ["/new"]}).about["folders"] == ["/old"]
    with pytest.raises(InputError, match="data was"):
        Index.resume(tmp_path / "index", 2, {"data": "others.csv", "folders": ["/old"]})


def test_rows_of_tables_from_outside_are_not_read(places, tmp_path):
    from coalign.serve.gallery import IndexGallery

    for folder in ("data", "private"):
        lines = [json.dumps({"image": "own.png", "text": f"t{n}", "kind": f"{folder} {n % 2}"}) for n in range(4)]
        (tmp_path / folder / "pairs.jsonl").write_text("\n".join(lines))
    own, other, _ = places
    for folder, kinds in (("data", ["data 0", "data 1", "data 0", "data 1"]), ("private", None)):
        index = Index.create(tmp_path / "index", 2, {"folders": [str(tmp_path / "data")]}, overwrite=True)
        where = [{"file": str(tmp_path / folder / "pairs.jsonl"), "row": n + 1} for n in range(4)]
        entries = [Entry(f"t{n}", own if n else other, meta=where[n]) for n in range(4)]
        index.append(torch.ones(4, 2), entries, "image")
        gallery = IndexGallery(Index.open(tmp_path / "index"))
        assert gallery.columns.get("kind") == kinds
        assert gallery.pictures([0, 1, 2]) == [None, own, own]
        assert "1 of the first 4 rows" in gallery.refusal() and other in gallery.refusal()
        for call in (gallery.picture, lambda row, gallery=gallery: gallery.hit(row, 1.0)):
            with pytest.raises(BadSample, match="leads out of"):
                call(0)


def test_pairs_in_memory_from_many_folders_keep_those_above_them_that_are_not_broad(tmp_path):
    places = [tmp_path / f"{'ab'[n % 2]}/{n}/x.png" for n in range(2 * 70)]
    (kept,) = folders_of(InMemory([(str(place), "a") for place in (*places, "https://host/x.png")])).values()
    assert kept == [str(tmp_path / "a"), str(tmp_path / "b")]
    far = [f"/{name}{n}/x.png" for name in "ab" for n in range(70)]  # each right below the root
    (kept,) = folders_of(InMemory([(place, "a") for place in far])).values()
    assert len(kept) == 140
