from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from files import encoded, picture
from torch import Tensor

from coalign.data.images.decode import BadSample
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import FREE, Batch, Draws, Encoding, ImageSpec, InputSpec, Model, Regions, RegionSpec, TextSpec


@Model.register
class Reader:
    """As much of a model as `prepare` reads."""

    config = None

    def __init__(self, spec: InputSpec) -> None:
        self.input_spec = spec

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        raise NotImplementedError

    def before_step(self) -> None: ...

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        raise NotImplementedError

    def after_step(self) -> None: ...


def reader(spec: InputSpec, tokenizer: Tokenizer | None = None) -> Loaded:
    return Loaded(Reader(spec), tokenizer)


FULL = InputSpec(
    text=TextSpec(vocab_size=40, max_length=6, separator=False), image=ImageSpec.square(8), regions=RegionSpec(5, 2)
)


def test_every_form_of_one_picture_gives_the_same(tmp_path: Path) -> None:
    image = picture(51)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image, array, tensor]
    model = reader(FULL)
    batch = prepare(model, images=forms)
    assert batch.images and batch.images.pixels is not None and batch.images.pixels.shape == (6, 3, 8, 8)
    assert torch.allclose(batch.images.pixels, torch.tensor((0.2 - 0.5) / 0.5), atol=1e-6)
    for form in forms:
        assert len(prepare(model, images=form)) == 1


def test_texts_as_the_model_wants_them(tokenizer: Tokenizer) -> None:
    model = reader(FULL, tokenizer)
    text = prepare(model, texts=["a red boat and a dog", ""]).text
    assert text and text.ids.lengths.tolist() == [6, 1]  # no final [SEP], at most six
    one = prepare(model, texts="a red boat").text
    assert one and len(one.ids) == 1
    pair = prepare(model, texts=[("a", "boat")]).text
    assert pair and pair.types is not None


def test_features(tokenizer: Tokenizer) -> None:
    batch = prepare(reader(InputSpec()), images=[torch.zeros(4, 3, 3), torch.ones(4, 3, 3)])
    assert batch.images and batch.images.grid is not None and batch.images.grid.shape == (2, 4, 3, 3)
    with pytest.raises(InputError, match="one shape"):
        prepare(reader(InputSpec()), images=[torch.zeros(4, 3, 3), torch.ones(4, 3, 2)])


def test_regions(tokenizer: Tokenizer) -> None:
    given = [
        {"features": torch.ones(3, 5), "boxes": torch.rand(3, 4), "confidence": torch.rand(3)},
        {"features": np.zeros((1, 5), np.float32), "boxes": np.zeros((1, 4), np.float32), "confidence": torch.rand(1)},
    ]
    regions = prepare(reader(FULL, tokenizer), texts=["a", "the"], regions=given).regions
    assert isinstance(regions, Regions)
    assert regions.features.lengths.tolist() == [2, 1]
    assert regions.boxes.shape == (3, 4) and regions.confidence is not None and len(regions.confidence) == 3
    assert regions.boxes[:2].equal(given[0]["boxes"][:2])
    again = prepare(reader(FULL), regions=regions).regions
    assert again is regions


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        (FULL, {"texts": ["a"]}, r"no vocabulary.* load\(\.\.\., vocab="),
        (InputSpec(image=ImageSpec.square(8)), {"texts": ["a"]}, "reads no texts"),
        (InputSpec(text=TextSpec(max_length=8)), {"images": [picture(1)]}, "reads no images"),
        (FULL, {"images": []}, "no images were given"),
        (InputSpec(), {"regions": [{"features": torch.ones(1, 5), "boxes": torch.zeros(1, 4)}]}, "reads no regions"),
        (FULL, {"regions": [{"features": torch.ones(1, 4), "boxes": torch.zeros(1, 4)}]}, "4 wide, the model reads 5"),
        (FULL, {"regions": [{"features": torch.ones(1, 5), "boxes": torch.ones(1, 4) * 200}]}, "fractions"),
        (FULL, {"regions": [{"features": torch.ones(2, 5), "boxes": torch.zeros(1, 4)}]}, "2 features and 1 boxes"),
        (FULL, {"regions": [{"features": torch.ones(2, 5)}]}, "image 0: lacks"),
    ],
)
def test_what_cannot_be_prepared(spec: InputSpec, given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepare(reader(spec), **given)  # type: ignore[arg-type]


def test_errors_name_the_file_and_the_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"no\.png: no such file"):
        prepare(reader(FULL), images=[tmp_path / "no.png"])
    with pytest.raises(InputError, match=r"as many of each; these are \[1, 2\]"):
        prepare(reader(FULL, tokenizer), images=[picture(1)], texts=["a", "b"])
    with pytest.raises(InputError, match="the model embeds 3"):
        prepare(reader(InputSpec(text=TextSpec(vocab_size=3)), tokenizer), texts=["a"])
