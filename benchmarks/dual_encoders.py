"""Dual encoders and BLIP: what their losses and their captions are worth. A line of JSON a figure.

    python benchmarks/dual_encoders.py batches [--seed S] [--development]
    python benchmarks/dual_encoders.py memory [--batches 1536 3072 6144]
    python benchmarks/dual_encoders.py noise TABLE OUT.csv [--share 0.333]
    python benchmarks/dual_encoders.py noise-found OUT.csv KEPT.jsonl DROPPED.jsonl
    python benchmarks/dual_encoders.py noise-gain OUT.csv KEPT.jsonl TABLE TEST
    python benchmarks/dual_encoders.py captions-found CAPTIONS.jsonl TABLE

`batches`: softmax (CLIP) against sigmoid (SigLIP) as the batch shrinks, equally many pairs seen, by maps on frozen
features of the emoji: EfficientNet-lite0 pooled and linear, MiniLM and two layers. `--development` compares rates
(trained on OpenMoji, tested on Noto). `memory`: peak of the sigmoid loss, forward and backward, in each of 1, 2 and 3
processes that share a global batch, block by block as it is and in one block, with the exponent in the global batch;
bytes of live tensors are counted, not pages.
`noise` gives a share of a table's pictures the texts of others (column "wrong"; OUT.csv beside TABLE, or `coalign
filter` needs --outside-paths); `noise-found` says how well
`coalign filter` knew them, `noise-gain` what maps trained on what it kept gain. `captions-found`: the right text among
a table's by MiniLM's vector of the caption.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import socket
import time
import weakref
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from coalign.data.pairs.emoji import EmojiPairs, load_emoji, split_concepts
from coalign.data.pairs.frozen import Choice, FrozenFeatures
from coalign.data.pairs.frozen_parts import Views
from coalign.data.pairs.sources import open_source
from coalign.layers.convolution import EfficientNetLite0
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.sigmoid import SigmoidContrastive
from coalign.ops.targets import matching_targets
from coalign.recipes.pairs._compact import compact, pooled_images
from coalign.recipes.pairs.quickstart import TEST_STYLE, TRAIN_STYLES
from coalign.retrieval.linear_maps import train_linear_maps
from coalign.retrieval.rerank import evaluate_retrieval
from coalign.training.distributed import process_group

BATCHES, SEEN, DIM = (256, 64, 16), 76_800, 512
RATES = (3e-4, 1e-3, 3e-3)
"""What `--development` compares with 256 pairs; the last was best for both losses, and falls by the batch's root."""


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


