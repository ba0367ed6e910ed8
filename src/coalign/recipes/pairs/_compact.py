"""Shared by the recipes of the compact system: the model before training, settings, re-ranking, a baseline, maps.

The fusion block starts from MiniLM's last. Extras: `minilm` and `efficientnet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.analysis.runs.alignment import AlignmentMap
from coalign.analysis.runs.pointing import mosaics, name_in, read_mosaic
from coalign.analysis.runs.report import Alignment, Group, Retrieval
from coalign.analysis.runs.retrieval_samples import group_recalls, sampled_retrievals
from coalign.checkpoints import read_tensors
from coalign.checkpoints.packages import minilm_folder
from coalign.data.core.samples import Source
from coalign.data.images.decode import decode_image
from coalign.data.images.transforms import ImageTransform
from coalign.data.loaded import Loaded
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import CHUNK
from coalign.data.words.load import load_tokenizer
from coalign.errors import InputError
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.models.bert.model import transformers
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import TEXT_BLOCKS, CompactConfig
from coalign.registry import describe
from coalign.retrieval.embed import encode_corpus
from coalign.retrieval.linear_maps import train_linear_maps
from coalign.retrieval.querybank import Querybank
from coalign.retrieval.rerank import Reranking, add_log_sigmoid, evaluate_retrieval
from coalign.tasks.pairs.retrieval import Recall, RetrievalResult
from coalign.training.options import RunOptions, Schedule
from coalign.types import Batch, InputSpec, needed

BANK = 4000
"""Training pictures by which hubs are told; each brings its first text."""
RETRIEVAL = {"k": 16, "weight": 0.02, "hubness": 0.15}
"""Re-ranking the k best: score = similarity - hubness * the answer's + weight * log P(match); see docs/results.md."""

RATES = Schedule(steps=900, lr=1e-3, weight_decay=0.05, warmup=30.0, clip=3.0)
SETTINGS: dict[str, Any] = {
    "frozen": ("online.text.embedding", *(f"online.text.encoder.blocks.{i}" for i in range(TEXT_BLOCKS))),
    "lr_multipliers": {"temperature": 0.1},
    "objectives": ("itc", "itm", "mlm", "late"),
    "every": {"itm": 2, "mlm": 4, "late": 2},
    "loss_weights": {"mlm": 0.3},
}
"""Of `TrainConfig`, beside the rates. Objectives that rest have their share of the time."""


def settings_of(objectives: Sequence[str]) -> dict[str, Any]:
    """`SETTINGS` with these objectives alone.

    Raises:
        InputError: the model has no objective of that name.
    """
    wrong = [name for name in objectives if name not in SETTINGS["objectives"]]
    if wrong:
        raise InputError(f"--objectives: no objective {wrong[0]!r}; there are: {', '.join(SETTINGS['objectives'])}")
    of_each = {
        part: {name: value for name, value in SETTINGS[part].items() if name in objectives}
        for part in ("every", "loss_weights")
    }
    return {**SETTINGS, **of_each, "objectives": tuple(objectives)}


def _precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor multiplies it by tiles (AMX): with avx512_bf16 alone its products have 0.6 of the speed
    of fp32's. Asked of the system and not of torch, which a help does without."""
    processor = Path("/proc/cpuinfo")
    return "bf16" if processor.is_file() and "amx_bf16" in processor.read_text() else "fp32"


def running(out: str) -> RunOptions:
    """How a run is kept and runs by default."""
    return RunOptions(out=Path(out), precision=_precision(), threads=2, save_every=300)


