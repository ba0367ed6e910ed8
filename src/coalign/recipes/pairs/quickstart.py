"""The main job on real data: an ALBEF trained on emoji drawings in two styles and tested on a third."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from coalign.analysis.runs.alignment import align
from coalign.analysis.runs.report import Alignment, Answer, Group, Report, Retrieval, write_report
from coalign.data.images.drawings import augment_drawings
from coalign.data.images.pictures import write_text
from coalign.data.images.transforms import derive_seed
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import EmojiConcept, load_emoji, split_concepts
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.layers.convolution import MEAN, STD, EfficientNetLite0
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import pool_text
from coalign.objectives.contrastive import Contrastive
from coalign.ops.targets import matching_targets
from coalign.recipes.pairs._compact import RETRIEVAL, TRAINING, compact, run_description, tokenizer
from coalign.retrieval.embed import Entry, encode_corpus
from coalign.retrieval.index import Index
from coalign.retrieval.metrics import chance_recall
from coalign.retrieval.querybank import Querybank
from coalign.retrieval.rerank import Evaluation, add_log_sigmoid, evaluate_retrieval, score_retrieval
from coalign.training.loop import fit
from coalign.training.run import Run
from coalign.training.tracking import read_metrics
from coalign.types import Batch, Candidates, Images, Packed, Text

TRAIN_STYLES, TEST_STYLE = ("noto", "openmoji"), "twemoji"
VIEWS, TEXTS, CHUNK, OTHERS = 8, 5, 256, 640


@dataclass(frozen=True)
class Recipe:
    """Trains ALBEF on Noto-like and OpenMoji drawings with their words, and tests it on Twemoji: on concepts that it
    has seen in the other styles, and on a tenth of the concepts that it has never seen."""

    out: Path = Path("runs/quickstart")
    """The run's folder; a run that was stopped goes on."""
    steps: int = 900
    seconds: float = 175.0
    """The most that training may take: on a slow machine the plan gets shorter."""
    seed: int = 0

    def run(self) -> None:
        began = time.perf_counter()
        torch.set_num_threads(2)
        concepts = load_emoji(96)
        split = split_concepts(concepts, seed=0, development_fraction=0.0)
        seen, unseen = split.train, split.unseen
        model = compact(self.steps, self.seed)
        pairs = CachedPairs(model, seen, self.seed)
        model.standardise(pairs.grids[:, 0])
        tests = {"seen": Gallery.of(model, seen), "unseen": Gallery.of(model, unseen)}
        untrained = {name: gallery.score(model).recall() for name, gallery in tests.items()}
        run = Run(self.out, run_description(model, "quickstart"))
        config = replace(TRAINING, steps=self.steps, seed=self.seed, time_budget=self.seconds)
        result = fit(model, pairs, config, run)
        tokenizer().save(self.out)
        bank = pairs.querybank(model)
        bank.save(self.out)
        baseline = pooled_baseline(pairs, tests, self.seed)
        splits: dict[str, Any] = {}
        scored: dict[str, Evaluation] = {}
        for name, gallery in tests.items():
            scored[name] = gallery.score(model, bank)
            ids = torch.arange(len(gallery.concepts))
            chance = chance_recall(ids, ids)
            splits[name] = {
                "gallery": len(gallery.concepts),
                "model": scored[name].recall(),
                "reranked": scored[name].recall(add_log_sigmoid(RETRIEVAL["weight"])),
                "baseline": baseline[name],
                "untrained": untrained[name],
                "chance": {"image_to_text": chance, "text_to_image": chance},
            }
        make_index(self.out / "index", tests)
        groups = groups_of(tests, scored)
        results = {
            "splits": splits,
            "groups": [asdict(group) for group in groups],
            "wall_seconds": round(time.perf_counter() - began, 1),
            "training_seconds": round(result.seconds, 1),
            "steps": result.steps,
            "seed": self.seed,
        }
        write_text(self.out / "results.json", json.dumps(results, indent=1))
        write_report(make_report(self.out, model, results, tests, scored, groups), self.out / "report.html")
        for name, rows in splits.items():
            for row in ("model", "reranked", "baseline", "untrained", "chance"):
                i2t, t2i = rows[row]["image_to_text"], rows[row]["text_to_image"]
                figures = "   ".join(f"{k} {100 * i2t[k]:5.1f} / {100 * t2i[k]:5.1f}" for k in ("R@1", "R@5", "R@10"))
                print(f"{name:7} {row:10} {figures}   (image to text / text to image, %)")
        print(f"\n{self.out / 'report.html'}   {results['wall_seconds']:.0f} s in all. Next:")
        print("\n".join(f"  {command}" for command in next_commands(self.out)))


