"""X-VLM by its own rules: parts of pictures, and what is learned of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_weights import randomised

from coalign.errors import InputError
from coalign.models.xvlm.model import Xvlm
from coalign.models.xvlm.names import original
from coalign.models.xvlm.sizes import of_weights
from coalign.models.xvlm.trunk import SIZES, XvlmConfig
from coalign.ops.boxes import centred, overlap
from coalign.registry import create, find
from coalign.trunks.bert import BertConfig
from coalign.trunks.swin import SwinConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Packed, Places, Text

MEAN = XvlmConfig(
    VitConfig(image_size=24, patch_size=6, dim=48, depth=2, heads=2, hidden_dim=64, class_token=False),
    BertConfig(
        vocab_size=50, dim=32, depth=4, heads=2, hidden_dim=48, positions=16, context_dim=48, cross_from=2, dropout=0.0
    ),
    embed_dim=24,
    cls_id=2,
    mask_id=1,
)
LOCAL = replace(MEAN, image=replace(MEAN.image, class_token=True, depth=3), local_depth=2)
TOKEN = replace(MEAN, image=replace(MEAN.image, class_token=True, registers=2))
SWIN = replace(
    MEAN, swin=SwinConfig(image_size=32, patch_size=2, width=12, depths=(2, 2, 2), heads=(2, 3, 4), window=4, ratio=2.0)
)
CONFIGS = {"mean": MEAN, "local": LOCAL, "mean of a tower with a class token": TOKEN, "swin": SWIN}
BOXES = [(0.0, 0.0, 1.0, 1.0), (0.1, 0.3, 0.6, 0.7), (0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 1.0, 0.25), (0.8, 0.9, 1.0, 1.0)]
IMAGES = [0, 0, 1, 1, 1]


def texts_of(lengths: list[int], seed: int = 0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.cat([torch.tensor([2]), torch.randint(3, 50, (n - 1,), generator=generator)]) for n in lengths]
    words = torch.cat([torch.tensor([-1, *range(n - 1)]) for n in lengths])
    return Text(Packed.from_items(ids), words=words)


def batch_of(config: XvlmConfig = MEAN, lengths: tuple[int, ...] = (5, 3, 6, 2, 4), seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, *config.picture.image, generator=torch.Generator().manual_seed(seed))
    whole = torch.tensor([box == BOXES[0] for box in BOXES])
    places = Places(torch.tensor(IMAGES), torch.tensor(BOXES), whole)
    return Batch(texts_of(list(lengths), seed), Images(pixels), places=places, ids=torch.arange(5))


def images_of(batch: Batch) -> Images:
    """Each text's own picture."""
    assert batch.images is not None and batch.images.pixels is not None
    return Images(batch.images.pixels[torch.tensor(IMAGES)])


def drawn(batch: Batch) -> Draws:
    """Recorded choices, so that two passes have the same."""
    assert batch.text is not None
    labels = torch.full_like(batch.text.ids.values, -100)
    labels[1::2] = batch.text.ids.values[1::2]
    hidden = batch.text.ids.values.where(labels < 0, 1)
    negatives = {"neg_image_index": torch.tensor([1, 2, 3, 4, 0]), "neg_text_index": torch.tensor([4, 3, 1, 0, 2])}
    return Draws(choices={**negatives, "mlm_input_ids": hidden, "mlm_labels": labels})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_whole_picture_has_the_rows_of_the_picture(name: str) -> None:
    model: Any = randomised(Xvlm(CONFIGS[name]))
    batch = batch_of(CONFIGS[name])
    own, whole = model.towers.of_places(batch)
    seen = model.encode(Batch(images=batch.images)).tokens["image"]
    torch.testing.assert_close(whole.values, seen.values)
    for item in (0, 2):
        rows = own.image.values[own.image.offsets[item] : own.image.offsets[item + 1]]
        torch.testing.assert_close(rows, seen.to_padded()[IMAGES[item]], atol=1e-5, rtol=1e-5)


def test_a_part_is_the_mean_of_its_patches_and_then_these() -> None:
    model: Any = randomised(Xvlm(MEAN))
    batch = batch_of()
    own, _ = model.towers.of_places(batch)
    patches = model.towers.image(batch.images).to_padded()
    cells = {1: [4, 5, 6, 8, 9, 10], 3: [2, 3], 4: [15]}  # of 4 x 4
    for item, places in cells.items():
        rows = patches[IMAGES[item], places]
        expected = torch.cat([rows.mean(0, keepdim=True), rows])
        torch.testing.assert_close(own.image.values[own.image.offsets[item] : own.image.offsets[item + 1]], expected)


