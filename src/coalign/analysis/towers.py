"""The encoders of an analysis: the quick start's frozen networks, models trained on the set itself, or a run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from coalign.analysis.datasets.cache import Modality, Tower, Towers
from coalign.analysis.datasets.columns import Columns, Floats, Ints, first_of_groups, pick, sample_rows
from coalign.analysis.datasets.texts import words_of
from coalign.checkpoints.packages import minilm_folder
from coalign.data.images.decode import BadSample, ImageLike, decode_image
from coalign.data.images.transforms import ImageTransform
from coalign.data.inputs import encode
from coalign.data.loaded import Loaded
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import digest
from coalign.flags import say
from coalign.layers.convolution import MEAN, STAGES, STD, EfficientNetLite0
from coalign.models.bert.model import Bert
from coalign.models.mae.model import Mae, MaeConfig
from coalign.progress import with_progress
from coalign.registry import load
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, ImageSpec, InputSpec, Packed, Record, needed

T = TypeVar("T")

CNN, VIT, BERT, WORD2VEC = "EfficientNet-lite0", "ViT (MAE on this set)", "MiniLM", "word2vec (on this set)"
PIXELS, SMALL = 128, 64
VIT_STEPS, VIT_BATCH = 200, 64


def default_towers(columns: Columns, *, vit_steps: int = VIT_STEPS, images: int = 4000, show: bool = False) -> Towers:
    """EfficientNet-lite0 and MiniLM as they were pre-trained, and a ViT and word2vec trained on the set itself."""
    image: list[Tower] = []
    text: list[Tower] = []
    states = None
    if len(columns.images):
        image.append(CnnTower())
        if vit_steps:
            tower = vit_on(columns, vit_steps, images, show)
            image += [] if tower is None else [tower]
    if len(columns.texts):
        minilm = BertTower(load(minilm_folder(), system="bert").model, load_tokenizer(minilm_folder()))
        states = minilm.word_states
        text.append(minilm)
        word2vec = word2vec_on(columns.texts)
        if word2vec is not None:
            text.append(word2vec)
    return Towers(image, text, None, states)


def run_towers(run: Path, loaded: Loaded, towers: Towers) -> Towers:
    """The towers with a run's own image and text vectors, which share a space, before them."""
    key = digest(run / "model.safetensors")
    image = RunTower(f"{run.name}, image", "image", key, loaded)
    text = RunTower(f"{run.name}, text", "text", key, loaded)
    return Towers([*towers.image, image], [*towers.text, text], (image, text), towers.word_states)


class CnnTower:
    """EfficientNet-lite0: means of its stages, and of its head."""

    name = CNN
    modality: Modality = "image"
    key = f"efficientnet-lite0 {PIXELS}"

    def __init__(self) -> None:
        self._network = EfficientNetLite0.pretrained().folded()
        self._transform = transform(PIXELS, ImageSpec.square(PIXELS, MEAN, STD))

    @torch.no_grad()
    def encode(self, items: Sequence[ImageLike]) -> Mapping[str, Floats]:
        features: dict[str, list[Tensor]] = {}
        for part in _batches(items, 32):
            pixels = torch.stack([self._transform(image) for image in part])
            stages = self._network.features(pixels.contiguous(memory_format=torch.channels_last), range(len(STAGES)))
            for number, stage in enumerate(stages):
                features.setdefault(f"{CNN}, layer {number + 1}", []).append(stage.mean((2, 3)))
            features.setdefault(CNN, []).append(self._network.head(stages[-1]).mean((2, 3)))
        return {name: torch.cat(parts).numpy() for name, parts in features.items()}


