import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from colours import COLOURS, TOKENIZER, ColourModel, write_table
from PIL import Image

from coalign.data.loaded import Loaded
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Index
from coalign.retrieval.querybank import Querybank
from coalign.retrieval.rerank import Reranking
from coalign.retrieval.search import embed_pairs, index_pairs, search, usual_similarity
from coalign.retrieval.vector_table import vector_table


@pytest.fixture
def loaded():
    return Loaded(ColourModel().eval(), TOKENIZER)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def build(run, loaded, source, **options):
    return index_pairs(run, loaded, source, run / "index", **options)


def test_a_text_finds_images_and_reranking_mends_the_order(run, loaded, tmp_path):
    source = open_source(write_table(tmp_path))
    assert build(run, loaded, source) == {"image": 3, "text": 3}
    index = Index.open(run / "index")
    plain = search(loaded, index, "a red thing", 2)
    assert [hit.entry.text for hit in plain] == ["a green thing", "a red thing"]
    assert plain[0].score == pytest.approx(0.8) and plain[0].modality == "image"
    mended = search(loaded, index, "a red thing", 1, reranking=Reranking(3, 1.0))
    assert [hit.entry.text for hit in mended] == ["a red thing"]
    assert mended[0].score == pytest.approx(0.6 + F.logsigmoid(torch.tensor(4.0)).item())
    assert mended[0].entry.image == str(tmp_path / "red.png") and mended[0].entry.meta["row"] == 2


def test_a_hub_stands_back_when_the_best_are_scored_again(run, loaded, tmp_path):
    build(run, loaded, open_source(write_table(tmp_path)))
    bank = Querybank(torch.eye(3), torch.tensor([[0.0, 1.0, 0.0]]))  # training texts are all near to green
    index, nothing = Index.open(run / "index"), Reranking(3, 0.0)
    first = search(loaded, index, "a red thing", 3, reranking=nothing)
    assert [round(hit.score, 3) for hit in first] == [0.8, 0.6, 0.0]
    held_back = search(loaded, index, "a red thing", 3, reranking=replace(nothing, hubness=0.5, bank=bank))
    assert [(hit.entry.text, round(hit.score, 3)) for hit in held_back[:2]] == [
        ("a red thing", 0.6),
        ("a green thing", 0.3),
    ]


def test_what_is_near_is_what_is_usual_in_the_index(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(60, 8, generator=generator), dim=1)
    texts = F.normalize(images + 0.1 * torch.randn(60, 8, generator=generator), dim=1)
    index = Index.create(tmp_path / "index", 8)
    index.append(images, [Entry()] * 60, "image")
    assert usual_similarity(index, "text", "image") is None  # no texts to say it by
    index.append(texts, [Entry()] * 60, "text")
    usual = usual_similarity(index, "text", "image")
    own = (texts @ images.T).amax(1)
    assert usual == pytest.approx(own.quantile(0.02).item(), abs=1e-5) and usual > 0.8
    (hits,) = index.search(texts[7], 3, "image")
    assert hits[0].similarity >= usual
    far = torch.linalg.svd(images.double()).Vh[-1].float()  # a direction that the images have least of
    (hits,) = index.search(far, 3, "image")
    assert hits[0].similarity == hits[0].score < usual
    others = images @ images.T - 2 * torch.eye(60)
    assert usual_similarity(index, "image", "image") == pytest.approx(others.amax(1).quantile(0.02).item(), abs=1e-5)


def test_a_picture_finds_texts_or_pictures(run, loaded, tmp_path):
    build(run, loaded, open_source(write_table(tmp_path)))
    index, query = Index.open(run / "index"), tmp_path / "blue.png"
    assert search(loaded, index, query, 1, answers="image")[0].entry.text == "a blue thing"
    (hit,) = search(loaded, index, query, 1, answers="text", reranking=Reranking(3, 1.0))
    assert (hit.entry.text, hit.modality) == ("a blue thing", "text")
    with pytest.raises(InputError, match="images with each other"):
        search(loaded, index, query, 1, answers="image", reranking=Reranking())


def test_an_index_is_not_built_twice_and_knows_what_it_was_made_of(run, loaded, tmp_path):
    source = open_source(write_table(tmp_path))
    build(run, loaded, source)
    before = len(loaded.model.encoded)
    assert build(run, loaded, source) == {"image": 0, "text": 0}
    assert len(loaded.model.encoded) == before + 1  # the word that tells the width
    (run / "model.safetensors").write_bytes(b"weights of a longer training")
    with pytest.raises(InputError, match="overwrite"):
        build(run, loaded, source)
    assert build(run, loaded, source, overwrite=True) == {"image": 3, "text": 3}
    assert len(Index.open(run / "index")) == 6


def test_pictures_that_are_no_files_are_kept_as_thumbnails(run, loaded):
    pictures = {name: Image.new("RGB", (300, 100), colour) for name, colour in COLOURS.items()}
    source = open_source([(picture, f"a {name} thing") for name, picture in pictures.items()])
    build(run, loaded, source)
    index = Index.open(run / "index")
    (hit,) = search(loaded, index, "green", 1, reranking=Reranking(3, 1.0))
    assert hit.entry.image is None and hit.entry.thumbnail[:4] == b"\x89PNG"
    assert hit.entry.text == "a green thing"


def test_the_vectors_as_a_table(loaded, tmp_path):
    source = open_source(write_table(tmp_path, {"red": ["red", "a red thing"]}))
    out = tmp_path / "vectors.parquet"
    with vector_table(out, 3) as table:
        assert not out.exists()
        assert embed_pairs(loaded, source, table, batch_size=2) == {"image": 3, "text": 4}
    rows = pq.read_table(out).to_pylist()
    assert [row["modality"] for row in rows] == ["image"] * 3 + ["text"] * 4
    assert [row["text"] for row in rows[3:]] == ["red", "a red thing", "a green thing", "a blue thing"]
    assert rows[0]["vector"] == pytest.approx([1, 0, 0]) and rows[4]["vector"] == pytest.approx([0.6, 0.8, 0], abs=1e-5)
    assert json.loads(rows[1]["meta"])["row"] == 4


def test_a_table_that_fails_half_way_is_not_there(loaded, tmp_path):
    out = tmp_path / "vectors.parquet"
    with pytest.raises(RuntimeError), vector_table(out, 3) as table:
        table.append(torch.ones(0, 3), [], "image")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
