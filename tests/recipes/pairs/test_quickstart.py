"""The quick start's pieces on real data; the whole command is the smoke of `.ci/run`."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from coalign import load
from coalign.arguments import Pairs
from coalign.data.images.drawings import augment_drawings
from coalign.data.pairs.emoji import EmojiPairs, load_emoji, texts_about
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.models.dinov2.model import DinoV2, DinoV2Config
from coalign.models.dinov2.names import original
from coalign.recipes.pairs import albef_small, quickstart
from coalign.recipes.pairs._compact import aligned_samples, compact, linear_baseline, reranking_of
from coalign.recipes.pairs.quickstart import TRAIN_STYLES
from coalign.retrieval.index import Index
from coalign.retrieval.rerank import Reranking
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws

STYLE = "noto"


@pytest.fixture(scope="module")
def concepts():
    return load_emoji(96)[:24]


@pytest.fixture(scope="module")
def loaded():
    return compact(steps=10, seed=0)


@pytest.fixture(scope="module")
def model(loaded):
    return loaded.model


@pytest.fixture(scope="module")
def frozen(loaded, concepts):
    pairs = EmojiPairs(concepts, TRAIN_STYLES, parts=2)
    found = FrozenFeatures(loaded, pairs, Views(2, augment_drawings, mosaics=1))
    loaded.model.standardise(*found.first_views)
    return found


@pytest.fixture(scope="module")
def gallery(loaded, concepts):
    return FrozenFeatures(loaded, EmojiPairs(concepts, (STYLE,)), Views(1))


def test_cached_states_and_features_are_what_the_model_computes(loaded, model, gallery, concepts):
    model.eval()
    (batch,) = gallery.loader(24, train=False)
    cached = model.encode(batch)
    text = model.encode(Batch(text=replace(batch.text, states=None)))
    images = prepare(loaded, images=[Image.fromarray(c.images[STYLE]) for c in concepts])
    torch.testing.assert_close(cached.vectors["text"], text.vectors["text"], atol=2e-3, rtol=0)
    torch.testing.assert_close(cached.vectors["image"], model.encode(images).vectors["image"], atol=2e-3, rtol=0)


def test_the_bank_holds_the_vectors_of_the_training_drawings_and_of_full_texts(
    loaded, model, frozen, concepts, tmp_path
):
    bank = reranking_of(model, frozen, tmp_path).bank
    assert bank is not None and (tmp_path / "querybank.safetensors").is_file()
    assert bank.image.shape[0] == 2 * len(concepts) and bank.text.shape[0] == len(concepts)
    seen = model.encode(
        prepare(loaded, images=[Image.fromarray(concepts[3].images["openmoji"])], texts=[concepts[3].text])
    )
    for vectors, own in ((bank.image, seen.vectors["image"]), (bank.text, seen.vectors["text"])):
        assert (vectors @ own[0]).max() > 0.999


def test_the_loss_falls_and_words_learn_their_cells(model, frozen):
    generator = torch.Generator().manual_seed(0)
    fixed = ("text.embedding", "temperature")  # the recipe's temperature learns ten times slower
    parameters = [p for n, p in model.named_parameters() if p.requires_grad and not any(f in n for f in fixed)]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    loader, losses = frozen.loader(8, first=0.5, further=8, mosaics=6), {}
    model.train()
    for _ in range(5):
        for batch in loader:
            model.before_step()
            found = model.losses(batch, Draws(generator))
            optimiser.zero_grad()
            sum(found.values()).backward()
            optimiser.step()
            model.after_step()
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss.item())
    assert set(losses) == {"itc", "itm", "mlm", "late"}
    for name in ("itc", "late"):
        assert sum(losses[name][-6:]) / 6 < 0.8 * losses[name][0]


def test_maps_of_words_are_shares_of_the_patches(loaded, model, concepts):
    model.eval()
    batch = prepare(loaded, images=[Image.fromarray(concepts[0].images[STYLE])], texts=[concepts[0].name])
    for method in ("similarity", "cross_attention"):
        (found,) = model.alignment(batch, method)
        assert found.shape == (len(batch.text.ids.values), 6, 6)
    torch.testing.assert_close(model.alignment(batch)[0].sum((1, 2)), torch.ones(len(batch.text.ids.values)))


def test_matching_the_first_rows_alone_is_the_whole_computation(model, gallery):
    model.eval()
    batch = next(iter(gallery.loader(6, train=False)))
    with torch.no_grad():
        seen = model.encode(batch)
        pairs = torch.arange(len(batch.ids))[:, None].expand(-1, 2)
        alone = model.match(seen.tokens["image"], seen.tokens["text"], pairs)
    torch.testing.assert_close(alone, seen.pooled["match_logits"][:, 1], atol=1e-4, rtol=1e-4)


def test_the_baseline_tells_drawings_of_its_own_styles_apart(frozen, gallery):
    found = linear_baseline(frozen, gallery, {"all": range(24)}, seed=0)["all"]
    assert found["text_to_image"]["R@1"] > 0.8  # 24 drawings that it was trained on; chance is 0.04


def test_the_whole_quick_start(concepts, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "load_emoji", lambda size: concepts)
    for name, value in (("BATCH", 8), ("FURTHER_TEXTS", 4), ("MOSAICS", 2)):
        monkeypatch.setattr(quickstart, name, value)
    monkeypatch.setattr(quickstart, "VIEWS", replace(quickstart.VIEWS, count=2, mosaics=1))
    quickstart.Recipe(options=RunOptions(out=tmp_path / "run"), steps=2).run()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for part, count in (("seen", 22), ("unseen", 2)):
        assert results["splits"][part]["gallery"] == count
        for row in ("model", "reranked", "baseline", "untrained", "chance"):
            assert 0 <= results["splits"][part][row]["text_to_image"]["R@1"] <= 1
    assert {group["split"] for group in results["groups"]} == {"seen", "unseen"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Quick start" in page and concepts[0].text in page
    assert Index.open(tmp_path / "run" / "index").count("image") == 24
    assert Reranking.of_run(tmp_path / "run").bank is not None


@pytest.fixture
def pairs(concepts, tmp_path):
    lines = ["image,text"]
    for number, concept in enumerate(concepts[:10]):
        Image.fromarray(concept.images[STYLE]).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{concept.name}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return Pairs(data=str(tmp_path / "pairs.csv"))


def small(pairs, out, **settings):
    return albef_small.Recipe(
        pairs=pairs, schedule=Schedule(steps=2, batch_size=4), options=RunOptions(out=out), **settings
    )


def test_users_own_pairs(pairs, tmp_path):
    small(pairs, tmp_path / "run").run()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["system"] == "compact" and config["recipe"] == "albef-small"
    assert not (tmp_path / "run" / albef_small.FEATURES).exists()  # they have served their turn
    assert (tmp_path / "run" / "tokenizer.json").is_file() and (tmp_path / "run" / "querybank.safetensors").is_file()


def test_users_own_pairs_on_a_frozen_tower(pairs, tmp_path):
    trunk = VitConfig(56, 14, dim=48, depth=1, heads=3, hidden_dim=64, registers=2, layer_scale=0.1)
    dino = DinoV2(DinoV2Config(trunk, antialias=True, offset=0.0)).eval()
    save_file(original(dino.config).export(dino.state_dict()), tmp_path / "dino.safetensors")
    tower = {"image_tower": tmp_path / "dino.safetensors", "image_tower_system": "dinov2"}
    small(pairs, tmp_path / "run", **tower).run()
    loaded = load(tmp_path / "run").eval()
    batch = prepare(loaded, images=[tmp_path / "0.png"], texts=["a star"])
    kept = loaded.model.stem.trunk.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in dino.trunk.state_dict().items())
    seen = loaded.model.features(batch.images).grid  # 4 x 4 cells, as the tower sees it
    torch.testing.assert_close(seen, dino.dense(batch.images), atol=1e-3, rtol=0.0)
    assert seen.shape == (1, 48, 4, 4)
    (maps,) = loaded.model.alignment_record(batch).similarity
    assert maps.shape[1] == 16
    torch.testing.assert_close(maps.sum(1), torch.ones(len(maps)))
    with pytest.raises(InputError, match="there is none"):
        small(pairs, tmp_path / "b", image_tower_system="dinov2").run()
    with pytest.raises(InputError, match="is no run; say whose file it is by --image-tower-system"):
        small(pairs, tmp_path / "b", image_tower=tower["image_tower"]).run()
    with pytest.raises(InputError, match="none: no such file or folder"):
        small(pairs, tmp_path / "b", image_tower=tmp_path / "none").run()
    with pytest.raises(InputError, match="2 x 2 are the least"):
        small(pairs, tmp_path / "c", image_size=14, **tower).run()
    small(pairs, tmp_path / "d", objectives=("itc", "itm"), **tower).run()  # without what compares words and patches
    plain = load(tmp_path / "d").model
    assert plain.word_patches is None and "similarity" not in plain.alignment_methods
    with pytest.raises(InputError, match="no objective 'wpa'; there are: itc, itm, mlm, late"):
        small(pairs, tmp_path / "e", objectives=("wpa",), **tower).run()


def test_the_texts_of_a_concept(concepts):
    generator = torch.Generator().manual_seed(0)
    assert texts_about(concepts[0], 0, generator) == (concepts[0].text,)
    full, name, *parts = texts_about(concepts[0], 3, generator)
    assert (full, name) == (concepts[0].text, concepts[0].name) and len(parts) == 3
    assert all(part.split(", ")[0] == name for part in parts)


def test_augmented_drawings_stay_on_white(concepts):
    pixels = [torch.from_numpy(c.images[STYLE]).permute(2, 0, 1) for c in concepts]
    changed = augment_drawings(pixels, torch.Generator().manual_seed(0))
    again = augment_drawings(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again) and not torch.allclose(changed, torch.stack(pixels) / 255)
    assert changed.min() >= 0 and changed.max() <= 1
    assert changed[:, :, 0, 0].median() > 0.95


def test_each_name_of_the_report_says_right_or_wrong_and_the_share_that_its_map_has_there(loaded, concepts, frozen):
    samples = aligned_samples(loaded.eval(), {"seen": EmojiPairs(concepts, (STYLE,))}, seed=0, count=2)
    assert len(samples) == 2 and frozen is not None  # features have been standardised
    for sample in samples:
        quarters = sample.maps.values.unflatten(2, (2, 3)).unflatten(1, (2, 3)).sum((2, 4)).flatten(1)  # [4 names, 4]
        shares, right = quarters.diagonal() / quarters.sum(1), quarters.argmax(1) == torch.arange(4)
        for word, share, own in zip(sample.maps.words, shares.tolist(), right.tolist(), strict=True):
            assert word.endswith(f" ({'right' if own else 'wrong'}, {share:.0%})")
        assert sample.note.startswith(f"seen: {int(right.sum())} of 4 right")
