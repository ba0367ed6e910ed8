"""The pointing game, occlusion and deletion curves on a model whose right maps are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from planted import COLOURS, loaded, pictures
from safetensors.torch import save_file

from coalign.analysis.runs.alignment import MomentAlignment, RegionAlignment, chosen_method, methods_of, read_alignment
from coalign.analysis.runs.faithfulness import curves, faithfulness
from coalign.analysis.runs.occlusion import occlusion
from coalign.analysis.runs.pointing import Figure, cell_values, joined_regions, mosaics, name_in, pointing, spans
from coalign.arguments import Pairs
from coalign.data.core.samples import InMemory
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.tasks.pairs import faithfulness as faithful
from coalign.tasks.pairs import pointing as task


def drawn(grid: int = 2, count: int = 30, seed: int = 0):
    return list(mosaics(InMemory(pictures()), grid, count, seed, captions="whole", size=24))


@pytest.mark.parametrize("grid", [2, 3])
def test_planted_maps_point_right_and_shuffled_ones_by_chance(grid: int) -> None:
    found = pointing(loaded(), drawn(grid), ["similarity", "rollout"])
    right, shuffled = found.figures["similarity"], found.figures["rollout"]
    assert right["accuracy"].mean >= 0.99 and right["share"].mean >= 0.99
    chance = 1 / grid**2
    assert found.chance == chance
    assert abs(shuffled["accuracy"].mean - chance) < 3 * shuffled["accuracy"].margin
    assert abs(shuffled["share"].mean - chance) < 3 * shuffled["share"].margin
    assert found.ceiling.mean >= 0.99
    # one of three words names a colour; the others have flat maps
    assert right["word accuracy"].mean == pytest.approx((1 + 2 * chance) / 3)
    assert found.to_json()["metrics"]["similarity"]["accuracy"] == right["accuracy"].mean
    assert "ceiling" in found.table()


def test_occlusion_agrees_with_what_was_planted() -> None:
    model = loaded()
    found = pointing(model, drawn(count=2), ["occlusion"])
    assert found.figures["occlusion"]["accuracy"].mean == 1 and found.figures["occlusion"]["share"].mean > 0.9
    part = drawn(count=1)
    batch = prepare(model, images=[part[0].image], texts=[part[0].caption])
    words = model.vocabulary.words(part[0].caption)
    hidden = occlusion(model.model, batch, cells=6)[0]
    right = model.model.planted(batch)[0][1:-1]
    assert hidden.shape == right.shape == (len(words), 6, 6)
    for word, lost, own in zip(words, hidden, right, strict=True):
        if word in COLOURS:
            assert torch.corrcoef(torch.stack([lost.flatten(), own.flatten()]))[0, 1] > 0.999
        else:
            assert lost.abs().max() < 1e-5


def test_on_regions_the_cells_are_the_images_of_the_regions() -> None:
    model, names = loaded(by_region=True), list(COLOURS)
    sets = [
        {
            "features": torch.tensor([COLOURS[name]] * count) / 255,
            "boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0]] * count),
        }
        for name, count in zip(names, [1, 3, 2, 4], strict=False)
    ]
    image, cells = joined_regions(sets, 2, 3)
    assert cells.tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 3]
    torch.testing.assert_close(image["boxes"][-1], torch.tensor([0.5, 0.5, 0.75, 1.0]))
    texts = [f"a {name} thing" for name in names[:4]]
    batch = prepare(model, regions=[image], texts=[", ".join(texts)])
    words = model.vocabulary.words(", ".join(texts))
    for method in ("similarity", "occlusion"):
        (found,) = read_alignment(model.model, batch, [words], method)
        assert isinstance(found, RegionAlignment)
        means, shares = cell_values(found, 2, cells)
        for cell, span in enumerate(spans(model.vocabulary, texts)):
            assert words[span[1]] == names[cell]
            assert int(means[span[1]].argmax()) == cell and shares[span[1], cell] > 0.99


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Videos of a second of each colour, two clips a second, and what tells each second."""
    rows = ["video_id,start,end,text"]
    for number in range(10):
        colours = [list(COLOURS)[(number + place) % 10] for place in range(3)]
        looks = torch.tensor([COLOURS[name] for name in colours for _ in range(2)]) / 255
        starts = torch.arange(6) / 2
        save_file(
            {"features": looks, "times": torch.stack([starts, starts + 0.5], 1)}, tmp_path / f"{number}.safetensors"
        )
        rows += [f"{number},{place},{place + 1},a {name} thing" for place, name in enumerate(colours)]
    (tmp_path / "told.csv").write_text("\n".join(rows), "utf-8")
    return tmp_path


