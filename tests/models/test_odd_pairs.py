"""Image-and-language systems on pairs at the edge: no region, one, a hundred; no word, too many words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from coalign import create, prepare
from coalign.data.loaded import Loaded
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.recipes._start import with_vocabulary
from coalign.registry import find
from coalign.types import Draws

WIDTH, CLASSES, LONG = 8, 5, "a red boat " * 60
SETTINGS: dict[str, dict[str, Any]] = {
    "visualbert": {},
    "uniter": {"classes": CLASSES, "objectives": ("itm", "mlm", "mrfr", "mrc", "mrckl"), "ratios": (1.0,) * 5},
    "vilbert": {"region_targets": CLASSES},
    "lxmert": {"objects": CLASSES - 1, "attributes": 3},
    "vilt": {},
}
CASES = {
    "nothing at all": ([""], [0]),
    "images without a region": (["a boat", "red"], [0, 0]),
    "one region": (["a boat"], [1]),
    "all of it together": (["", LONG, "boat"], [0, 100, 1]),
}


def loaded_of(system: str) -> Loaded:
    tokenizer = Tokenizer.train(["a red boat"] * 9, 60)
    width = {} if system == "vilt" else {"region_width": WIDTH}
    config = replace(with_vocabulary(find(system).sizes["tiny"], tokenizer), **width, **SETTINGS[system])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return replace(create(system, config), tokenizer=tokenizer)


def batch_of(loaded: Loaded, texts: list[str], counts: list[int], width: int = WIDTH) -> Any:
    random = torch.Generator().manual_seed(0)
    if loaded.spec.regions is None:
        return prepare(loaded, images=[torch.zeros(3, 64, 64, dtype=torch.uint8)] * len(texts), texts=texts)
    sets = [
        {
            "features": torch.randn(n, width, generator=random),
            "boxes": torch.rand(n, 4, generator=random).sort(1).values,
            "classes": torch.rand(n, CLASSES, generator=random).softmax(1),
            "attributes": torch.zeros(n, dtype=torch.int64),
        }
        for n in counts
    ]
    return prepare(loaded, regions=sets, texts=texts)


@pytest.mark.parametrize("system", SETTINGS)
def test_losses_and_encodings_are_numbers(system: str) -> None:
    loaded, random = loaded_of(system), torch.Generator().manual_seed(0)
    model, spec = loaded.model, loaded.spec
    for texts, counts in CASES.values():
        batch = replace(batch_of(loaded, texts, counts), ids=torch.arange(len(texts)))
        steps = find(system).objectives if system == "uniter" else [None]
        for only in steps:
            losses = model.train().losses(batch, Draws(random, only=None if only is None else [only]))
            total = torch.stack(list(losses.values())).sum()
            if total.requires_grad:
                total.backward()
            assert total.isfinite(), (texts, losses)
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
        with torch.no_grad():
            seen = model.eval().encode(batch, record=True)
            each = [model.alignment(batch, method) for method in model.alignment_methods]
        assert all(bool(x.isfinite().all()) for x in (*seen.pooled.values(), *seen.record.values()))
        assert all(bool(found.isfinite().all()) for maps in each for found in maps)
        maps = each[0]
        spec = model.input_spec
        assert [len(found) for found in maps] == [
            min(len(loaded.vocabulary.encode([text]).ids.values), spec.text.max_length) for text in texts
        ]
        if spec.regions is not None:
            assert [found.shape[1] for found in maps] == [min(count, spec.regions.most) for count in counts]


@pytest.mark.parametrize("system", [name for name in SETTINGS if name != "vilt"])
def test_an_item_does_not_depend_on_the_others(system: str) -> None:
    loaded = loaded_of(system).eval()
    model = loaded.model
    texts, counts = CASES["all of it together"]
    batch = batch_of(loaded, texts, counts)
    with torch.no_grad():
        together = model.encode(batch).pooled["match_logits"]
        rows = batch.regions.features.values.split(batch.regions.features.lengths.tolist())
        boxes = batch.regions.boxes.split(batch.regions.features.lengths.tolist())
        for i, text in enumerate(texts):
            alone = prepare(loaded, texts=[text], regions=[{"features": rows[i], "boxes": boxes[i]}])
            torch.testing.assert_close(model.encode(alone).pooled["match_logits"][0], together[i])


@pytest.mark.parametrize("system", [name for name in SETTINGS if name != "vilt"])
def test_features_of_another_width(system: str) -> None:
    with pytest.raises(InputError, match=f"features are 12 wide, the model reads {WIDTH}"):
        batch_of(loaded_of(system), ["a boat"], [2], width=12)


@pytest.mark.parametrize("system", ["clip", "siglip", "blip", "coca", "dinov2", "xvlm"])
def test_a_picture_of_a_line_and_a_vocabulary_of_another_model(system: str) -> None:
    own = Tokenizer.train(["a red boat"] * 9, 60)
    other = Tokenizer.train(["a red boat with sixty white sails and twelve green oars"] * 9, 200)
    sizes: Any = find(system).sizes["tiny"]
    towers = system != "dinov2"
    model = create(system, with_vocabulary(sizes, own) if towers else sizes).model.eval()
    texts = {"texts": [LONG] * 2} if towers else {}
    batch = prepare(Loaded(model, own), images=[Image.new("RGB", size) for size in ((1, 4000), (4000, 1))], **texts)
    with torch.no_grad():
        vectors = model.encode(batch).vectors
    assert all(bool(part.isfinite().all()) and len(part) == 2 for part in vectors.values())
    if towers:
        with pytest.raises(InputError, match=f"has {other.vocab_size} pieces, the model embeds {own.vocab_size}"):
            prepare(Loaded(model, other), texts=["sixty sails"])
