"""A small model with everything that makes resuming hard, a loader, and a script whose trainings are killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the optimiser imports it at its first use: here, once for all forks
from torch import Tensor, nn
from torch.nn import functional as F

from coalign.layers.momentum import FeatureQueue, momentum_copy, momentum_update
from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import AlbefConfig
from coalign.ops.collectives import gather, rank, world_size
from coalign.training.loop import Callback, FitResult, TrainConfig, fit
from coalign.training.run import Run
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig
from coalign.types import FREE, Batch, Draws, Images, Packed, Text

WORDS, LENGTH, WIDTH = 11, 5, 8
KINDS = ("toy", "albef")


class ToyModel(nn.Module):
    """Dropout, a batch norm, tied weights, a momentum copy, a queue, random masks; two objectives."""

    def __init__(self, dropout: float = 0.1, queue: int = 12, norm: bool = True) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(48, WIDTH), nn.BatchNorm1d(WIDTH) if norm else nn.Identity())
        self.words = nn.Embedding(WORDS, WIDTH)
        self.decoder = nn.Linear(WIDTH, WORDS)
        self.decoder.weight = self.words.weight
        self.dropout = nn.Dropout(dropout)
        self.temperature = nn.Parameter(torch.tensor(0.2))
        self.image_momentum = momentum_copy(self.image)
        self.queue = FeatureQueue(queue, image=WIDTH) if queue else None
        self.pending: list[tuple[Tensor, Tensor]] = []

    def before_step(self) -> None:
        with torch.no_grad():
            self.temperature.clamp_(0.05, 1.0)
        momentum_update(self.image_momentum, self.image, 0.9)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        assert batch.images is not None and batch.images.pixels is not None and batch.text is not None
        ids = batch.text.ids.to_padded()
        image = F.normalize(self.dropout(self.image(batch.images.pixels)), dim=-1)
        text = F.normalize(self.dropout(self.words(ids).mean(1)), dim=-1)
        images = gather(image, grad="exact")
        if self.queue is not None:
            with torch.no_grad():
                follower = gather(F.normalize(self.image_momentum(batch.images.pixels), dim=-1))
            assert batch.ids is not None
            self.pending.append((follower, gather(batch.ids)))
            images = torch.cat([images, self.queue.get_buffer("image").T.clone()])
        target = torch.arange(len(ids)) + rank() * len(ids)
        losses = {"contrastive": F.cross_entropy(text @ images.T / self.temperature, target)}
        if self.queue is not None:
            hidden = torch.rand(ids.shape, generator=draws.generator) < 0.3
            logits = self.decoder(self.words(ids.masked_fill(hidden, 0)) + image[:, None])
            losses["masked"] = (F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")).mean()
        return losses if draws.only is None else {name: losses[name] for name in draws.only}

    @torch.no_grad()
    def after_step(self) -> None:
        for image, ids in self.pending:
            assert self.queue is not None
            self.queue.enqueue(ids, image=image)
        self.pending.clear()


def tiny_albef() -> Albef:
    return Albef(
        AlbefConfig(
            image=VitConfig(image_size=8, patch_size=4, dim=16, depth=1, heads=2, hidden_dim=32, dropout=0.1),
            text=BertConfig(
                vocab_size=WORDS, dim=16, depth=2, heads=2, hidden_dim=32, positions=8, context_dim=16, cross_from=1
            ),
            embed_dim=8,
            queue_size=12,
            momentum=0.9,
            alpha_steps=10,
            mask_probability=0.3,
            max_text_length=LENGTH,
            cls_id=1,
            mask_id=2,
        )
    )


class ToyLoader:
    """Shuffled epochs over fixed random pairs; each rank takes its own part of every batch."""

    def __init__(self, items: int = 20, batch_size: int = 4, image_size: int = 4, ragged: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(items, 3, image_size, image_size, generator=generator)
        self.texts = torch.randint(3, WORDS, (items, LENGTH), generator=generator)
        self.texts[:, 0] = 1
        self.lengths = torch.randint(2, LENGTH + 1, (items,), generator=generator)
        self.batch_size, self.ragged = batch_size, ragged
        self.epoch = self.batch = 0

    def __iter__(self) -> Iterator[Batch]:
        torch.randint(9, ())  # as torch's DataLoader does when it begins to iterate
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(self.epoch))
        batches = [rows for rows in order.split(self.batch_size) if len(rows) == self.batch_size]
        while self.batch < len(batches):
            self.batch += 1
            rows = batches[self.batch - 1].chunk(world_size())[rank()]
            if self.ragged:
                ids = Packed.from_items([self.texts[row, : self.lengths[row]] for row in rows])
            else:
                ids = Packed.uniform(self.texts[rows])
            yield Batch(text=Text(ids), images=Images(pixels=self.pixels[rows]), ids=rows.clone())
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


def killer(at: int, after: float) -> Callback:
    """Sends SIGKILL to this process `after` seconds behind step `at`, wherever it then is."""

    def shoot() -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)

    def call(model: nn.Module, step: int) -> None:
        if step == at:
            threading.Thread(target=shoot, daemon=True).start()
            if after == 0:
                time.sleep(10)

    return Callback(1, call)


def train(folder: Path, config: TrainConfig, callbacks: Sequence[Callback] = (), kind: str = "toy") -> FitResult:
    return train_model(new(kind), folder, config, callbacks, kind)


def new(kind: str) -> nn.Module:
    torch.manual_seed(100 + rank())  # the ranks start from different weights: rank 0's must win
    return tiny_albef() if kind == "albef" else ToyModel()


def train_model(
    model: nn.Module, folder: Path, config: TrainConfig, callbacks: Sequence[Callback] = (), kind: str = "toy"
) -> FitResult:
    loader = ToyLoader(image_size=8, ragged=True) if kind == "albef" else ToyLoader()
    return fit(model, loader, config, Run(folder, {"system": kind}), callbacks)


def resumable(steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, lr=0.01, log_every=1, save_every=7, average=0.9, threads=1)


class Interrupted(Exception):  # noqa: N818
    """Ends a training from inside."""


def train_until(stop: int, folder: Path, config: TrainConfig) -> None:
    """Trains and raises Interrupted in step `stop`, before it is logged or saved."""
    model = new("toy")
    assert isinstance(model, ToyModel)
    after_step, count = model.after_step, 0

    def counting() -> None:
        nonlocal count
        after_step()
        count += 1
        if count == stop:
            raise Interrupted

    model.after_step = counting  # type: ignore[method-assign]
    train_model(model, folder, config)


def main() -> None:
    """python toy.py FOLDER STEPS [KILL_AT KILL_AFTER]…: trains in FOLDER/toy and FOLDER/albef, killed that often each.

    One process after the other, forks of this one so that torch is imported once. Prints how each ended.
    """
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for kind in KINDS:
        for at, after in zip(sys.argv[3::2], sys.argv[4::2], strict=True):
            child = os.fork()
            if child == 0:
                try:
                    config = replace(resumable(steps), background_saves=kind == "albef")
                    train(folder / kind, config, [killer(int(at), float(after))], kind)
                    os._exit(0)
                finally:  # an error must not go on in the parent's loop
                    traceback.print_exc()
                    os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