def next_commands(out: Path) -> dict[str, str]:
    return {
        f'coalign search {out} "red fruit" --open': "ranked pictures, and a contact sheet of them",
        f'coalign align {out} IMAGE "TEXT" --out heat.png': "where in a picture each word looks",
        "coalign train albef-small --data my_pairs.csv": "the same model on your own pairs",
        f"coalign evaluate {out} --data my_pairs.csv": "recall on pairs of yours",
    }


# ---------------------------------------------------------------------------------------------------------- features
def pixels_of(concepts: Sequence[EmojiConcept], style: str) -> Tensor:
    """[N, 3, 96, 96] in [0, 1]."""
    return torch.stack([torch.from_numpy(c.images[style]) for c in concepts]).permute(0, 3, 1, 2).float() / 255


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def grids_of(model: Compact, pixels: Tensor) -> Tensor:
    """The frozen stem's features, kept in half precision."""
    return model.features(Images(pixels=normalised(pixels))).half()


@torch.no_grad()
def texts_of(model: Compact, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """(ids, frozen states in half precision) of each text; texts of about one length go through MiniLM together."""
    spec = model.input_spec
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for begin in track(range(0, len(order), CHUNK), "reading texts", transient=True):
        part = order[begin : begin + CHUNK]
        text = tokenizer().encode([texts[i] for i in part], spec.max_text_length, spec.separator)
        lengths = text.ids.lengths.tolist()
        states = model.online.read(text).values.half().split(lengths)
        for place, ids, rows in zip(part, text.ids.values.split(lengths), states, strict=True):
            found[place] = ids.clone(), rows.clone()
    return [item for item in found if item is not None]


def batch_of(texts: Sequence[tuple[Tensor, Tensor]], images: Images | None = None, ids: Tensor | None = None) -> Batch:
    packed = Packed.from_items([ids for ids, _ in texts])
    states = torch.cat([rows for _, rows in texts]).float()
    return Batch(text=Text(packed, states=states), images=images, ids=ids)


@torch.no_grad()
def pool(texts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What the text projection reads of each text."""
    states = Packed.from_items([ids for ids, _ in texts]).with_values(torch.cat([rows for _, rows in texts]).float())
    return pool_text(states)


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


class CachedPairs:
    """The training pairs, with all that is frozen computed once: stem features of a clean and of seven augmented views
    of every drawing; MiniLM states of each concept's full text and of texts with some of its keywords.

    Half of the time a pair gets the full text. Texts of other concepts come with a batch as further candidates.
    A batch is a function of (seed, epoch, number).
    """

    batch_size = 256

    def __init__(
        self, model: Compact, concepts: Sequence[EmojiConcept], seed: int, styles: Sequence[str] = TRAIN_STYLES
    ) -> None:
        generator = torch.Generator().manual_seed(derive_seed(seed, 0))
        grids: list[Tensor] = []
        self.styles = styles
        for style in styles:
            pixels = pixels_of(concepts, style)
            views = [grids_of(model, pixels)]
            for _ in track(range(VIEWS - 1), f"views of {style}", transient=True):
                parts = [grids_of(model, augment_drawings(part, generator)) for part in pixels.split(CHUNK)]
                views.append(torch.cat(parts))
            grids.append(torch.stack(views, 1))
        self.grids, self.concepts, self.seed = torch.cat(grids), len(concepts), seed
        written = [text for concept in concepts for text in texts_about(concept, generator)]
        self.texts = texts_of(model, written)
        self.pooled = torch.cat([pool(part) for part in batched(self.texts, CHUNK)])
        self.epoch = self.number = 0

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.grids), generator=self._generator(0))
        steps = len(order) // self.batch_size
        for number in range(self.number, steps):
            generator = self._generator(1 + number)
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            images = self.look(rows, generator)
            ids = rows % self.concepts
            others = torch.randperm(self.concepts, generator=generator)
            others = others[~torch.isin(others, ids)][:OTHERS]
            self.epoch, self.number = (self.epoch, number + 1) if number + 1 < steps else (self.epoch + 1, 0)
            texts, further = (x * TEXTS + self._variants(len(x), generator) for x in (ids, others))
            batch = batch_of([self.texts[i] for i in texts.tolist()], images, ids)
            yield replace(batch, candidates=Candidates(self.pooled[further], others))

    def look(self, rows: Tensor, generator: torch.Generator) -> Images:
        """One of the views of each of these drawings."""
        view = torch.randint(VIEWS, rows.shape, generator=generator)
        return Images(grid=self.grids[rows, view].float())

    def querybank(self, model: Compact) -> Querybank:
        """The vectors of all drawings as they are, and of every concept's full text."""
        model.eval()
        images = (Batch(images=Images(grid=part.float())) for part in self.grids[:, 0].split(CHUNK))
        texts = (batch_of(part) for part in batched(self.texts[::TEXTS], CHUNK))
        return Querybank(*(encode_corpus(model, b, m).vectors for b, m in ((images, "image"), (texts, "text"))))

    def _variants(self, count: int, generator: torch.Generator) -> Tensor:
        part = torch.randint(1, TEXTS, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < 0.5, 0, part)

    def _generator(self, use: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, 1, self.epoch, use))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.number, "seed": self.seed, "concepts": self.concepts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed or state["concepts"] != self.concepts:
            raise InputError(f"this run has seed {state['seed']} and {state['concepts']} concepts; give another --out")
        self.epoch, self.number = state["epoch"], state["batch"]


def texts_about(concept: EmojiConcept, generator: torch.Generator) -> list[str]:
    """The full text, then texts of the name and some of the keywords."""
    texts = [concept.text]
    for _ in range(TEXTS - 1):
        kept = int(torch.randint(len(concept.keywords) + 1, (), generator=generator))
        order = torch.randperm(len(concept.keywords), generator=generator)[:kept].tolist()
        texts.append(", ".join([concept.name, *(concept.keywords[i] for i in order)]))
    return texts


# -------------------------------------------------------------------------------------------------------- evaluation
@dataclass(eq=False)
class Gallery:
    """Concepts in the test style, and what is frozen about them."""

    concepts: Sequence[EmojiConcept]
    style: str
    grids: Tensor
    texts: list[tuple[Tensor, Tensor]]
    vectors: Mapping[str, Tensor]

    @staticmethod
    def of(model: Compact, concepts: Sequence[EmojiConcept], style: str = TEST_STYLE) -> Gallery:
        grids = grids_of(model, pixels_of(concepts, style))
        return Gallery(concepts, style, grids, texts_of(model, [c.text for c in concepts]), {})

    def batches(self) -> Iterator[Batch]:
        for rows in torch.arange(len(self.concepts)).split(CHUNK):
            yield batch_of([self.texts[i] for i in rows.tolist()], Images(grid=self.grids[rows].float()), rows)

    def score(self, model: Compact, bank: Querybank | None = None, hubness: float = RETRIEVAL["hubness"]) -> Evaluation:
        """By the vectors, and ready to be re-ranked where there is a bank."""
        model.eval()
        rerank = bank is not None
        images = encode_corpus(model, (replace(b, text=None) for b in self.batches()), "image", tokens=rerank)
        texts = encode_corpus(model, (replace(b, images=None) for b in self.batches()), "text", tokens=rerank)
        self.vectors = {"image": images.vectors, "text": texts.vectors}
        return score_retrieval(
            images.vectors,
            texts.vectors,
            images.ids,
            texts.ids,
            model if rerank else None,
            images.tokens,
            texts.tokens,
            k=int(RETRIEVAL["k"]),
            bank=bank,
            hubness=hubness,
        )


def pooled_baseline(
    pairs: CachedPairs, tests: Mapping[str, Gallery], seed: int, steps: int = 600, rate: float = 1e-3
) -> dict[str, dict[str, dict[str, float]]]:
    """Baseline A: EfficientNet-lite0 and MiniLM frozen and pooled, two linear maps, InfoNCE over concepts."""
    network = EfficientNetLite0.pretrained()

    @torch.no_grad()
    def pooled(pixels: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for part in normalised(pixels).split(32):
            (last,) = network.features(part, [6])
            parts.append(network.head(last).mean((2, 3)))
        return torch.cat(parts)

    def means(texts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return F.normalize(torch.stack([rows.float().mean(0) for _, rows in texts]), dim=-1)

    seen = tests["seen"].concepts
    images = torch.cat([pooled(pixels_of(seen, style)) for style in pairs.styles])
    texts = means(pairs.texts).view(len(seen), TEXTS, -1)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = nn.ModuleList([nn.Linear(images.shape[1], 512), nn.Linear(texts.shape[2], 512)])
    scale, objective = nn.Parameter(torch.tensor(2.66)), Contrastive()
    optimiser = torch.optim.AdamW([*towers.parameters(), scale], lr=rate, weight_decay=0.01)
    for _ in range(steps):
        rows = torch.randint(len(images), (256,), generator=generator)
        ids = rows % len(seen)
        chosen = texts[ids, torch.randint(TEXTS, ids.shape, generator=generator)]
        a, b = (F.normalize(tower(x), dim=-1) for tower, x in zip(towers, (images[rows], chosen), strict=True))
        similarity, target = a @ b.T * scale.exp(), matching_targets(ids, ids)
        loss = (objective(similarity, target) + objective(similarity.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with torch.no_grad():
        for name, gallery in tests.items():
            a = F.normalize(towers[0](pooled(pixels_of(gallery.concepts, gallery.style))), dim=-1)
            b = F.normalize(towers[1](means(gallery.texts)), dim=-1)
            ids = torch.arange(len(gallery.concepts))
            found[name] = evaluate_retrieval(a, b, ids, ids)
    return found


# ------------------------------------------------------------------------------------------------------------ output
def picture_of(concept: EmojiConcept) -> Image.Image:
    return Image.fromarray(concept.images[TEST_STYLE])


def make_index(path: Path, tests: Mapping[str, Gallery]) -> None:
    """All pictures of the test style with their texts, for `coalign search`."""
    width = next(iter(tests.values())).vectors["image"].shape[1]
    index = Index.create(path, width, {"style": TEST_STYLE}, overwrite=True)
    for modality in ("image", "text"):
        for name, gallery in tests.items():
            entries: list[Entry] = []
            for concept in gallery.concepts:
                data = io.BytesIO()
                picture_of(concept).save(data, "PNG")
                entries.append(Entry(concept.text, None, data.getvalue(), {"split": name, "group": concept.group}))
            index.append(gallery.vectors[modality], entries, modality)


def groups_of(tests: Mapping[str, Gallery], scored: Mapping[str, Evaluation]) -> list[Group]:
    """The re-ranked recall of flags, people and the other groups, each within the whole gallery."""
    groups: list[Group] = []
    for name, gallery in tests.items():
        ranks = scored[name].ranks(add_log_sigmoid(RETRIEVAL["weight"]))
        for group in sorted({concept.group for concept in gallery.concepts}):
            rows = torch.tensor([i for i, c in enumerate(gallery.concepts) if c.group == group])
            recall = {d: {f"R@{k}": float((r[rows] <= k).float().mean()) for k in (1, 5, 10)} for d, r in ranks.items()}
            groups.append(Group(name, group, len(rows), recall))
    return groups


def make_report(
    out: Path,
    model: Compact,
    results: Mapping[str, Any],
    tests: Mapping[str, Gallery],
    scored: Mapping[str, Evaluation],
    groups: list[Group],
) -> Report:
    generator = torch.Generator().manual_seed(0)
    combine = add_log_sigmoid(RETRIEVAL["weight"])
    retrievals: list[Retrieval] = []
    for name, gallery in tests.items():
        ranks = scored[name].ranks(combine)
        for direction, found in scored[name].lists.items():
            scores, order = found.reranked(combine)
            for query in torch.randperm(len(gallery.concepts), generator=generator)[:4].tolist():
                asked = gallery.concepts[query]
                answers = [
                    answer_of(gallery.concepts[i], direction, i == query, score)
                    for i, score in zip(order[query, :6].tolist(), scores[query, :6].tolist(), strict=True)
                ]
                by_text = direction == "text_to_image"
                retrievals.append(
                    Retrieval(
                        answers,
                        text=asked.text if by_text else "",
                        picture=None if by_text else picture_of(asked),
                        rank=int(ranks[direction][query]),
                        expected=answer_of(asked, direction, True, None),
                        split=name,
                    )
                )
    picked = torch.randperm(len(tests["unseen"].concepts), generator=generator)[:12].tolist()
    alignments = [alignment_of(model, tests["unseen"].concepts[i]) for i in picked]
    return Report(
        title="Quick start: ALBEF on emoji",
        summary="Trained on Noto-like and OpenMoji drawings, tested on Twemoji drawings, which it has never seen.",
        facts={
            "Pairs": f"{2 * results['splits']['seen']['gallery']} drawings in two styles with their words",
            "Steps": f"{results['steps']} of {CachedPairs.batch_size} pairs in {results['training_seconds']:.0f} s",
            "Seed": str(results["seed"]),
        },
        results=results,
        titles={"seen": "Seen concepts, unseen style", "unseen": "Unseen concepts, unseen style"},
        metrics=read_metrics(out / "metrics.jsonl"),
        retrievals=retrievals,
        alignments=alignments,
        groups=groups,
        notes=[
            "Groups differ: a flag is learnt by heart when it was seen, and cannot be guessed when it was not.",
            "The baseline is two linear maps on pooled frozen features of the same networks, trained in this run.",
            "Re-ranking: the fusion layers score the best again; what is near to most training items is held back.",
        ],
        commands=next_commands(out),
    )


def answer_of(concept: EmojiConcept, direction: str, right: bool, score: float | None) -> Answer:
    if direction == "text_to_image":
        return Answer(right, picture=picture_of(concept), score=score)
    return Answer(right, text=concept.text, score=score)


def alignment_of(model: Compact, concept: EmojiConcept) -> Alignment:
    batch = prepare(Loaded(model, tokenizer()), images=[picture_of(concept)], texts=[concept.name])
    (found,) = align(model, batch, [tokenizer().words(concept.name)], model.alignment_method)
    return Alignment(picture_of(concept), found, concept.group)
