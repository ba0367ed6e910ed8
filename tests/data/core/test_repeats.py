"""Images with the same texts share an id, in training and in evaluation."""

from pathlib import Path

import numpy as np
import pytest
from colours import TOKENIZER, ColourModel
from PIL import Image

from coalign.data.core.repeats import SameTexts, shared_ids
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source


def test_the_whole_set_of_texts_decides() -> None:
    texts = [("a dog",), ("a cat",), ("a dog",), ("a cat", "a pet"), (), ()]
    ids, repeated = shared_ids(np.arange(6), texts)
    assert ids.tolist() == [0, 1, 0, 3, 4, 5] and repeated == 2
    # rows of one image: its texts are those of all of them
    ids, repeated = shared_ids(np.array([7, 7, 8, 9]), [("a",), ("b",), ("b", "a"), ("a",)])
    assert ids.tolist() == [7, 7, 7, 9] and repeated == 2


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = ["image,caption", *(f"{n}.png,{text}" for n, text in enumerate(("red", "blue", "red", "green")))]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "pairs.csv"


def test_batches_of_training_and_evaluation_have_shared_ids(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, source = ColourModel(), open_source(table)
    (batch,) = list(Loader(source, model.input_spec, TOKENIZER, 4))[:1]
    assert batch.ids is not None and len(set(batch.ids.tolist())) == 3
    assert "2 images have the same texts as another; none of these is a negative" in capsys.readouterr().err
    loader = Loader(source, model.input_spec, TOKENIZER, 4, train=False)
    (batch,) = list(loader)
    assert batch.ids is not None and batch.ids.tolist() == [0, 1, 0, 3] and loader.repeated == 2
    assert len(loader.source) == 4  # each image is still read and searched on its own
    (batch,) = list(Loader(source, model.input_spec, None, 4, train=False))
    assert batch.ids is not None and batch.ids.tolist() == [0, 1, 2, 3]  # of a model that reads no text


def test_several_texts_an_image(table: Path) -> None:
    table.write_text("image,caption\n0.png,red\n0.png,a dot\n1.png,red\n2.png,a dot\n2.png,red\n")
    same = SameTexts(open_source(table))
    assert same.ids.tolist() == [0, 0, 2, 0, 0] and same.repeated == 2
    grouped = same.grouped()
    assert [grouped[index].texts for index in range(3)] == [("red", "a dot"), ("red",), ("a dot", "red")]
    assert grouped.ids.tolist() == [0, 2, 0]