class BertTower:
    """A BERT-like encoder: means of the states after every layer, the last being its sentence vector."""

    name = BERT
    modality: Modality = "text"

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, key: str = "minilm-l6-v2") -> None:
        assert isinstance(model, Bert)
        self._model, self._tokenizer, self.key = model.eval(), tokenizer, key
        self.depth = model.config.trunk.depth

    @torch.no_grad()
    def encode(self, items: Sequence[str]) -> Mapping[str, Floats]:
        order = sorted(range(len(items)), key=lambda i: len(items[i]))
        rows: dict[str, dict[int, Floats]] = {}
        for part in _batches(order, 64):
            for layer, states in enumerate(self._states([items[i] for i in part])):
                for i, vector in zip(part, states.mean().numpy(), strict=True):
                    rows.setdefault(f"{BERT}, layer {layer}", {})[i] = vector
        layers = {name: np.stack([part[i] for i in range(len(items))]) for name, part in rows.items()}
        return layers | {BERT: layers[f"{BERT}, layer {self.depth}"]}

    def word_states(self, texts: Sequence[str], word: str, most: int = 400) -> tuple[Ints, Floats, int]:
        """The states [n, L + 1, D] of a word in each of its first texts, after the embedding and every layer; senses
        part best two layers before the last."""
        pieces = self._tokenizer.ids(word)
        rows = [i for i, text in enumerate(texts) if word in words_of(text)][:most]
        kept: list[int] = []
        own_states: list[Tensor] = []
        for part in _batches(rows, 64):
            layers = self._states([texts[i] for i in part])
            batch = self._encode([texts[i] for i in part])
            ids, lengths = batch.values.split(batch.host_lengths.tolist()), batch.host_lengths.tolist()
            states = torch.stack([layer.values for layer in layers], 1).split(lengths)
            for i, own, values in zip(part, ids, states, strict=True):
                at = _find(own.tolist(), pieces)
                if at is not None:
                    kept.append(i)
                    own_states.append(values[at : at + len(pieces)].mean(0))
        vectors = torch.stack(own_states).numpy() if own_states else np.empty((0, self.depth + 1, 1), np.float32)
        return np.array(kept, np.int64), vectors, max(self.depth - 2, 1)

    def _encode(self, texts: Sequence[str]) -> Packed:
        return self._tokenizer.encode(list(texts), 256).ids

    @torch.no_grad()
    def _states(self, texts: Sequence[str]) -> list[Packed]:
        """After the embedding, and after each layer."""
        record: Record = {}
        ids = self._encode(texts)
        self._model.trunk(ids, record=record)
        names = ["text.embedding", *(f"text.{i}.hidden" for i in range(self.depth))]
        return [ids.with_values(record[name]) for name in names]


class RunTower:
    """One modality of a run: the unit vectors that it searches with."""

    def __init__(self, name: str, modality: Modality, key: str, loaded: Loaded) -> None:
        self.name, self.key, self._loaded = name, f"run {key} {modality}", loaded
        self.modality: Modality = modality

    @torch.no_grad()
    def encode(self, items: Sequence[Any]) -> Mapping[str, Floats]:
        parts: list[Tensor] = []
        for part in _batches(items, 32):
            vectors = encode(self._loaded, self.modality, part).vectors
            if self.modality not in vectors:
                raise InputError(f"{self.name}: the run gives no {self.modality} vectors, so it compares no pairs")
            parts.append(vectors[self.modality].float().cpu())
        return {self.name: torch.cat(parts).numpy()}


class VitTower:
    """A ViT that saw nothing but this data set: the mean of its patches after every block."""

    name = VIT
    modality: Modality = "image"

    def __init__(self, model: Mae, key: str) -> None:
        self._model, self.key = model.eval(), key
        self._transform = transform(SMALL, needed(model.input_spec.image, "images"))

    @torch.no_grad()
    def encode(self, items: Sequence[ImageLike]) -> Mapping[str, Floats]:
        features: dict[str, list[Tensor]] = {}
        for part in _batches(items, 64):
            pixels = torch.stack([self._transform(image) for image in part])
            encoding = self._model.encode(Batch(images=Images(pixels=pixels)), record=True)
            rows = encoding.tokens["image"]
            for number in range(self._model.config.trunk.depth):
                mean = rows.with_values(encoding.record[f"image.{number}.hidden"]).mean()
                features.setdefault(f"{VIT}, layer {number + 1}", []).append(mean)
            features.setdefault(VIT, []).append(encoding.pooled["image"])
        return {name: torch.cat(parts).numpy() for name, parts in features.items()}