def test_parts_see_nothing_outside_of_themselves_in_the_last_blocks() -> None:
    """By masked attention over all rows, as the authors write it."""
    model: Any = randomised(Xvlm(LOCAL))
    batch, tower = batch_of(), model.towers.image
    own, _ = model.towers.of_places(batch)
    rows = tower.begin(batch.images, 1).to_padded()[IMAGES[1]]
    seen = torch.zeros(17, dtype=torch.bool)
    seen[[0, *(1 + cell for cell in (4, 5, 6, 8, 9, 10))]] = True
    x = rows
    for block in tower.encoder.blocks[1:]:
        h = block.attention_norm(x)
        q, k, v = (getattr(block.attention, part)(h).unflatten(-1, (2, -1)) for part in ("query", "key", "value"))
        scores = torch.einsum("qhd,khd->hqk", q, k) / 24**0.5
        attended = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -1e4).softmax(-1), v)
        x = x + block.attention.out(attended.flatten(1))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    expected = tower.encoder.norm(x)[seen]
    found = own.image.values[own.image.offsets[1] : own.image.offsets[2]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_padded_and_order_plays_no_part(name: str) -> None:
    model: Any = randomised(Xvlm(CONFIGS[name]))
    batch = batch_of(CONFIGS[name])
    assert batch.text is not None and batch.places is not None
    losses = model.losses(batch, drawn(batch))
    padded, mask = batch.text.ids.to_padded(), batch.text.ids.padding_mask()
    kept = Packed.from_padded(padded, mask, keep_padding=True)
    choices = dict(drawn(batch).choices)
    for part in ("mlm_input_ids", "mlm_labels"):
        fill = -100 if part == "mlm_labels" else 0
        choices[part] = batch.text.ids.with_values(choices[part]).to_padded(fill=fill).flatten()
    again = model.losses(replace(batch, text=Text(kept)), Draws(choices=choices))
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = replace(
        batch,
        text=Text(batch.text.ids.select(order)),
        places=Places(*(part[order] for part in (batch.places.images, batch.places.boxes, batch.places.whole))),
    )
    place = order.argsort()
    named = {side: place[drawn(batch).choices[side][order]] for side in ("neg_image_index", "neg_text_index")}
    named |= {
        p: batch.text.ids.with_values(drawn(batch).choices[p]).select(order).values
        for p in ("mlm_input_ids", "mlm_labels")
    }
    permuted = model.losses(moved, Draws(choices=named))
    for name_, loss in losses.items():
        torch.testing.assert_close(again[name_], loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(permuted[name_], loss, atol=1e-5, rtol=1e-5)


def test_boxes_count_texts_about_parts_alone() -> None:
    model: Any = randomised(Xvlm(MEAN))
    batch = batch_of()
    own, whole = model.towers.of_places(batch)
    boxes, target = model.predict_boxes(batch, own.text, whole)
    expected = centred(torch.tensor([BOXES[1], BOXES[3], BOXES[4]]))
    torch.testing.assert_close(target, expected)
    each = model.encode(batch)
    alone = model.encode(replace(batch, images=images_of(batch), places=None))
    torch.testing.assert_close(each.pooled["match_logits"], alone.pooled["match_logits"])
    inside = (each.pooled["box"] > 0).all(1) & (each.pooled["box"] < 1).all(1)
    for row, item in enumerate((1, 3, 4)):
        if inside[item]:
            torch.testing.assert_close(centred(each.pooled["box"])[item], boxes[row], atol=1e-5, rtol=1e-5)
    none = replace(batch, places=replace(batch.places, whole=torch.ones(5, dtype=torch.bool)))  # type: ignore[type-var]
    assert float(model.losses(none, drawn(batch))["box"]) == 0.0


def test_every_objective_is_learned() -> None:
    """Of four pictures, each a bright spot on black, the box is told from the picture and the text."""
    torch.manual_seed(0)
    model = Xvlm(replace(MEAN, embed_dim=32)).train()
    pixels, boxes = torch.zeros(4, 3, 24, 24), torch.zeros(8, 4)
    for n in range(4):
        y, x = divmod(n, 2)
        pixels[n, n % 3, 12 * y : 12 * y + 12, 12 * x : 12 * x + 12] = 2.0
        boxes[2 * n] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        boxes[2 * n + 1] = torch.tensor([x / 2, y / 2, x / 2 + 0.5, y / 2 + 0.5])
    ids = [torch.tensor([2, 10 + n, 20 + n]) for n in range(8)]
    places = Places(torch.arange(8) // 2, boxes, torch.arange(8) % 2 == 0)
    batch = Batch(Text(Packed.from_items(ids)), Images(pixels), places=places, ids=torch.arange(8))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator, curve = torch.Generator().manual_seed(0), list[dict[str, float]]()
    for _ in range(100):
        model.before_step()
        losses = model.losses(batch, Draws(generator))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        curve.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert curve[0].keys() == {"itc", "itm", "mlm", "box"}
    last = {name: sum(step[name] for step in curve[-10:]) / 10 for name in curve[0]}
    assert last["itc"] < 0.6 * curve[0]["itc"] and last["itm"] < 0.45 and last["mlm"] < 0.5 * curve[0]["mlm"]
    assert last["box"] < 0.35 * curve[0]["box"]
    parts = replace(batch, text=Text(Packed.from_items(ids[1::2])), places=None, ids=None)
    found = model.eval().encode(parts).pooled["box"]
    assert overlap(found[:, None], boxes[1::2][:, None]).min() > 0.5
    assert model.losses(batch, Draws(only=("itc",))).keys() == {"itc"}


def test_the_temperature_is_clamped_but_in_retrieval() -> None:
    for model, expected in ((Xvlm(MEAN), 0.5), (create("xvlm", MEAN, head="retrieval").model, 0.9)):
        assert isinstance(model, Xvlm)
        with torch.no_grad():
            model.temperature.fill_(0.9)
        model.before_step()
        assert model.temperature.item() == pytest.approx(expected)


def test_texts_that_share_an_id_are_no_negatives_and_all_right() -> None:
    model: Any = randomised(Xvlm(MEAN))
    batch = replace(batch_of(), ids=torch.tensor([7, 8, 7, 9, 8]))
    own, _ = model.towers.of_places(batch)
    drawn_ids = set()
    for seed in range(60):
        found = model.draw_negatives(batch, own, torch.Generator().manual_seed(seed))
        for side in found.values():
            pairs = zip([7, 8, 7, 9, 8], [[7, 8, 7, 9, 8][n] for n in side.tolist()], strict=True)
            drawn_ids |= set(pairs)
    assert all(one != other for one, other in drawn_ids) and len(drawn_ids) == 6
    scores = own.image_vector @ own.text_vector.T / model.temperature
    same = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 1]])
    target = same / same.sum(1, keepdim=True)
    expected = -((scores.log_softmax(1) + scores.T.log_softmax(1)) * target).sum(1).mean() / 2
    torch.testing.assert_close(model.losses(batch, Draws(only=("itc",)))["itc"], expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_of_words_on_patches(name: str) -> None:
    model: Any = randomised(Xvlm(CONFIGS[name]))
    images = batch_of(CONFIGS[name]).images
    batch = Batch(texts_of([5, 3]), images)
    for method in model.alignment_methods:
        maps = model.alignment(batch, method)
        assert [tuple(own.shape) for own in maps] == [(5, 4, 4), (3, 4, 4)]
        assert all(own.isfinite().all() and own.abs().sum() > 0 for own in maps), method
    record = model.encode(batch, record=True).record
    weights = record[f"fusion.{model.alignment_block}.cross_attention"].mean(1)[0, :5, 1:]
    torch.testing.assert_close(model.alignment(batch, "cross_attention")[0].flatten(1), weights)


@pytest.mark.parametrize("name", ["clip-b-16", "vit-b-16", "swin-b", "swin-b-384", "tiny"])
def test_sizes_are_read_off_the_authors_names(name: str) -> None:
    from coalign.layers.initialise import shapes_alone

    with shapes_alone():
        model = create("xvlm", name).model
        weights = original(SIZES[name]).export(model.state_dict())
        retrieval = create("xvlm", name, head="retrieval").model
        bare = original(retrieval.config).export(retrieval.state_dict())  # type: ignore[arg-type]
    assert of_weights(weights) == SIZES[name]
    assert of_weights(bare) == replace(SIZES[name], objectives=("itc", "itm"))
    assert of_weights({"vision_encoder.x": torch.empty(1)}) is None


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InputError, match="local_depth 3: the image tower has 2 blocks"):
        replace(MEAN, local_depth=3)
    with pytest.raises(InputError, match="a class token; without one it is 0"):
        replace(MEAN, local_depth=1)
    with pytest.raises(InputError, match=r"windows of 7 reads no pictures of 256 pixels; give a multiple of 224"):
        SwinConfig(image_size=256)
    with pytest.raises(InputError, match="a Swin tower reads pictures of 32 pixels"):
        find("xvlm").with_image_size(SWIN, 64)
    with pytest.raises(InputError, match=r"pictures have \(24, 24\) pixels, the model reads \(32, 32\)"):
        Xvlm(SWIN).encode(Batch(images=batch_of().images))
    model = Xvlm(MEAN)
    batch = batch_of()
    plain = Batch(texts_of([5, 3]), batch.images)
    with pytest.raises(InputError, match="texts about parts of pictures"):
        model.losses(plain, Draws(only=("box",)))
    assert model.losses(plain, Draws(only=("itc", "mlm"))).keys() == {"itc", "mlm"}
    with pytest.raises(InputError, match="lacks images or texts"):
        model.losses(Batch(images=batch.images))