def compact(steps: int, seed: int = 0, config: CompactConfig | None = None) -> Loaded:
    """The model before training, with MiniLM's vocabulary. The distillation's weight grows over a third of
    `steps`."""
    folder = minilm_folder()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Compact(replace(config or CompactConfig(), alpha_steps=max(steps * 3 // 10, 1)))
    start_from_minilm(model, folder)
    tokenizer = load_tokenizer(folder)
    if isinstance(model.stem, EfficientNetStem):
        model.stem.load_state_dict(EfficientNetStem(EfficientNetLite0.pretrained()).state_dict())
    if model.online.classes is not None:
        with torch.no_grad():
            model.online.classes.name(
                model.pool_states(model.text_states(tokenizer.encode_for(imagenet_classes(), model.input_spec)))
            )
    model.momentum.load_state_dict(model.online.state_dict())
    return Loaded(model, tokenizer, "compact")


def imagenet_classes() -> list[str]:
    """The names of the classes of EfficientNet's classifier, in their order."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])


def start_from_minilm(model: Compact, folder: Path) -> None:
    """Text half: MiniLM's embeddings and blocks. Fusion block: MiniLM's last, with a cross-attention of its own."""
    sizes = replace(model.config.text, depth=TEXT_BLOCKS, context_dim=None)
    state = transformers(sizes).load(read_tensors(folder)).state
    names = model.online.text.state_dict()
    last, fusion = f"encoder.blocks.{TEXT_BLOCKS - 1}.", f"encoder.blocks.{TEXT_BLOCKS}."
    state |= {name.replace(last, fusion): tensor for name, tensor in state.items() if name.startswith(last)}
    wanted = {name: tensor for name, tensor in state.items() if name in names}
    missing = [name for name in names if name not in wanted and "cross_attention" not in name]
    if missing:
        raise InputError(f"{folder}: lacks {missing[0]} and is not the MiniLM that this recipe starts from")
    model.online.text.load_state_dict(wanted, strict=False)
    for name, parameter in model.online.text.named_parameters():
        if "cross_attention." in name and parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=torch.Generator().manual_seed(1))


def run_description(model: Compact) -> dict[str, Any]:
    return describe(model) | {"retrieval": RETRIEVAL}


def reranking_of(model: Compact, frozen: FrozenFeatures, out: Path) -> Reranking:
    """How answers are re-ranked, with the bank of training vectors, which is saved in the run's folder: those of some
    pictures, of all where there are few, and of the first text of each."""
    model.eval()
    some = frozen.source.order(torch.Generator().manual_seed(0))[:BANK]
    texts = list(dict.fromkeys(frozen.source[row].texts[0] for row in some.tolist()))
    images = (Batch(images=frozen.images(rows)) for rows in some.split(CHUNK))
    words = (Batch(text=frozen.text(texts[begin : begin + CHUNK])) for begin in range(0, len(texts), CHUNK))
    bank = Querybank(*(encode_corpus(model, b, m).vectors for b, m in ((images, "image"), (words, "text"))))
    bank.save(out)
    return Reranking(int(RETRIEVAL["k"]), RETRIEVAL["weight"], RETRIEVAL["hubness"], bank)


def linear_baseline(
    train: FrozenFeatures, test: FrozenFeatures, parts: Mapping[str, Sequence[int]], seed: int, **settings: Any
) -> dict[str, Recall]:
    """Recall of two linear maps on pooled frozen features (`coalign.retrieval.linear_maps`) on parts of a test, given
    by their rows. `settings` are those of the maps' training."""
    network = EfficientNetLite0.pretrained().folded()
    images, tests = (pooled_images(network, part.source, part.spec) for part in (train, test))
    ids = torch.from_numpy(train.source.ids)
    maps = train_linear_maps(images, F.normalize(train.texts_by_item(), dim=-1), ids, seed=seed, **settings)
    with torch.no_grad():
        image, text = maps(tests, F.normalize(test.texts_by_item()[:, 0], dim=-1))
    rows = {name: torch.tensor(list(own)) for name, own in parts.items()}
    return {name: evaluate_retrieval(image[own], text[own], own, own) for name, own in rows.items()}


@torch.no_grad()
def pooled_images(network: EfficientNetLite0, source: Source, spec: InputSpec) -> Tensor:
    """[N, 1280]: what EfficientNet's classifier reads of each picture."""
    transform, every = ImageTransform(spec), range(len(source))
    chunks = (torch.stack([transform(decode_image(source[i].image)) for i in every[b : b + 32]]) for b in every[::32])
    return torch.cat([network.pooled(pixels) for pixels in chunks])


def retrieval_samples(
    tests: Mapping[str, Source],
    results: Mapping[str, RetrievalResult],
    groups: Sequence[str],
    generator: torch.Generator,
) -> tuple[list[Retrieval], list[Group]]:
    """Sampled queries of each test with their answers, and recall by group; `groups` are those of all ids."""
    combine = add_log_sigmoid(RETRIEVAL["weight"])
    samples: list[Retrieval] = []
    tables: list[Group] = []
    for name, source in tests.items():
        scored, items = results[name].scored, [source[row] for row in range(len(source))]
        assert scored is not None
        ranks: dict[str, Tensor] = {**scored.ranks(combine)}
        pictures = [decode_image(item.image) for item in items]
        lists = {direction: shortlist.reranked(combine) for direction, shortlist in scored.lists.items()}
        samples += sampled_retrievals(lists, ranks, pictures, [item.texts[0] for item in items], name, generator)
        tables += group_recalls(ranks, [groups[item.id] for item in items], name)
    return samples, tables


def aligned_samples(loaded: Loaded, tests: Mapping[str, Source], seed: int, count: int) -> list[Alignment]:
    """Maps of names on mosaics of 2 x 2 pictures, `count` of each test drawn by the seed, each name marked right where
    most of its map lies in its own picture, with the share that does: the grid pointing game
    (`coalign.analysis.runs.pointing`). A test of fewer than four names has none."""
    size = max(needed(loaded.spec.image, "images").size)
    samples: list[Alignment] = []
    for part, source in tests.items():
        if len({name_in(text) for text in source.first_texts()}) < 4:
            continue
        for mosaic in mosaics(source, 2, count, seed, size=size):
            maps, right, shares = read_mosaic(loaded, mosaic)
            assert isinstance(maps, AlignmentMap)
            marked = tuple(
                f"{name} ({'right' if own else 'wrong'}, {share:.0%})"
                for name, own, share in zip(maps.words, right, shares, strict=True)
            )
            note = f"{part}: {sum(right)} of 4 right; in brackets the share of a name's map in its own picture"
            samples.append(Alignment(mosaic.image, replace(maps, words=marked), note))
    return samples


def next_commands(out: Path) -> dict[str, str]:
    """Commands for after the quick start in `out`, and what each gives."""
    return {
        f'coalign search {out} "red fruit" --open': "ranked pictures, and a contact sheet of them",
        f'coalign align {out} IMAGE "TEXT" --out heat.png': "where in a picture each word is",
        "coalign train albef-small --data my_pairs.csv": "the same model on your own pairs",
        f"coalign evaluate {out} --data my_pairs.csv": "recall on pairs of yours",
    }
