"""CoCa against OpenCLIP and by its own rules."""

from dataclasses import replace

import pytest
import torch
from random_weights import randomised
from safetensors.torch import save_file

import coalign
from coalign.errors import InputError
from coalign.models.coca.model import Coca
from coalign.models.coca.names import open_clip
from coalign.models.coca.trunk import CocaConfig, image_tower
from coalign.ops.alignment import alignment_maps
from coalign.ops.generation import Generation
from coalign.trunks.text import TextConfig
from coalign.types import Batch, Draws, Images, Packed, Text

CONFIG = CocaConfig(
    image_tower(image_size=16, patch_size=8, dim=48, depth=1, heads=2, hidden_dim=64),
    TextConfig(40, 9, 64, 2, 1, 96, activation="gelu"),
    embed_dim=64,
    queries=5,
    pooler_heads=1,
    decoder_depth=1,
    decoder_heads=1,
    decoder_hidden=80,
    start=38,
    end=39,
)


def pairs(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.tensor([38, *range(1 + 3 * i, 4 + 4 * i), 39])[-8:] for i in range(size)]
    pixels = torch.randn(size, 3, 16, 16, generator=generator)
    return Batch(Text(Packed.from_items(ids)), Images(pixels), ids=torch.arange(size))


def test_open_clip_computes_the_same(tmp_path):
    """Other sizes than the recording's: image and text of different widths, one layer of decoder, full and short
    texts; and captions by beam search of the same file."""
    library = pytest.importorskip("open_clip.coca_model")
    theirs = library.CoCa(
        64,
        {"context_length": 8, "vocab_size": 40, "width": 64, "heads": 1, "layers": 1, "mlp_ratio": 4},
        {
            "context_length": 8, "vocab_size": 40, "width": 64, "heads": 1, "layers": 2, "embed_cls": True,
            "output_tokens": True,
        },
        {
            "image_size": 16, "patch_size": 8, "width": 48, "head_width": 24, "layers": 1, "attentional_pool": True,
            "attn_pooler_heads": 1, "attn_pooler_queries": 5, "output_tokens": True,
        },
    )  # fmt: skip
    theirs = randomised(theirs)
    save_file({n: t.contiguous() for n, t in theirs.state_dict().items()}, tmp_path / "coca.safetensors")
    mine = coalign.load(tmp_path / "coca.safetensors", "coca").model
    ids = torch.tensor([[38, 5, 6, 39, 0, 0, 0, 0], [38, 1, 2, 3, 4, 5, 6, 39], [38, 7, 39, 0, 0, 0, 0, 0]])
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = replace(mine.config, image=replace(mine.config.image, heads=2))
    model = Coca(config).eval()
    model.load_state_dict(mine.state_dict())
    with torch.no_grad():
        expected = theirs(pixels, ids, output_labels=False)
        batch = Batch(Text(Packed.from_padded(ids, ids != 0)), Images(pixels))
        seen = model.encode(batch)
    torch.testing.assert_close(seen.vectors["image"], expected["image_features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.vectors["text"], expected["text_features"], atol=1e-5, rtol=1e-5)
    logits = model.decoder.logits(seen.tokens["decoded"].values)
    torch.testing.assert_close(logits, expected["logits"][ids != 0], atol=1e-4, rtol=1e-4)
    back = open_clip(config).export(model.state_dict())
    assert all(torch.equal(back[n], t) for n, t in theirs.state_dict().items())


@pytest.mark.parametrize("late", [True, False])
def test_packed_texts_are_padded_texts(late):
    model = randomised(Coca(replace(CONFIG, late_mask=late)))
    ids = torch.tensor([[38, 5, 6, 39, 0, 0, 0, 0], [38, 1, 2, 3, 4, 5, 6, 39]])
    padded, packed = (model.read_text(Packed.from_padded(ids, ids != 0, keep)) for keep in (True, False))
    torch.testing.assert_close(padded[1], packed[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[0].values[(ids != 0).flatten()], packed[0].values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.text.words(Packed.from_padded(ids, ids != 0)).values, packed[0].values)


def test_both_objectives_are_learned_and_captions_written():
    torch.manual_seed(0)
    model, batch = Coca(replace(CONFIG, late_mask=False)).train(), pairs()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    curve = []
    for _ in range(60):
        model.before_step()
        losses = model.losses(batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        curve.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert curve[0].keys() == {"contrastive", "caption"}
    assert curve[-1]["contrastive"] < 0.1 * curve[0]["contrastive"]
    assert curve[-1]["caption"] < 0.1 * curve[0]["caption"]
    assert model.losses(batch, Draws(only=("caption",))).keys() == {"caption"}
    written = model.eval().captions(batch.images, Generation(beams=2, max_length=8))
    texts = [ids.tolist() for ids in batch.text.ids.values.split(batch.text.ids.lengths.tolist())]
    assert written[:2] == [ids[1:-1] for ids in texts[:2]]


@pytest.mark.parametrize("method", Coca.METHODS)
def test_maps_of_words_on_patches(method):
    model, batch = randomised(Coca(CONFIG)), pairs(2)
    maps = model.alignment(batch, method)
    assert [tuple(own.shape) for own in maps] == [(int(n), 2, 2) for n in batch.text.ids.lengths]
    # of Grad-CAM a word may have nothing: the last one's state is read by none
    assert all(own.isfinite().all() and own[:-1].abs().sum() > 0 for own in maps)
    if method == "cross_attention":
        assert all((own.sum((1, 2)) < 1).all() for own in maps)  # the rest is the class token's
        record = model.alignment_record(batch)
        words, queries = record.layers[-1][0].weights, record.layers[1][0].weights
        expected = words[0].mean(0)[0] @ queries[0].mean(0)[1:, 1:]
        torch.testing.assert_close(maps[0][0].flatten(), expected)


def test_relevance_goes_through_the_queries():
    """The gradient reaches the pooling and the text tower, whose weights have rows that are no words."""
    model, batch = randomised(Coca(CONFIG)), pairs(2)
    full = model.alignment(batch, "relevance")
    record = model.alignment_record(batch)
    cut = replace(record, layers=[layer for layer in record.layers if layer[0].query != "queries"])
    with pytest.raises(InputError):
        alignment_maps(cut, "relevance")
    assert full[0].max() > 0


def test_what_cannot_be_done_is_said():
    model = Coca(CONFIG)
    with pytest.raises(InputError, match="a text has 9 pieces, the model 8 positions"):
        model.read_text(Packed.uniform(torch.ones(1, 9, dtype=torch.int64)))
    with pytest.raises(InputError, match="CoCa trains on pairs"):
        model.losses(Batch(images=pairs().images))
    with pytest.raises(InputError, match="they must agree"):
        Coca(replace(CONFIG, embed_dim=32))
