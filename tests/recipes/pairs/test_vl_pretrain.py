"""Pre-training of image-and-text models on a small world, and what of its data is wanting."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import coalign
from coalign.data.core.samples import InMemory, Sample, Where
from coalign.data.regions.files.shards import write_shard
from coalign.data.regions.pairs import RegionPairs
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.layers.momentum import Similarities
from coalign.recipes import find_recipe
from coalign.tasks import find_task
from coalign.types import RegionSpec, TextSpec, needed
from coalign.worlds.scene_files import write_world
from coalign.worlds.scenes import COLOURS, SHAPES, make_scenes

WIDTH = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes whose regions have random features."""
    out = tmp_path_factory.mktemp("pretrain") / "world"
    write_world(out, {"train": 12}, side=32, things=(1, 3))
    scenes, generator = make_scenes(12, things=(1, 3)), torch.Generator().manual_seed(0)
    sets: list[dict[str, Any]] = [
        {
            "features": torch.randn(len(scene.things), WIDTH, generator=generator),
            "boxes": torch.from_numpy(scene.boxes),
            "classes": torch.eye(len(SHAPES) + 1)[[SHAPES.index(thing.shape) + 1 for thing in scene.things]],
            "attributes": torch.tensor([list(COLOURS).index(thing.colour) for thing in scene.things]),
        }
        for scene in scenes
    ]
    write_shard(out / "regions.safetensors", [scene.number for scene in scenes], sets)
    plain = [{name: each[name] for name in ("features", "boxes")} for each in sets]
    write_shard(out / "plain.safetensors", [scene.number for scene in scenes], plain)
    return out


def settings(world: Path, system: str, out: Path, **given: Any) -> dict[str, Any]:
    seen = {} if system in ("vilt", "albef") else {"regions": world / "regions.safetensors"}
    short = {"steps": 2, "batch_size": 4, "out": out}
    return {"data": str(world / "captions_train.json"), **seen, **short, **given}


@pytest.mark.parametrize("system", ["visualbert", "uniter", "vilbert", "lxmert", "vilt", "albef"])
def test_a_recipe_trains_a_run_that_loads_and_is_measured(world: Path, tmp_path: Path, system: str) -> None:
    recipe = find_recipe(f"{system}-pretrain")
    given = settings(world, system, tmp_path / "run", dropout=0.0)
    if system == "lxmert":
        asked = {name: world / f"{name}_train.json" for name in ("questions", "annotations")}
        given |= {**asked, "least": 1}
    configure(recipe, **given).run()
    loaded = coalign.load(tmp_path / "run")
    assert isinstance(loaded.tokenizer, Tokenizer)
    spec = loaded.spec
    assert spec.text.vocab_size == loaded.tokenizer.vocab_size < 200
    seen = {"regions": given["regions"]} if "regions" in given else {"images": world}
    task = find_task("matching")(run=tmp_path / "run", data=str(world / "foils_train.jsonl"), **seen)
    assert 0 <= task.evaluate().metrics["right_wins"] <= 1
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["losses"]
    if system == "lxmert":
        assert set(losses) == {"mlm", "itm", "objects", "attributes", "features", "answers"}


def test_objectives_follow_from_what_the_regions_have(world: Path) -> None:
    sample = {"features": torch.zeros(1, WIDTH), "boxes": torch.zeros(1, 4)}
    full = {**sample, "classes": torch.zeros(1, 7), "attributes": torch.zeros(1)}

    def of(system: str, regions: dict[str, Any]) -> dict[str, Any]:
        recipe = configure(find_recipe(f"{system}-pretrain"), data="", regions=world)
        return recipe.of_regions(WIDTH, regions, *([0] if system == "lxmert" else []))

    assert "mrckl" not in of("uniter", sample)["objectives"]
    assert of("uniter", full)["classes"] == 7 and "mrckl" in of("uniter", full)["objectives"]
    assert of("vilbert", sample)["region_target"] == "features" and of("vilbert", full)["region_targets"] == 7
    assert of("lxmert", sample)["objectives"] == ("mlm", "itm", "features")
    assert of("lxmert", full)["objects"] == 6 and "attributes" in of("lxmert", full)["objectives"]


