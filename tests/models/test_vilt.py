from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coalign import prepare
from coalign.data.loaded import Loaded
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.vilt.heads import HEADS, ViltClassifier, ViltRetrieval
from coalign.models.vilt.model import Vilt, ViltConfig
from coalign.models.vilt.names import original, transformers
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Labels, Packed, Text

CONFIG = ViltConfig(
    VitConfig(image_size=12, patch_size=4, dim=32, depth=2, heads=4, hidden_dim=64),
    vocab_size=50,
    max_text_length=10,
    max_patches=None,
    mask_probability=0.4,
    mask_id=3,
    special_ids=(0, 1, 2),
)
WORDS, SIZES = [7, 3, 5], [[16, 8], [8, 20], [12, 12]]


def batch_of(words=WORDS, sizes=SIZES, canvas=(16, 20), seed=0, keep_padding=False, **labels):
    """Texts and images, padded with zeros right and below to one canvas; `sizes` None for images that fill it."""
    g = torch.Generator().manual_seed(seed)
    ids = [
        torch.cat([torch.tensor([1]), torch.randint(4, 50, (n - 2,), generator=g), torch.tensor([2])]) for n in words
    ]
    text = Packed.from_items(ids)
    if keep_padding:
        text = Packed.from_padded(text.to_padded(), text.padding_mask(), True)
    count = len(words) if sizes is None else len(sizes)
    pixels = torch.randn(count, 3, *canvas, generator=g)
    for image, (h, w) in zip(pixels, sizes or [], strict=False):
        image[:, h:], image[:, :, w:] = 0.0, 0.0
    return Batch(
        text=Text(text),
        images=Images(pixels, sizes=None if sizes is None else torch.tensor(sizes)),
        labels=Labels(**labels),
    )


def model_of(config=CONFIG, kind=Vilt):
    torch.manual_seed(0)
    return kind(config).eval()


def train(model, batch, steps=25, **given):
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(steps):
        losses = model.train().losses(batch, Draws(torch.Generator().manual_seed(1), **given))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    return history


def test_padding_of_text_and_of_images_changes_nothing():
    model = model_of()
    packed = model.encode(batch_of(), record=True)
    kept = model.encode(batch_of(keep_padding=True), record=True)
    mask = kept.tokens["text"].padding_mask()
    torch.testing.assert_close(packed.tokens["text"].values, kept.tokens["text"].to_padded()[mask])
    torch.testing.assert_close(packed.record["transport.plan"], kept.record["transport.plan"])
    assert packed.tokens["image"].lengths.tolist() == [1 + 8, 1 + 10, 1 + 9]  # [CLS] and patches of 4 pixels
    whole = batch_of()
    assert whole.images is not None and whole.images.pixels is not None
    wider = Images(F.pad(whole.images.pixels, (0, 8, 0, 4)), sizes=whole.images.sizes)
    torch.testing.assert_close(model.encode(replace(whole, images=wider)).pooled, packed.pooled)


def test_pixels_say_what_sizes_say():
    batch = batch_of()
    assert batch.images is not None
    by_size, by_pixels = model_of(), model_of(replace(CONFIG, real_patches="pixels"))
    other = replace(batch, images=Images(batch.images.pixels))
    torch.testing.assert_close(by_size.encode(batch).pooled, by_pixels.encode(other).pooled)


def test_items_do_not_see_each_other():
    model, batch, order = model_of(), batch_of(), torch.tensor([2, 0, 1])
    assert batch.text is not None and batch.images is not None
    assert batch.images.pixels is not None and batch.images.sizes is not None
    images = Images(batch.images.pixels[order], sizes=batch.images.sizes[order])
    other = Batch(text=Text(batch.text.ids.select(order)), images=images)
    torch.testing.assert_close(model.encode(batch).pooled["pooled"][order], model.encode(other).pooled["pooled"])


