"""What fine-tuning recipes of image-and-text models share: a system's head, weights to start from, images, the loop."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from coalign.arguments import say
from coalign.data.core.batches import Batches
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import check_vocabulary
from coalign.data.questions.items import Item, ItemCollate, Parts
from coalign.data.questions.pictures import Pictures, open_pictures
from coalign.data.regions.files import open_regions
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.visual import ANSWERS
from coalign.files import replace_file
from coalign.recipes.pairs._vl_pretrain import with_vocabulary
from coalign.registry import describe, find, load
from coalign.training.loop import Loader, TrainConfig, fit
from coalign.training.run import Run
from coalign.types import InputSpec


@dataclass(frozen=True, kw_only=True)
class FineTune(ABC):
    """Flags of all fine-tunings. A run that was stopped goes on from its last checkpoint."""

    task: ClassVar[str]
    """The task's name, which is the recipe's."""

    system: str
    """Whose head is trained; `coalign systems` lists which has which."""
    out: Path
    """The run's folder."""
    start: Path | None = None
    """Weights to start from: a pre-trained run, the authors' file, or a Hugging Face folder. By default fresh ones."""
    regions: Path | None = None
    """Region features, for systems that read regions: what `coalign extract regions` wrote, or a published file."""
    images: Path | None = None
    """A folder of pictures, for systems that read pictures."""
    max_missing: float = 0.0
    """The largest fraction of images that may be missing; what is asked of them is left out."""
    size: str = "tiny"
    """Of fresh weights: a row of the system's table of sizes."""
    vocab: Path | None = None
    """A vocab.txt or tokenizer.json. By default that of `start`, or one learned from the texts."""
    words: int = 8000
    """Word pieces of a vocabulary that is learned."""
    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    workers: int = 0
    """Processes that prepare batches ahead."""
    precision: Literal["fp32", "bf16"] = "fp32"

    @abstractmethod
    def run(self) -> None: ...

    @property
    def head(self) -> str:
        """The name of the system's head."""
        return self.task

    def model(self, texts: Sequence[str], classes: int | None = None) -> Loaded:
        """The system's head of that many classes, with its vocabulary, started from `start` where that is given."""
        entry = find(self.system)
        if self.head not in entry.heads:
            able = [name for name, system in _systems().items() if self.head in system.heads]
            raise InputError(f"{self.system} has no head {self.head!r}; these have: {', '.join(able)}")
        head, source = entry.heads[self.head], None
        if self.start is not None:
            loaded = load(self.start, self.system, vocab=self.vocab)
            if loaded.tokenizer is None:
                raise InputError(f"{self.start}: brings no vocabulary; give its vocab.txt by --vocab")
            source, tokenizer = loaded.model, loaded.tokenizer
            if type(source) is head.model and type(source) is not entry.model:
                return self._taken_up(loaded, classes)
            if type(source) is not entry.model:
                raise InputError(
                    f"{self.start}: was fine-tuned for another task; start from a pre-trained {self.system}"
                )
            config: Any = source.config
        else:
            if self.size not in entry.sizes:
                raise InputError(f"{self.system} has no size {self.size!r}; it has: {', '.join(entry.sizes)}")
            tokenizer = Tokenizer.train(texts, self.words) if self.vocab is None else Tokenizer.load(self.vocab)
            config = self._as_regions_are(with_vocabulary(entry.sizes[self.size], tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = head.model(with_classes(head.config(config), self.head, classes))
        check_vocabulary(model.input_spec, tokenizer)
        if source is not None:
            start_from(model, source, self.head)
        return Loaded(model, tokenizer)

    def _taken_up(self, loaded: Loaded, classes: int | None) -> Loaded:
        """A model of the same head, to be trained on."""
        config: Any = loaded.model.config
        if classes is not None and config != with_classes(config, self.head, classes):
            raise InputError(
                f"{self.start}: its head has another number of classes, the data {classes}; give --answers"
            )
        return loaded.train()

    def _as_regions_are(self, config: Any) -> Any:
        if self.regions is None or "region_width" not in {field.name for field in dataclasses.fields(config)}:
            return config
        return replace(config, region_width=open_regions(self.regions).width)

    def pictures(self, spec: InputSpec) -> Pictures:
        """The images, as the model reads them."""
        return open_pictures(spec, self.regions, self.images)

    def train(self, loaded: Loaded, loader: Loader, evaluate: str) -> None:
        """Trains, saves the vocabulary and says what to type next."""
        config = TrainConfig(
            self.steps, self.lr, self.weight_decay, warmup=self.warmup, seed=self.seed, precision=self.precision
        )
        run = Run(
            self.out, describe(loaded.model) | {"recipe": type(self).__module__.rsplit(".", 1)[-1], "task": self.task}
        )
        result = fit(loaded.model.to("cuda" if torch.cuda.is_available() else "cpu"), loader, config, run)
        loaded.vocabulary.save(self.out)
        seen = f" --regions {self.regions}" if self.regions else f" --images {self.images}" if self.images else ""
        print(f"{self.out}: {result.steps} steps; next: coalign evaluate {self.out}{seen} {evaluate}")


@dataclass(frozen=True, kw_only=True)
class ItemFineTune(FineTune):
    """Fine-tuning on items that are asked about images."""

    def train_items(
        self, items: Sequence[Item], evaluate: str, classes: Sequence[str] = (), count: int | None = None
    ) -> None:
        """Trains on those items whose truth and images are known; `classes` are kept in the run.

        Raises:
            InputError: none are.
        """
        known = [item for item in items if item.target is not None]
        if not known:
            raise InputError(f"none of the {len(items)} items has a label: training needs a split with labels")
        loaded = self.model(sorted({part for item in known for part in texts_of(item.texts)}), count)
        pictures = self.pictures(loaded.spec)
        missing = pictures.check((image for item in known for image in item.images), self.max_missing)
        kept = [item for item in known if not missing.intersection(item.images)]
        if len(kept) < len(known):
            say(f"{len(known) - len(kept)} of {len(known)} items are left out: {len(missing)} images are missing")
        collate = ItemCollate(loaded.spec, loaded.vocabulary, pictures, classes=count or 0)
        loader = Batches(
            kept, collate, self.batch_size, seed=self.seed, workers=self.workers, name=f"{self.task} items"
        )
        if classes:
            save_classes(self.out, classes)
        self.train(loaded, loader, evaluate)


def save_classes(run: Path, classes: Sequence[str]) -> None:
    """Writes what the head's classes mean into the run.

    Raises:
        InputError: the run has other ones.
    """
    file, text = run / ANSWERS, json.dumps(list(classes), ensure_ascii=False, indent=1) + "\n"
    if file.exists() and file.read_text("utf-8") != text:
        raise InputError(f"{file}: this run was started with other answers; choose another folder for the run")
    replace_file(file, lambda part: part.write_text(text, encoding="utf-8"))


def texts_of(texts: Sequence[Parts]) -> list[str]:
    """All parts of an item's texts."""
    return [part for text in texts for part in ([text] if isinstance(text, str) else text)]


def with_classes(config: Any, head: str, classes: int | None) -> Any:
    """A head's configuration with that many classes."""
    if classes is None:
        return config
    fields = {field.name for field in dataclasses.fields(config)}
    name = next((name for name in ("classes", f"{head}_answers", "answers") if name in fields), None)
    return config if name is None else replace(config, **{name: classes})


@torch.no_grad()
def start_from(model: nn.Module, pretrained: nn.Module, head: str) -> None:
    """Takes over from a pre-trained model what both have, by name; the head is fresh.

    Tables with more rows than before keep the old ones; further segments and modalities start as the last one (UNITER,
    ViLT: NLVR2's second image), further words fresh. Where a task model has its own `start_from`, that follows.

    Raises:
        InputError: nothing of the model's is there.
    """
    theirs = pretrained.state_dict()
    taken = 0
    for name, tensor in model.state_dict().items():
        source = theirs.get(name, theirs.get(name.removeprefix("base.")))
        if source is None or source.dim() != tensor.dim():
            continue
        if source.shape == tensor.shape:
            tensor.copy_(source)
        elif source.shape[1:] == tensor.shape[1:] and source.shape[0] < tensor.shape[0]:
            _widen(name, tensor, source)
        else:
            continue
        taken += 1
    if not taken:
        raise InputError(f"{type(pretrained).__name__} has no weights that {type(model).__name__} could start from")
    own: Any = getattr(model, "start_from", None)
    if own is not None:
        own(getattr(pretrained, "match_head", None) if head == "retrieval" else pretrained)


def _widen(name: str, tensor: Tensor, source: Tensor) -> None:
    tensor[: len(source)] = source
    if "word" not in name:
        tensor[len(source) :] = source[-1]


def _systems() -> dict[str, Any]:
    from coalign.registry import systems

    return dict(systems())