# ----------------------------------------------------------------------------------------------------- batches
def train_maps(
    loss: str, batch: int, rate: float, images: Tensor, texts: Tensor, items: Tensor, seed: int
) -> tuple[nn.Module, nn.Module]:
    """Maps of [N, a] pictures and [M, v, b] texts, trained on SEEN pairs; the picture n has the texts of items[n]."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    image_map: nn.Module = nn.Sequential(nn.Dropout(0.2), nn.Linear(images.shape[1], DIM))
    text_map: nn.Module = nn.Sequential(nn.Linear(texts.shape[2], DIM), nn.GELU(), nn.Linear(DIM, DIM))
    sigmoid = loss == "sigmoid"
    scale = nn.Parameter(torch.tensor(math.log(10.0 if sigmoid else 1 / 0.07)))
    bias = nn.Parameter(torch.tensor(-10.0))
    parameters = [*image_map.parameters(), *text_map.parameters(), scale, *([bias] if sigmoid else [])]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    steps = SEEN // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.06)
    choice, counts = Choice(0.5), torch.full((len(texts),), texts.shape[1])
    softmax, pairwise = Contrastive(), SigmoidContrastive()
    rows = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(SEEN // len(images) + 1)])
    for own in rows[: steps * batch].split(batch):
        ids = items[own]
        a = F.normalize(image_map(images[own]), dim=-1)
        b = F.normalize(text_map(texts[ids, choice.places(counts[ids], generator)]), dim=-1)
        if sigmoid:
            value = pairwise(a, b, scale.exp(), bias, ids)
        else:
            similarity, target = a @ b.T * scale.exp(), matching_targets(ids, ids)
            value = (softmax(similarity, target) + softmax(similarity.T, target)) / 2
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            scale.clamp_(max=math.log(100.0))
    return image_map.eval(), text_map.eval()


def batches(args: argparse.Namespace) -> None:
    development = args.development
    split = split_concepts(load_emoji(96), seed=0, development_fraction=0.1 if development else 0.0)
    styles, test = (("openmoji",), "noto") if development else (TRAIN_STYLES, TEST_STYLE)
    held_out = split.development if development else split.unseen
    model, network = compact(1, 0), EfficientNetLite0.pretrained().folded()
    sources = (
        EmojiPairs(split.train, styles, parts=3, seed=0),
        EmojiPairs([*split.train, *held_out], (test,)),
    )
    train, gallery = (FrozenFeatures(model, source, Views(1)) for source in sources)
    images, tests = (pooled_images(network, source, model.spec) for source in sources)
    mean, deviation = images.mean(0), images.std(0) + 1e-3
    images, tests = ((part - mean) / deviation for part in (images, tests))
    texts, items = train.texts_by_item(), torch.from_numpy(train.source.ids)
    answers = gallery.texts_by_item()[:, 0]
    parts = {"seen": torch.arange(len(split.train)), "unseen": torch.arange(len(split.train), len(tests))}
    for batch in BATCHES[:1] if development else BATCHES:
        for loss in ("softmax", "sigmoid"):
            for rate in RATES if development else (RATES[-1] * (batch / 256) ** 0.5,):
                began = time.process_time()
                image_map, text_map = train_maps(loss, batch, rate, images, texts, items, args.seed)
                seconds = time.process_time() - began
                with torch.no_grad():
                    a, b = F.normalize(image_map(tests), dim=-1), F.normalize(text_map(answers), dim=-1)
                found = {
                    f"{name} {direction} {cut}": round(100 * recall[cut], 2)
                    for name, own in parts.items()
                    for direction, recall in evaluate_retrieval(a[own], b[own], own, own).items()
                    for cut in ("R@1", "R@10")
                }
                say(loss=loss, batch=batch, rate=rate, seed=args.seed, seconds=round(seconds, 1), **found)


# ------------------------------------------------------------------------------------------------------ memory
class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, while they live: `peak` bytes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # pyright: ignore[reportPrivateUsage] - its address
        if size == 0 or key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def memory(args: argparse.Namespace) -> None:
    context = get_context("fork")  # what is imported is imported once
    for ranks in (1, 2, 3):
        for form in ("blocks", "whole"):
            peaks: list[float] = []
            for batch in args.batches:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                answers = context.Queue()
                given = [(rank, ranks, port, form, batch, answers) for rank in range(ranks)]
                started = [context.Process(target=_loss_in_process, args=one) for one in given]
                for process in started:
                    process.start()
                found = [answers.get(timeout=600) for _ in started]
                for process in started:
                    process.join()
                peaks.append(max(size for size, _ in found) / 1e6)
                loss = sum(value for _, value in found) / ranks
                say(ranks=ranks, form=form, batch=batch, megabytes=round(peaks[-1], 1), loss=round(loss, 5))
            steps = range(len(peaks) - 1)
            slopes = [
                math.log(peaks[i + 1] / peaks[i]) / math.log(args.batches[i + 1] / args.batches[i]) for i in steps
            ]
            say(ranks=ranks, form=form, exponents=[round(slope, 2) for slope in slopes])


def _loss_in_process(rank: int, ranks: int, port: int, form: str, batch: int, answers: Any) -> None:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in shared.items()})
    torch.set_num_threads(1)
    with process_group("cpu"):
        generator = torch.Generator().manual_seed(0)
        image, text = (F.normalize(torch.randn(batch, 64, generator=generator), dim=-1) for _ in range(2))
        own = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
        image, text = (side[own].clone().requires_grad_() for side in (image, text))
        scale, bias = (torch.tensor(value, requires_grad=True) for value in (10.0, -10.0))
        objective = SigmoidContrastive() if form == "blocks" else SigmoidContrastive(batch)
        with LiveBytes() as live:
            loss = objective(image, text, scale, bias)
            loss.backward()
        answers.put((live.peak, loss.item()))


# ------------------------------------------------------------------------------------------- noise and captions
def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))


def noise(args: argparse.Namespace) -> None:
    texts: dict[str, list[str]] = {}
    for row in read(args.table):
        texts.setdefault(row["image"], []).append(row["text"])
    draws, given = random.Random(args.seed), dict(texts)
    chosen = draws.sample(sorted(texts), round(args.share * len(texts)))
    for image, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        given[image] = texts[other]
    folder = args.table.resolve().parent
    changed = 0
    with args.out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "wrong"])
        for image, own in given.items():
            wrong = own[0] != texts[image][0]  # two styles of a concept may meet
            changed += wrong
            table.writerows([os.path.relpath(folder / image, args.out.parent), text, int(wrong)] for text in own)
    say(pictures=len(texts), wrong=changed)


def noise_found(args: argparse.Namespace) -> None:
    """Precision and recall of "wrong" by what was dropped, and the area under the curve by the scores; texts one by
    one."""
    folder = args.table.resolve().parent
    wrong = {(str((folder / row["image"]).resolve()), row["text"]): row["wrong"] == "1" for row in read(args.table)}
    judged = [
        (wrong[row["image"], row["text"]], dropped, row["score"])
        for dropped, path in ((False, args.kept), (True, args.dropped))
        for row in read(path)
        if row["origin"] == "data"
    ]
    bad = torch.tensor([own for own, _, _ in judged])
    gone = torch.tensor([own for _, own, _ in judged])
    scores = torch.tensor([own for _, _, own in judged])
    found = float((bad & gone).sum())
    right, false = scores[~bad], scores[bad]
    above = (right[:, None] > false).double().mean() + (right[:, None] == false).double().mean() / 2
    say(
        texts=len(judged),
        wrong=int(bad.sum()),
        dropped=int(gone.sum()),
        precision=round(found / max(int(gone.sum()), 1), 4),
        recall=round(found / max(int(bad.sum()), 1), 4),
        area=round(float(above), 4),
        wrong_among_kept=round(float((bad & ~gone).sum()) / max(int((~gone).sum()), 1), 4),
    )


def noise_gain(args: argparse.Namespace) -> None:
    """Linear maps on frozen features, trained on the noisy pairs, on what was kept of them, and on the right ones; then
    the right text among all for pictures of another table."""
    model, network = compact(1, 0), EfficientNetLite0.pretrained().folded()

    def pictures(table: Path) -> tuple[dict[str, int], Tensor]:
        source = open_source(str(table)).grouped()
        files = {str(Path(str(source[row].image)).resolve()): row for row in range(len(source))}
        return files, pooled_images(network, source, model.spec)

    clean, folder = read(args.clean), args.clean.resolve().parent
    numbers = {row["text"]: number for number, row in enumerate(clean)}
    texts, (files, images) = vectors(list(numbers)), pictures(args.clean)
    tested, features = pictures(args.test)
    beside = args.test.resolve().parent
    known = {str((beside / row["image"]).resolve()): row["text"] for row in read(args.test)}
    asked = torch.tensor([numbers[known[name]] for name in tested])
    for name, table in (("noisy", args.table), ("kept", args.kept), ("right", args.clean)):
        rows = [(str((folder / row["image"]).resolve()), numbers[row["text"]]) for row in read(table)]
        places, ids = torch.tensor([files[file] for file, _ in rows]), torch.tensor([own for _, own in rows])
        for seed in range(3):
            maps = train_linear_maps(images[places], texts[:, None], ids, seed=seed)
            with torch.no_grad():
                image, text = maps(features, texts)
            found = evaluate_retrieval(image, text, asked, torch.arange(len(texts)))["image_to_text"]
            say(trained_on=name, pairs=len(rows), seed=seed, **{cut: round(100 * v, 2) for cut, v in found.items()})


@torch.no_grad()
def vectors(texts: Sequence[str]) -> Tensor:
    """[N, D] of unit length: means of MiniLM's rows."""
    loaded = compact(1, 0)
    model = loaded.model
    encoded = [loaded.vocabulary.encode_for(texts[i : i + 64], model.input_spec) for i in range(0, len(texts), 64)]
    assert isinstance(model, nn.Module)
    return F.normalize(torch.cat([model.pool_states(model.text_states(part)) for part in encoded]), dim=-1)