def test_an_image_alone_gives_what_it_gives_in_a_batch():
    """The loop over images that the embedding does without: each by convolution and its own resized table."""
    trunk, batch = model_of().trunk, batch_of()
    assert batch.images is not None and batch.images.pixels is not None
    rows = trunk.embed_image(batch.images, trunk.patches(batch.images))
    for i, (h, w) in enumerate(SIZES):
        patches = trunk.patch(batch.images.pixels[i : i + 1, :, :h, :w])[0]
        table = trunk.positions[0, 1:].T.view(1, 32, 3, 3)
        table = F.interpolate(table, (h // 4, w // 4), mode="bilinear", align_corners=True)[0].flatten(1).T
        wanted = torch.cat([trunk.class_token[0] + trunk.positions[0, :1], patches + table])
        torch.testing.assert_close(rows.select([i]).values, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["mlm", "itm"])
def test_each_objective_is_learned(task):
    batch = batch_of([6] * 4, None, (12, 12))
    history = train(model_of(), batch, 60 if task == "itm" else 25, only=(task,))
    assert history[-1][task] < 0.5 * history[0][task]
    assert set(history[0]) == ({"itm", "wpa"} if task == "itm" else {task})


def test_draws_are_named_and_come_from_the_generator():
    config = replace(CONFIG, max_patches=5)
    model, batch = model_of(config), batch_of([6] * 5, [[16, 20]] * 5)
    real = model.trunk.real(batch.images).flatten(1)
    first, second = (model.draw(batch, real, torch.Generator().manual_seed(2), {}, ("mlm", "itm")) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(first) == {"mlm_input_ids", "mlm_labels", "image_index", "matched", "select_mlm", "select_itm"}
    assert first["select_mlm"].shape == (5, 5) and first["matched"].sum() == 2  # half of the batch, rounded down
    assert not torch.equal(first["select_mlm"], first["select_itm"])
    given = model.losses(batch, Draws(choices=first))
    again = model.losses(batch, Draws(torch.Generator().manual_seed(2)))
    assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in again.items()}


def test_whole_words_are_hidden():
    batch = batch_of([8] * 20, [[8, 8]] * 20)
    words = torch.tensor([-1, 0, 0, 1, 1, 1, 2, -1]).repeat(20)
    batch = replace(batch, text=replace(batch.text, words=words))
    model = model_of()
    drawn = model.draw(batch, model.trunk.real(batch.images).flatten(1), torch.Generator().manual_seed(0), {}, ("mlm",))
    hidden = (drawn["mlm_labels"] != -100).view(20, 8)
    assert torch.equal(hidden[:, 1], hidden[:, 2])
    assert torch.equal(hidden[:, 3], hidden[:, 4]) and torch.equal(hidden[:, 3], hidden[:, 5])
    assert hidden[:, 6].any() and not hidden[:, 6].all() and not hidden[:, [0, 7]].any()


def test_transport_leaves_out_both_cls_and_the_last_piece():
    seen = model_of().encode(batch_of(), record=True)
    plan, cost = seen.record["transport.plan"], seen.record["transport.cost"]
    for x in (plan, cost):
        assert not x[:, 0].any() and not x[:, :, 0].any()
        assert not x[1, 2:].any() and not x[0, 6].any()
    torch.testing.assert_close(plan[0, 1:6].sum(1), torch.full((5,), 0.2))
    torch.testing.assert_close(plan.sum((1, 2)), torch.ones(3))


def test_pictures_of_any_proportions_are_prepared_for_a_batch():
    model = model_of(replace(CONFIG, vocab_size=99))
    loaded = Loaded(model, Tokenizer.train(["a red boat"] * 5, 99))
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 30), (30, 90), (30, 30))]
    batch = prepare(loaded, images=pictures, texts=["a boat", "red", "a red boat"])
    assert batch.images is not None and batch.images.sizes is not None
    assert batch.images.sizes.tolist() == [[16, 12], [4, 16], [12, 12]]  # of 12, at most 19, in patches of 4
    together = model.encode(batch)
    for i, text in enumerate(["a boat", "red", "a red boat"]):
        alone = model.encode(prepare(loaded, images=[pictures[i]], texts=[text]))
        torch.testing.assert_close(alone.pooled["match_logits"][0], together.pooled["match_logits"][i])
    losses = model.train().losses(batch, Draws(torch.Generator().manual_seed(0)))
    assert set(losses) == {"mlm", "itm", "wpa"}


