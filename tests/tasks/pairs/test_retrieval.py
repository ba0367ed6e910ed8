import json
from dataclasses import replace

import pytest
import torch
from colours import TOKENIZER, ColourModel, write_table

from coalign.data.loaded import Loaded
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.retrieval.querybank import Querybank
from coalign.retrieval.rerank import Reranking
from coalign.tasks.pairs.retrieval import evaluate_pairs
from coalign.types import Model

BOTH = ("image_to_text", "text_to_image")


@pytest.fixture
def loaded():
    return Loaded(ColourModel().eval(), TOKENIZER)


def test_recall_by_vectors_after_reranking_and_by_chance(loaded, tmp_path):
    result = evaluate_pairs(loaded, open_source(write_table(tmp_path)), reranking=Reranking(3, 1.0), cuts=(1, 2))
    assert (result.images, result.texts, result.left_out) == (3, 3, 0)
    for direction in BOTH:
        assert result.rows["model"][direction] == {"R@1": 0.0, "R@2": 1.0}
        assert result.rows["reranked"][direction] == {"R@1": 1.0, "R@2": 1.0}
        assert result.rows["chance"][direction] == pytest.approx({"R@1": 1 / 3, "R@2": 2 / 3})


def test_the_weight_and_the_length_of_the_shortlist_matter(loaded, tmp_path):
    source = open_source(write_table(tmp_path))
    no_weight = evaluate_pairs(loaded, source, reranking=Reranking(3, 0.0), cuts=(1,))
    assert no_weight.rows["reranked"] == no_weight.rows["model"]
    # the right answer is second by similarity: a shortlist of one cannot bring it up, nor 4 · 0.04 < 0.8 - 0.6
    assert evaluate_pairs(loaded, source, reranking=Reranking(1, 1.0)).rows["reranked"]["image_to_text"]["R@1"] == 0
    assert evaluate_pairs(loaded, source, reranking=Reranking(3, 0.04)).rows["reranked"]["image_to_text"]["R@1"] == 0
    assert evaluate_pairs(loaded, source, reranking=Reranking(3, 0.06)).rows["reranked"]["image_to_text"]["R@1"] == 1


def test_texts_may_outnumber_images(loaded, tmp_path):
    texts = {"red": ["red", "a red thing", "thing red"], "green": ["green"]}
    source = open_source(write_table(tmp_path, texts))
    result = evaluate_pairs(loaded, source, reranking=Reranking(5, 1.0), batch_size=2, cuts=(1, 2))
    assert (result.images, result.texts) == (3, 5)
    assert result.rows["reranked"]["text_to_image"]["R@1"] == 1
    # of five texts, red has three: two random ones miss all of them once in ten times
    assert result.rows["chance"]["image_to_text"]["R@2"] == pytest.approx((0.9 + 0.4 + 0.4) / 3)
    assert result.rows["chance"]["text_to_image"]["R@2"] == pytest.approx(2 / 3)
    assert loaded.model.encoded.count("image") == 3 and loaded.model.encoded.count("text") == 5  # each once


def test_images_with_the_same_text_answer_each_other(loaded, tmp_path):
    texts = {"red": ["a green thing"], "green": ["a green thing"], "blue": ["a blue thing"]}
    result = evaluate_pairs(loaded, open_source(write_table(tmp_path, texts)), cuts=(1,))
    # the text's vector is nearest to blue, then to green; of the images, red is nearest to blue's text
    assert result.repeated == 2 and result.to_json()["repeated"] == 2
    assert result.rows["chance"]["text_to_image"]["R@1"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert "2 images have the same texts as another" in result.table()
    apart = {"red": ["a red thing"], "green": ["a green thing"], "blue": ["a blue thing"]}
    plain = evaluate_pairs(loaded, open_source(write_table(tmp_path, apart)), cuts=(1,))
    assert plain.repeated == 0 and "the same texts" not in plain.table()
    mended = evaluate_pairs(loaded, open_source(write_table(tmp_path, texts)), reranking=Reranking(3, 1.0), cuts=(1,))
    assert mended.rows["reranked"]["text_to_image"]["R@1"] == 1


def test_what_cannot_be_read_is_left_out_and_counted(loaded, tmp_path):
    result = evaluate_pairs(loaded, open_source(write_table(tmp_path, broken=2)))
    assert (result.images, result.left_out) == (3, 2)
    assert list(result.rows) == ["model", "chance"]


def test_nothing_readable_is_an_error(loaded, tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\nmissing.png,red\n")
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate_pairs(loaded, open_source(tmp_path / "pairs.csv"))


@Model.register
class Plain(torch.nn.Linear):
    """A model without anything."""


def test_a_model_that_cannot_match_or_read_says_so(loaded, tmp_path):
    source = open_source(write_table(tmp_path))
    with pytest.raises(InputError, match="no matching head"):
        evaluate_pairs(Loaded(Plain(1, 1)), source, reranking=Reranking())
    with pytest.raises(InputError, match="no vocabulary"):
        evaluate_pairs(replace(loaded, tokenizer=None), source)


def test_json_and_table_say_the_same(loaded, tmp_path):
    result = evaluate_pairs(loaded, open_source(write_table(tmp_path)), reranking=Reranking(3, 0.5))
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["reranking"] == {"k": 3, "weight": 0.5, "hubness": 0.0}
    assert plain["model"]["image_to_text"]["R@1"] == 0 and plain["images"] == 3
    lines = result.table().splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["model", "reranked", "chance"]
    assert lines[3].split()[1:] == ["0.0", "100.0", "100.0"] * 2
    assert lines[5].split()[1:] == ["33.3", "100.0", "100.0"] * 2


def test_reranking_of_a_run_comes_from_its_configuration(tmp_path):
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert Reranking.of_run(tmp_path) == Reranking()
    config.write_text('{"retrieval": {"k": 8, "weight": 0.2}}')
    assert Reranking.of_run(tmp_path) == Reranking(8, 0.2)
    config.write_text('{"retrieval": {"k": 8, "weight": 0.2, "hubness": 0.25}}')
    with pytest.raises(InputError, match="querybank"):
        Reranking.of_run(tmp_path)
    Querybank(torch.eye(2), torch.eye(2)).save(tmp_path)
    found = Reranking.of_run(tmp_path)
    assert found.bank is not None and (found.k, found.weight, found.hubness) == (8, 0.2, 0.25)
    config.write_text('{"retrieval": {"top": 8}}')
    with pytest.raises(InputError, match="retrieval"):
        Reranking.of_run(tmp_path)