def captions_found(args: argparse.Namespace) -> None:
    texts: dict[str, str] = {}
    for row in read(args.table):
        texts.setdefault(str((args.table.resolve().parent / row["image"]).resolve()), row["text"])
    rows = [row for row in read(args.captions) if row["image"] in texts]
    answers = list(texts)
    asked, known = vectors([row["text"] for row in rows]), vectors(list(texts.values()))
    ids = torch.tensor([answers.index(row["image"]) for row in rows])
    found = evaluate_retrieval(asked, known, ids, torch.arange(len(answers)))["image_to_text"]
    say(captions=len(rows), distinct=len({row["text"] for row in rows}), gallery=len(answers), **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    own = parts.add_parser("batches")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--development", action="store_true")
    own.set_defaults(run=batches)
    own = parts.add_parser("memory")
    own.add_argument("--batches", type=int, nargs="+", default=[1536, 3072, 6144])
    own.set_defaults(run=memory)
    own = parts.add_parser("noise")
    own.add_argument("table", type=Path)
    own.add_argument("out", type=Path)
    own.add_argument("--share", type=float, default=1 / 3)
    own.add_argument("--seed", type=int, default=0)
    own.set_defaults(run=noise)
    own = parts.add_parser("noise-found")
    for name in ("table", "kept", "dropped"):
        own.add_argument(name, type=Path)
    own.set_defaults(run=noise_found)
    own = parts.add_parser("noise-gain")
    for name in ("table", "kept", "clean", "test"):
        own.add_argument(name, type=Path)
    own.set_defaults(run=noise_gain)
    own = parts.add_parser("captions-found")
    for name in ("captions", "table"):
        own.add_argument(name, type=Path)
    own.set_defaults(run=captions_found)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
