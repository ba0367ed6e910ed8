"""`coalign convert-data`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalName, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer
from coalign.errors import InputError

HELP = Help("your own data", "DATA OUT", "utterances (MOSI's pickles, .csd, your own table) as a safe folder", 45)


def command(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    padding: Literal["strip", "keep"] = "strip",
    by_word: Annotated[bool, arg(help_behavior_hint="")] = False,
    stream: Annotated[tuple[str, ...], arg(metavar="NAME=FILE ...", help_behavior_hint="")] = (),
    labels: Literal["sentiment", "emotions"] = "sentiment",
    audio: Literal["log-mel", "mfcc"] = "log-mel",
    vision: str = "efficientnet",
    vision_system: OptionalName = None,
    fps: float = 3.0,
    words: OptionalName = None,
    json: Json = False,
) -> int:
    """Reads utterances of several streams and writes them as Arrow and safetensors, which hold no code.

    DATA is a pickle of MulT, MAG or MMSA, which is read without running anything in it; a folder of the
    CMU-MultimodalSDK's .csd files, or of UR-FUNNY's pickles; world:joint,lag=2 and the like, a generated world; or
    your own table with the columns text, label, and audio or video (paths). What follows is read by the recipes.

    Args:
        data: The utterances.
        out: A new folder.
        padding: Of a pickle: strip takes rows of zeros off both ends of every stream, keep leaves them.
        by_word: Of .csd files and tables: one row a word, the mean of those that fall in it.
        stream: Of .csd files: which file is what, audio=CMU_MOSI_COVAREP.csd, where their names do not tell.
        labels: Of .csd files: the sentiment, or CMU-MOSEI's six emotions.
        audio: Of a table: log-mel energies (40 bands) or cepstra (13).
        vision: Of a table with videos: efficientnet (EfficientNet-lite0, of the extra of that name), one of our runs,
            or the authors' file of an image system, with --vision-system.
        vision_system: Whose file --vision is: vit, mae, albef ...
        fps: Of a table with videos: pictures a second.
        words: Of a table: minilm, or another BERT's folder, whose states become the stream "text".
    """
    from coalign.data.pairs.tables import is_table
    from coalign.data.series.folder import FILE, write_files
    from coalign.files import replace_folder
    from coalign.worlds.speakers import open_series

    if out.exists():
        raise InputError(f"{out}: exists already; give the name of a new folder")
    path = Path(data)
    if path.is_file() and is_table(path):
        found = _read_table(path, by_word, audio, vision, vision_system, fps, words)
    else:
        given = {name: file for name, _, file in (part.partition("=") for part in stream)}
        found = open_series(data, padding=padding, by_word=by_word, streams=given, labels=labels)
    for note in found.notes:
        say(note)

    def fill(folder: Path) -> None:
        import json as json_format

        about = write_files(found, folder)
        (folder / FILE).write_text(json_format.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    replace_folder(out, fill)
    sizes = {split: len(items) for split, items in found.splits.items()}
    said = {"out": str(out), "task": found.task, "streams": found.widths, "splits": sizes, "words": found.has_words}
    streams = ", ".join(f"{name} ({width})" for name, width in found.widths.items())
    answer(
        json,
        said,
        f"{out}: {found.task}, {', '.join(f'{n} {split}' for split, n in sizes.items())}; streams {streams}"
        f"{'; with words' if found.has_words else ''}; next: coalign train mult-mosi --data {out}",
    )
    return 0


def _read_table(
    path: Path,
    by_word: bool,
    audio: Literal["log-mel", "mfcc"],
    vision: str,
    vision_system: str | None,
    fps: float,
    words: str | None,
) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    from coalign.data.pairs.tables import open_rows
    from coalign.data.series.table import Extraction, read_utterances

    names, _ = open_rows(path)
    films = any(name.strip().lower() == "video" for name in names)
    extraction = Extraction(
        audio=audio,
        fps=fps,
        pictures=picture_features(vision, vision_system) if films else None,
        words=None if words is None else word_features(words),
        by_word=by_word,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading utterances")
        return read_utterances(path, extraction, lambda done, of: bar.update(task, completed=done, total=of))


def picture_features(name: str, system: str | None = None) -> Callable[[Any], Any]:
    """What makes features [N, D] of pictures, uint8 [N, 3, H, W].

    Errors: `InputError` where the model is not there, or reads no pictures.
    """
    import torch
    from torchvision.transforms import v2

    from coalign import load
    from coalign.data.images.transforms import ImageTransform
    from coalign.layers.convolution import MEAN, STAGES, STD, EfficientNetLite0
    from coalign.types import Batch, Images, InputSpec

    if name == "efficientnet":
        network = EfficientNetLite0.pretrained().folded()
        size = v2.Resize((224, 224), antialias=True)
        mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))

        @torch.no_grad()
        def stages(pictures: torch.Tensor) -> torch.Tensor:
            pixels = (size(pictures).float() / 255 - mean) / std
            (last,) = network.features(pixels.contiguous(memory_format=torch.channels_last), [len(STAGES) - 1])
            return last.mean((2, 3))

        return stages
    model = load(name, system).model
    spec: InputSpec = model.input_spec
    if spec.image_size is None:
        raise InputError(f"{name}: reads no pictures, so it makes no features of them")
    transform = ImageTransform(spec)

    @torch.no_grad()
    def encode(pictures: torch.Tensor) -> torch.Tensor:
        pixels = torch.stack([transform(picture) for picture in pictures])
        seen = model.encode(Batch(images=Images(pixels=pixels)))
        return seen.pooled["image"] if "image" in seen.pooled else seen.tokens["image"].mean()

    try:
        encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    except (InputError, KeyError):
        raise InputError(f"{name}: reads no picture by itself, so it makes no features of one") from None
    return encode


def word_features(name: str) -> Callable[[Sequence[tuple[str, ...]]], list[Any]]:
    """What makes one row a word [W, D] of texts: the mean of a BERT's last states over the word's pieces."""
    import torch

    from coalign.data.series.collate import encode_words
    from coalign.data.series.utterances import word_means
    from coalign.recipes.texts._bert import starting_weights

    model, tokenizer = starting_weights(name)
    model.eval()

    @torch.no_grad()
    def encode(texts: Sequence[tuple[str, ...]]) -> list[torch.Tensor]:
        text = encode_words(tokenizer, texts, model.input_spec)
        states = model.trunk(text.ids, text.types)
        assert text.words is not None
        lengths = states.lengths.tolist()
        parts = zip(states.values.split(lengths), text.words.split(lengths), texts, strict=True)
        return [word_means(rows, places, len(words)) for rows, places, words in parts]

    return encode
