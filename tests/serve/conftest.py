"""Small runs that tests serve."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_model
from serve_pages import browser, page_of, served

import coalign
from coalign.cli.main import main
from coalign.data.words.tokenizer import Tokenizer
from coalign.registry import describe
from coalign.serve import data_addresses
from coalign.serve.app import app
from coalign.serve.study import Studies
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "grey": (120, 120, 120)}
SHAPES = ("square", "circle")
CAPTION = "<img src=x onerror=alert(1)> & a <b>bold</b> red square"
"""A caption that would be HTML if it were taken for it."""


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """Eight pictures with two columns more; the last caption is HTML."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = ["image,caption,colour,size"]
    for number, (name, colour) in enumerate(COLOURS.items()):
        for shape in SHAPES:
            image = Image.new("RGB", (48, 32), "white")
            draw = ImageDraw.Draw(image).rectangle if shape == "square" else ImageDraw.Draw(image).ellipse
            draw((4 + 4 * number, 4, 28 + 4 * number, 28), fill=colour)
            image.save(folder / f"{name}-{shape}.png")
            lines.append(f"{name}-{shape}.png,a {name} {shape},{name},{'small' if number % 2 else 'large'}")
    Image.new("RGB", (40, 40), COLOURS["red"]).save(folder / "html.png")
    lines.append(f'html.png,"{CAPTION}",red,small')
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def make_run(folder: Path, seed: int = 0) -> Path:
    """A run of a tiny ALBEF that was not trained."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train([f"a {name} {shape}" for name in COLOURS for shape in SHAPES], 140, min_frequency=1)
    model = coalign.create(
        "albef",
        image=VitConfig(image_size=32, patch_size=8, dim=32, depth=1, heads=2, hidden_dim=64),
        text=BertConfig(
            vocab_size=tokenizer.vocab_size, dim=32, depth=3, heads=2, hidden_dim=64, context_dim=32, cross_from=1
        ),
        embed_dim=16,
        queue_size=8,
    ).model
    described = describe(model)
    training = {"steps": 20, "learning_rate": 0.001}
    (folder / "config.json").write_text(json.dumps({**described, "training": training, "seed": seed}))
    save_model(model, str(folder / "model.safetensors"))
    tokenizer.save(folder)
    steps = [{"step": step, "loss": 3.0 - step / 10, "itc": 2.0 - step / 20} for step in range(0, 20, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, table) -> Path:
    """A run with an index of the table."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "tiny")
    with pytest.raises(SystemExit):
        main(["index", str(folder), "--data", str(table)])
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory, table) -> Path:
    """Another run, of other weights."""
    folder = make_run(tmp_path_factory.mktemp("others") / "other", seed=1)
    with pytest.raises(SystemExit):
        main(["index", str(folder), "--data", str(table)])
    return folder


@pytest.fixture(scope="session")
def address(run, other):
    """A server of three runs, the last of which is the second again. Studies are made in a thread, and a map of nine
    pictures is laid out as one of many, on a circle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_addresses, "FEW", 5)
        patch.setattr(data_addresses, "lay_out", circle)
        application = app([run, other, other])
        application.state.service.studies = Studies(lambda: ThreadPoolExecutor(1))
        with served(application) as address:
            yield address


def circle(vectors):
    """[n, 2] places on a circle, in the order of the rows."""
    angles = 2 * np.pi * np.arange(len(vectors)) / len(vectors)
    return (0.5 + 0.4 * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.float32)


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests of a process."""
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chromium, address):
    """A page whose console must stay empty."""
    with page_of(chromium, accept_downloads=True) as page:
        page.address = address
        page.set_default_timeout(60_000)
        yield page