def test_a_run_starts_from_another_and_goes_on(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("uniter-pretrain")
    plain = {"regions": world / "plain.safetensors"}
    first = settings(world, "uniter", tmp_path / "a", **plain)
    configure(recipe, **first).run()
    configure(recipe, **settings(world, "uniter", tmp_path / "b", **plain, start=tmp_path / "a", lr=1e-9)).run()
    a, b = (coalign.load(tmp_path / name).model.state_dict() for name in ("a", "b"))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    configure(recipe, **first).run()  # nothing is left to do
    with pytest.raises(InputError, match="other settings"):
        configure(recipe, **{**first, "steps": 3}).run()
    with pytest.raises(InputError, match="no size 'huge'"):
        configure(recipe, **settings(world, "uniter", tmp_path / "c", size="huge")).run()
    with pytest.raises(InputError, match="--dropout, --alignment-weight: set fresh weights"):
        again = {"start": tmp_path / "a", "alignment_weight": 0.0, "dropout": 0.0}
        configure(recipe, **settings(world, "uniter", tmp_path / "c", **again)).run()


def test_fresh_weights_of_small_sizes_follow_their_width(world: Path, tmp_path: Path) -> None:
    for system in ("vilt", "albef"):
        recipe = find_recipe(f"{system}-pretrain")
        made: list[Any] = []
        for how in ("paper", "xavier"):
            given = settings(world, system, tmp_path / f"{system}-{how}", initialiser=how, steps=1, lr=1e-12)
            configure(recipe, **given).run()
            made.append(coalign.load(given["out"]).model.state_dict())
        (name, paper), *_ = [(n, t) for n, t in made[0].items() if "feed_forward" in n and t.dim() == 2]
        assert 2 * paper.std() < made[1][name].std()
        table = next(n for n in made[0] if n.endswith("word.weight"))
        assert made[0][table].std().item() == pytest.approx(0.02, rel=0.2)
        assert made[1][table].std().item() == pytest.approx(made[1][table].shape[1] ** -0.5, rel=0.1)
        if system == "albef":
            held = {n.removeprefix("momentum."): t for n, t in made[1].items() if n.startswith("momentum.")}
            assert held and all(torch.allclose(t, made[1][f"online.{n}"], atol=1e-6) for n, t in held.items())


def test_the_share_of_hidden_words_is_that_of_the_flag(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("vilt-pretrain")
    given = {"steps": 1, "mask_probability": 0.4, "alignment_weight": 0.0}
    configure(recipe, **settings(world, "vilt", tmp_path / "run", **given)).run()
    config = coalign.load(tmp_path / "run").model.config
    assert config.mask_probability == 0.4 and config.alignment_weight == 0
    with pytest.raises(InputError, match="--alignment-weight: set fresh weights"):
        again = {"start": tmp_path / "run", "alignment_weight": 0.0}
        configure(recipe, **settings(world, "vilt", tmp_path / "b", **again)).run()
    with pytest.raises(InputError, match="between 0 and 1"):
        configure(recipe, **settings(world, "vilt", tmp_path / "b", mask_probability=40.0)).run()
    clip = find_recipe("clip-pretrain")
    with pytest.raises(InputError, match="clip learns from no hidden words"):
        configure(clip, **settings(world, "vilt", tmp_path / "b", mask_probability=0.4)).run()


def test_albef_starts_from_trained_towers_and_trains_them_on(world: Path, tmp_path: Path) -> None:
    """The picture tower of an MAE and the halves of a BERT, with its vocabulary; the cross-attentions are fresh."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a red circle and a blue star\nthe red circle is left of the blue star\n\n" * 40)
    short = {"steps": 1, "batch_size": 4}
    mae, bert, out = tmp_path / "mae", tmp_path / "bert", tmp_path / "albef"
    configure(find_recipe("mae-pretrain"), data=str(world / "images"), size="mini", out=mae, **short).run()
    configure(find_recipe("bert-pretrain"), data=str(texts), out=bert, max_length=24, **short).run()
    recipe = find_recipe("albef-pretrain")
    towers = {"image_tower": mae, "train_image_tower": True, "text_tower": bert}
    configure(recipe, **settings(world, "albef", out, lr=1e-12, steps=1, **towers)).run()
    found, pictures, words = coalign.load(out), coalign.load(mae).model, coalign.load(bert).model
    albef: Any = found.model
    assert found.vocabulary.vocab_size == words.config.trunk.vocab_size
    for own in (albef.online, albef.momentum):
        for part, given in ((own.image, pictures.trunk), (own.text, words.trunk), (own.words, words.words)):
            kept = part.state_dict()
            assert all(torch.allclose(tensor, kept[name], atol=1e-6) for name, tensor in given.state_dict().items())
    assert all(parameter.requires_grad for parameter in albef.online.image.parameters())
    assert albef.config.text.cross_from == words.config.trunk.depth // 2 == 1
    with pytest.raises(InputError, match="--text-tower: sets fresh weights"):
        configure(recipe, **settings(world, "albef", tmp_path / "b", start=out, text_tower=bert)).run()
    with pytest.raises(InputError, match="there is none"):
        configure(recipe, **settings(world, "albef", tmp_path / "b", train_image_tower=True)).run()


def test_vilt_starts_from_a_vit_and_reads_pixels_as_it_did(world: Path, tmp_path: Path) -> None:
    """Of an MAE, whose pixels have another mean and deviation: the same rows of the same picture."""
    mae, out = tmp_path / "mae", tmp_path / "vilt"
    short = {"steps": 1, "batch_size": 4}
    configure(find_recipe("mae-pretrain"), data=str(world / "images"), size="mini", out=mae, **short).run()
    recipe = find_recipe("vilt-pretrain")
    configure(recipe, **settings(world, "vilt", out, lr=1e-12, steps=1, vit=mae)).run()
    found, pictures = coalign.load(out), coalign.load(mae)
    vilt: Any = found.model
    trunk: Any = pictures.model.trunk
    assert vilt.config.image.depth == trunk.config.depth and vilt.config.image.dim == 96
    assert torch.allclose(
        vilt.trunk.encoder.blocks[3].feed_forward.up.weight, trunk.encoder.blocks[3].feed_forward.up.weight
    )
    picture = str(world / "images" / "0000003.png")
    own, other = (needed(coalign.prepare(each, images=[picture]).images, "images") for each in (found, pictures))
    assert not torch.allclose(needed(own.pixels, "pixels"), needed(other.pixels, "pixels"))
    rows = vilt.trunk.embed_image(own, vilt.trunk.patches(own)).values
    assert torch.allclose(rows[1:], (trunk.patches(other) + trunk.positions[:, 1:])[0], atol=1e-4)
    with pytest.raises(InputError, match="--vit: sets fresh weights"):
        configure(recipe, **settings(world, "vilt", tmp_path / "b", start=out, vit=mae)).run()
    with pytest.raises(InputError, match="--patch-size sets fresh patches"):
        configure(recipe, **settings(world, "vilt", tmp_path / "b", patch_size=8, vit=mae)).run()


def test_negatives_of_albef_are_drawn_as_sharply_as_the_flag_says(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("albef-pretrain")
    configure(recipe, **settings(world, "albef", tmp_path / "run", steps=1, negative_sharpness=0.0)).run()
    found = coalign.load(tmp_path / "run")
    model: Any = found.model
    assert model.config.negative_sharpness == 0
    with pytest.raises(InputError, match="--negative-sharpness: set fresh weights"):
        again = {"start": tmp_path / "run", "negative_sharpness": 0.5}
        configure(recipe, **settings(world, "albef", tmp_path / "b", **again)).run()
    near = torch.tensor([[9.0, 8.0, -50.0, -50.0]] * 4)
    contrast = Similarities(near, near, torch.eye(4), torch.eye(4))
    batch = coalign.prepare(found, texts=["a red circle"] * 4)

    def wrong(sharpness: float) -> set[int]:
        model.settings = replace(model.settings, negative_sharpness=sharpness)
        generator = torch.Generator().manual_seed(0)
        drawn = [model.draw_negatives(batch, contrast, generator)["neg_image_index"][0] for _ in range(40)]
        return {int(each) for each in drawn}

    assert wrong(1.0) == {1} and wrong(0.0) == {1, 2, 3}


def test_the_temperature_of_albef_learns_slowly(world: Path, tmp_path: Path) -> None:
    """At the full rate it runs away, since it is one number and small models take large rates."""
    recipe = find_recipe("albef-pretrain")
    configure(recipe, **settings(world, "albef", tmp_path / "run", lr=1e-3, warmup=0.0, dropout=0.0)).run()
    trained: Any = coalign.load(tmp_path / "run").model
    moved = abs(trained.temperature.item() - 0.07)
    assert 0 < moved < 2 * 2e-4  # two steps of about a tenth of the rate each


@dataclass(frozen=True)
class Regions:
    """A region file of some images in a folder."""

    folder: Path

    def of(self, *ids: int) -> Any:
        from coalign.data.regions.files import open_regions

        sets = [{"features": torch.ones(id % 3, 2), "boxes": torch.zeros(id % 3, 4)} for id in ids]
        write_shard(self.folder / "some.safetensors", ids, sets)
        return open_regions(self.folder / "some.safetensors")


def source(*ids: int) -> InMemory:
    return InMemory([Sample(f"/pictures/{id:05d}.png", ("a b", "c" * id), id, Where("memory", id)) for id in ids])


def test_images_without_regions_are_left_out_or_an_error(tmp_path: Path) -> None:
    regions = Regions(tmp_path).of(1, 2, 3)
    pairs = RegionPairs(source(1, 2, 3, 9), regions, max_missing=0.25)
    assert len(pairs) == 3 and pairs.missing == ["/pictures/00009.png"]
    assert pairs[0].name == "1" and len(pairs[0].regions["features"]) == 1
    with pytest.raises(InputError, match=r"no regions of 1 of the 4 images .* 00009|/pictures/00009.png"):
        RegionPairs(source(1, 2, 3, 9), regions)
    with pytest.raises(InputError, match="no regions of 1 of the 1"):
        RegionPairs(source(9), regions, max_missing=1.0)


def test_batches_take_any_number_of_regions_and_one_text(tmp_path: Path) -> None:
    from coalign.types import InputSpec

    tokenizer = Tokenizer.train(["a b c"] * 9, 60)
    pairs = RegionPairs(source(1, 2, 3), Regions(tmp_path).of(1, 2, 3))
    spec = InputSpec(text=TextSpec(vocab_size=99, max_length=8), regions=RegionSpec(2))
    (batch,) = list(pairs.batches(spec, tokenizer, 3))
    assert batch.text is not None and batch.regions is not None
    assert sorted(batch.regions.features.lengths.tolist()) == [0, 1, 2] and len(batch.text.ids) == 3
    assert batch.ids is not None and len(set(batch.ids.tolist())) == 3
    with pytest.raises(InputError, match="2 wide, the model reads 5"):
        list(pairs.batches(InputSpec(text=TextSpec(max_length=8), regions=RegionSpec(5)), tokenizer, 3))