def vit_on(columns: Columns, steps: int, most: int, show: bool = False) -> Tower | None:
    """A small MAE trained on the set's own images for some steps; None where there are too few to learn from."""
    first = first_of_groups(columns.groups)
    rows = first[sample_rows(len(first), most)]
    trunk = VitConfig(image_size=SMALL, patch_size=8, dim=128, depth=4, heads=4, hidden_dim=256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mae(MaeConfig(trunk, decoder_dim=64, decoder_depth=1, decoder_heads=4, decoder_hidden_dim=128))
    prepared = transform(SMALL, needed(model.input_spec.image, "images"))
    pixels: list[Tensor] = []
    for row in with_progress(rows.tolist(), "reading images for the ViT", len(rows), show):
        try:
            pixels.append((prepared(columns.images[row]) * 32).round().clamp(-128, 127).to(torch.int8))
        except (BadSample, InputError):
            continue
    if len(pixels) < VIT_BATCH:
        return None
    data = torch.stack(pixels)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), 1.5e-3, betas=(0.9, 0.95), weight_decay=0.05)
    for step in with_progress(range(steps), "training a ViT on these images", steps, show):
        chosen = torch.randint(len(data), (VIT_BATCH,), generator=generator)
        batch = Batch(images=Images(pixels=data[chosen].float() / 32))
        optimiser.param_groups[0]["lr"] = 1.5e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        optimiser.zero_grad()
        model.losses(batch, Draws(generator))["reconstruction"].backward()
        optimiser.step()
    return VitTower(model, f"mae {steps} {hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()}")


class Word2VecTower:
    """The mean of the vectors of a text's words (skip-gram, Mikolov et al. 2013), learnt on the set's own texts."""

    name = WORD2VEC
    modality: Modality = "text"

    def __init__(self, vectors: Any, key: str) -> None:
        self.vectors, self.key = vectors, key

    def encode(self, items: Sequence[str]) -> Mapping[str, Floats]:
        rows: list[Floats] = []
        for text in items:
            known = [self.vectors[word] for word in words_of(text) if word in self.vectors]
            rows.append(np.mean(known, 0) if known else np.zeros(self.vectors.vector_size, np.float32))
        return {WORD2VEC: np.stack(rows)}


def word2vec_on(texts: Sequence[str], most: int = 100_000) -> Word2VecTower | None:
    """word2vec trained on the texts by gensim; None where they are too few to learn from, or Python has no gensim."""
    sentences = [words_of(text) for text in pick(texts, sample_rows(len(texts), most))]
    words = sum(map(len, sentences))
    if words < 500 or len({word for sentence in sentences for word in sentence}) < 20:
        return None
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        if sys.version_info >= (3, 14):  # of which gensim has no release
            say("word2vec is left out: gensim has no release for this Python; 3.11 to 3.13 have it")
            return None
        raise InputError("word2vec needs gensim: pip install 'coalign[analysis]'") from error

    passes = int(np.clip(1_000_000 / words, 3, 30))
    model: Any = Word2Vec(
        sentences, vector_size=64, window=5, min_count=2, sg=1, negative=8, epochs=passes, seed=1, workers=1
    )
    digest = hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Word2VecTower(model.wv, f"word2vec {digest}")


def transform(side: int, like: ImageSpec) -> Callable[[ImageLike], Tensor]:
    """Any picture squeezed to a square of `side` pixels, normalised as another model's are."""
    prepared = ImageTransform(InputSpec(image=ImageSpec.square(side, like.mean, like.std)))

    def read(image: ImageLike) -> Tensor:
        return prepared(decode_image(image))

    return read


def _batches(items: Sequence[T], size: int) -> Iterable[list[T]]:
    return ([items[i] for i in range(begin, min(begin + size, len(items)))] for begin in range(0, len(items), size))


def _find(ids: Sequence[int], pieces: Sequence[int]) -> int | None:
    return next((i for i in range(len(ids) - len(pieces) + 1) if list(ids[i : i + len(pieces)]) == list(pieces)), None)