@pytest.mark.parametrize("method", ["transport", "cross_attention", "rollout", "similarity"])
def test_alignment_maps(method):
    maps = model_of().alignment(batch_of(), method)
    assert [tuple(m.shape) for m in maps] == [(7, 4, 2), (3, 2, 5), (5, 3, 3)]  # each image's own grid
    assert maps[0][1].all() and maps[1][1].all() and maps[2][1].all()
    with pytest.raises(InputError, match="grad_cam"):
        model_of().alignment(batch_of(), "dowsing")


def test_agrees_with_transformers():
    hf = pytest.importorskip("transformers")
    v, config = CONFIG.image, replace(CONFIG, image=replace(CONFIG.image, eps=1e-12), objectives=("mlm",))
    torch.manual_seed(1)
    theirs = hf.ViltForMaskedLM(
        hf.ViltConfig(
            vocab_size=50,
            max_position_embeddings=10,
            hidden_size=v.dim,
            num_hidden_layers=v.depth,
            num_attention_heads=v.heads,
            intermediate_size=v.hidden_dim,
            image_size=v.image_size,
            patch_size=v.patch_size,
            initializer_range=0.2,
        )
    ).eval()
    # this class ties its decoder to the word table, which the authors' model does not: untie, or ours cannot differ
    theirs.mlm_score.decoder.weight = torch.nn.Parameter(torch.randn(50, v.dim))
    ours, names = model_of(config), transformers(config)
    state = theirs.state_dict()
    ours.load_state_dict(names.load(state).state)
    assert set(names.export(ours.state_dict())) == set(state)
    batch = batch_of()
    assert batch.text is not None and batch.images is not None
    pixel_mask = torch.zeros(3, 16, 20, dtype=torch.long)
    for mask, (h, w) in zip(pixel_mask, SIZES, strict=True):
        mask[:h, :w] = 1
    ids = batch.text.ids
    with torch.no_grad():
        given = {
            "input_ids": ids.to_padded(),
            "attention_mask": ids.padding_mask().long(),
            "pixel_values": batch.images.pixels,
            "pixel_mask": pixel_mask,
        }
        logits, hidden = theirs(**given).logits, theirs.vilt(**given)
        seen = ours.encode(batch)
        words = ours.words(seen.tokens["text"].values)
    real = ids.padding_mask()
    torch.testing.assert_close(words, logits[:, :7][real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(seen.pooled["pooled"], hidden.pooler_output, atol=2e-5, rtol=1e-5)


def test_older_names_of_the_word_bias_and_a_missing_matching_head():
    model = model_of()
    file = transformers(CONFIG).export(model.state_dict())
    assert "mlm_score.decoder.bias" in file and not any(name.startswith("itm") for name in file)
    file["mlm_score.bias"] = file.pop("mlm_score.decoder.bias")
    file["vilt.embeddings.text_embeddings.position_ids"] = torch.arange(10)[None]
    state = transformers(CONFIG).load(file).state
    assert state.keys() == model.state_dict().keys() and not state["match_head.weight"].any()


def test_decoder_is_not_tied():
    file = original(CONFIG).export(model_of().state_dict())
    assert not torch.equal(file["mlm_score.decoder.weight"], file["text_embeddings.word_embeddings.weight"])


def test_edge_cases_and_bad_input():
    model = model_of()
    seen = model.encode(batch_of([2, 10], [[4, 4], [16, 20]]), record=True)  # no word but [CLS] and [SEP]; one patch
    assert not seen.record["transport.plan"][0].any() and seen.record["transport.plan"].isfinite().all()
    losses = model.losses(batch_of([2, 2], [[4, 4], [4, 4]]), Draws(torch.Generator().manual_seed(0)))
    assert all(loss.isfinite() for loss in losses.values())
    with pytest.raises(InputError, match="16x18 pixels are no whole number of patches of 4"):
        model.encode(batch_of(canvas=(16, 18)))
    with pytest.raises(InputError, match="lacks one"):
        model.encode(Batch(text=batch_of().text))
    with pytest.raises(InputError, match="holds none"):
        model.encode(Batch(text=batch_of().text, images=Images(grid=torch.zeros(3, 1, 1, 1))))
    with pytest.raises(ValueError, match="11 pieces"):
        model.encode(batch_of([11, 3, 3]))
    with pytest.raises(InputError, match="matching objective"):
        model_of(replace(CONFIG, objectives=("mlm",))).losses(batch_of(), Draws(only=("itm",)))


@pytest.mark.parametrize("task", HEADS)
def test_heads_learn(task):
    config = replace(HEADS[task].config(CONFIG), classes=5)
    torch.manual_seed(0)
    model = HEADS[task].model(config)
    labels = {"vqa": torch.eye(5)[[0, 3, 2, 4]], "nlvr2": torch.tensor([0, 3, 1, 0]), "retrieval": torch.zeros(2)}
    images = {"vqa": 4, "nlvr2": 8, "retrieval": 2}[task]
    batch = batch_of([6, 5, 6, 4], [[8, 8]] * images, (8, 8), label=labels[task])
    history = [sum(losses.values()) for losses in train(model, batch, 40)]
    assert history[-1] < 0.5 * history[0]
    if task != "retrieval":
        assert model.eval().encode(batch).pooled["logits"].shape == (4, 5)


def test_second_image_has_its_own_modality_row():
    config = HEADS["nlvr2"].config(CONFIG)
    torch.manual_seed(0)
    model = ViltClassifier(config).eval()
    batch = batch_of([4], [[8, 8]] * 2, (8, 8))
    assert batch.images is not None and batch.images.pixels is not None
    twice = replace(batch, images=Images(batch.images.pixels[:1].repeat(2, 1, 1, 1)))
    first, second = model.read(twice)
    assert not torch.allclose(first.rows.values, second.rows.values)
    with torch.no_grad():
        model.trunk.modality.weight[2] = model.trunk.modality.weight[1]
    torch.testing.assert_close(*(joint.rows.values for joint in model.read(twice)))
    with pytest.raises(InputError, match="1 texts with 2 images each need 2 images, got 3"):
        model.encode(batch_of([4], [[8, 8]] * 3, (8, 8)))


def test_retrieval_ranks_a_group_of_texts_with_one_image():
    config = HEADS["retrieval"].config(CONFIG)
    model, pretrained = model_of(config, ViltRetrieval), model_of()
    model.trunk.load_state_dict(pretrained.trunk.state_dict())
    assert pretrained.match_head is not None
    model.start_from(pretrained.match_head)
    batch = batch_of([6, 5, 3, 4], SIZES[:2])
    assert batch.text is not None and batch.images is not None
    scores = model.rank(model.read(batch, model.keep(batch.images, model.source(batch), None)), 2)
    pixels, sizes = batch.images.pixels, batch.images.sizes
    assert pixels is not None and sizes is not None
    pairs = replace(batch, images=Images(pixels.repeat_interleave(2, 0), sizes=sizes.repeat_interleave(2, 0)))
    torch.testing.assert_close(scores.flatten(), pretrained.encode(pairs).pooled["match_logits"][:, 1])
    torch.testing.assert_close(model.losses(batch)["retrieval"], -scores.log_softmax(1)[:, 0].mean())
    with pytest.raises(InputError, match="shared evenly"):
        model.losses(batch_of([6, 5, 3], SIZES[:2]))
