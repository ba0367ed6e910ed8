from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign import load
from coalign.errors import InputError
from coalign.flags import configure
from coalign.models.mil_nce import model as mil_nce
from coalign.recipes.videos import mil_nce_finetune, mil_nce_train
from coalign.tasks.videos import video_retrieval
from coalign.types import Batch, Video
from coalign.worlds.video_files import write_video_world
from coalign.worlds.videos import make_videos


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    parts = {
        part: make_videos(count, steps=3, seconds=1.6, split=part, kinds=6)
        for part, count in (("train", 3), ("test", 1))
    }
    write_video_world(folder, parts, side=32, fps=5)
    return folder


def test_narrated_videos_to_a_run_and_its_fine_tuning(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, Any] = {"steps": 2, "batch_size": 4, "workers": 0, "flip": False}
    configure(
        mil_nce_train.Recipe,
        data=world / "train",
        out=tmp_path / "run",
        image_size=32,
        space_to_depth=False,
        gather_gradient="exact",
        **small,
    ).run()
    said = capsys.readouterr().out
    assert "clips/s" in said and "coalign search" in said
    loaded = load(tmp_path / "run")
    model, words = loaded.model, loaded.tokenizer.listed()
    assert not model.config.video.space_to_depth and model.config.gather_gradient == "exact"
    assert model.input_spec.video.seconds == pytest.approx(3.2)
    assert "square" in words or "circle" in words
    before = model.project.weight.clone()

    captions = world / "captions_train.csv"
    configure(mil_nce_finetune.Recipe, data=captions, start=tmp_path / "run", out=tmp_path / "tuned", **small).run()
    tuned: Any = load(tmp_path / "tuned").model
    assert not torch.equal(tuned.project.weight, before)
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["task"] == "video-retrieval"
    found = video_retrieval.Evaluate(tmp_path / "tuned", world / "captions_test.csv", windows=1).evaluate()
    assert found.count == 3 and found.metrics["R@5"] == 1

    with pytest.raises(InputError, match="give a folder of videos"):
        configure(mil_nce_train.Recipe, data=tmp_path / "nothing", out=tmp_path / "other", **small).run()


def test_both_towers_are_gathered_as_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(mil_nce, "gather", lambda x, how: asked.append(how) or x)
    for how in ("local", "exact"):
        config = mil_nce.SIZES["tiny"].__class__(gather_gradient=how)
        with torch.device("meta"):
            model = mil_nce.MilNceModel(config)
        model.objective = torch.nn.Identity()
        model.loss(torch.zeros(2, 3), torch.zeros(4, 3))
    assert asked == ["local", "local", "exact", "exact"]


def test_vectors_find_a_clip_by_the_plain_product() -> None:
    torch.manual_seed(0)
    model = mil_nce.MilNceModel(mil_nce.SIZES["tiny"]).eval()
    with torch.no_grad():
        seen = model.encode(Batch(video=Video(frames=torch.rand(1, 8, 3, 64, 64))))
    assert model.similarity == "dot" and torch.equal(seen.vectors["video"], seen.pooled["video"])