@pytest.mark.parametrize("grid", [2, 3])
def test_in_videos_the_cells_are_clips_in_an_order_of_their_own(
    films: Path, grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "load_run", lambda _: loaded(by_clip=True))
    asked = task.Evaluate(films, Pairs(str(films / "told.csv")), features=films, grid=grid, mosaics=40, method="all")
    drawn = asked.draw(loaded(by_clip=True).spec)
    assert all(
        len(own.image) == 2 * grid * grid and sorted(own.cells.unique()) == list(range(grid**2)) for own in drawn
    )
    assert any(own.cells[0] != 0 for own in drawn)  # or the place in the caption would tell the clip
    found = asked.evaluate()
    right, shuffled = found.figures["similarity"], found.figures["rollout"]
    assert right["accuracy"].mean >= 0.99 and right["share"].mean >= 0.99 and found.ceiling.mean >= 0.99
    assert abs(shuffled["accuracy"].mean - found.chance) < 3 * shuffled["accuracy"].margin
    assert f"{grid**2} clips in a row" in found.table()
    monkeypatch.setattr(faithful, "load_run", lambda _: loaded(by_clip=True))
    areas = faithful.Evaluate(films, Pairs(str(films / "told.csv")), features=films, limit=12).evaluate().metrics
    assert areas["deletion, similarity"] < areas["random deletion, similarity"]
    assert areas["insertion, similarity"] > areas["random insertion, similarity"]
    with pytest.raises(InputError, match="give them with --features"):
        task.Evaluate(films, Pairs(str(films / "told.csv"))).draw(loaded(by_clip=True).spec)


def test_a_model_may_have_fewer_moments_than_frames() -> None:
    cells = torch.tensor([2, 0, 1, 3]).repeat_interleave(8)
    found = MomentAlignment(("a",), torch.tensor([[0.1, 0.6, 0.2, 0.1]]))
    means, shares = cell_values(found, 2, cells)
    torch.testing.assert_close(means, torch.tensor([[0.6, 0.2, 0.1, 0.1]]))
    torch.testing.assert_close(shares, means)


def test_patches_across_the_edge_of_cells_are_shared() -> None:
    model = loaded()
    part = drawn(count=1)[0]
    (found,) = read_alignment(
        model.model,
        prepare(model, images=[part.image], texts=[part.caption]),
        [model.vocabulary.words(part.caption)],
    )
    means, shares = cell_values(found, 4)  # 6 patches by 4 cells a side
    assert means.shape == (len(found.words), 16)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(found.words)))
    colour = next(i for i, word in enumerate(found.words) if word in COLOURS)
    assert sorted(shares[colour].tolist())[-4:] == pytest.approx([0.25] * 4)


def test_mosaics_are_drawn_by_the_seed_and_use_every_image_before_any_again() -> None:
    first, again, other = drawn(count=5), drawn(count=5), drawn(count=5, seed=1)
    assert [own.texts for own in first] == [own.texts for own in again] != [own.texts for own in other]
    assert len({text for own in first[:2] for text in own.texts}) == 8
    with pytest.raises(InputError, match="fewer than 9"):
        list(mosaics(InMemory(pictures()[:5]), 3, 1, 0))
    with pytest.raises(InputError, match="no wrong cells"):
        list(mosaics(InMemory(pictures()), 1, 1, 0))
    assert name_in("grinning cat, animal, smile") == "grinning cat" and name_in("A dog. It runs.") == "A dog"
    assert name_in("3.5 litres") == "3.5 litres"


def test_a_figure_counts_mosaics_as_draws() -> None:
    found = Figure.of([[1.0, 1.0], [0.0, 0.0]])
    assert found.mean == 0.5 and found.margin == pytest.approx(
        1.96 * math.sqrt(0.5) / math.sqrt(2)
    )  # of 1 and 0, two draws
    assert Figure.of([[1.0], [1.0]]).margin == 0


def test_deletion_falls_faster_by_the_planted_map_than_by_chance() -> None:
    model = loaded()
    parts = drawn(count=6)
    batch = prepare(model, images=[own.image for own in parts], texts=[own.texts[0] for own in parts])
    words = [model.vocabulary.words(own.texts[0]) for own in parts]
    found = faithfulness(model.model, batch, words, generator=torch.Generator().manual_seed(0)).areas()
    assert bool((found["deletion"] < found["random_deletion"]).all())
    assert bool((found["insertion"] > found["random_insertion"]).all())
    upside_down = curves(model.model, batch, [-own.values.mean(0) for own in read_alignment(model.model, batch, words)])
    assert bool((upside_down.areas()["deletion"] > found["deletion"]).all())
    with pytest.raises(InputError, match="do not go with"):
        curves(model.model, batch, [torch.zeros(6, 6)])


def test_methods_are_named_and_auto_is_the_models_own() -> None:
    model = loaded().model
    assert methods_of(model) == ["similarity", "rollout", "occlusion"] and chosen_method(model) == "similarity"
    with pytest.raises(InputError, match="it has: similarity, rollout, occlusion"):
        chosen_method(model, "transport")
    with pytest.raises(InputError, match="no alignment maps"):
        methods_of(object())
