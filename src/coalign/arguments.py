"""Arguments of tasks and commands: runs, pairs, and how flags look in the help. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from coalign.errors import InputError
from coalign.files import read_json, reader
from coalign.flags import OptionalFloat as OptionalFloat
from coalign.flags import OptionalInt as OptionalInt
from coalign.flags import OptionalName as OptionalName
from coalign.flags import OptionalPath as OptionalPath
from coalign.flags import Switch as Switch
from coalign.flags import option_group, shows_progress
from coalign.flags import say as say

if TYPE_CHECKING:
    from coalign.data.loaded import Loaded
    from coalign.ops.generation import Generation
else:
    Generation = Loaded = Any  # which would import torch

RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help="The folder of a run, such as runs/quickstart.")]

PAIRS_HELP = (
    "The pairs: a .csv, .tsv, .jsonl, .json or .parquet table with a column of image paths and one of texts; COCO "
    "captions or a Karpathy split (.json); a folder of images with a .txt beside each; .tar shards; the name of a "
    "Hugging Face data set."
)


@option_group
@dataclass(frozen=True)
class Pairs:
    """Where image-text pairs are and how to read them."""

    data: Annotated[str, arg(metavar="PAIRS", help=PAIRS_HELP)]
    images: OptionalPath = None
    """The folder that image paths are relative to. By default the table's own."""
    image_column: OptionalName = None
    """The column of the images. By default found by its name."""
    text_column: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """The column or columns of the texts. By default found by name."""
    split: OptionalName = None
    """Only this split, where the data has several."""
    max_broken: float = 0.1
    """The largest share of broken rows with which work starts; they are left out."""

    def open(self, prefer: str | None = None, quarantine: Any = None) -> Any:
        """A `Source` of the usable pairs; what is broken is said on standard error, too much of it is an error.

        `quarantine` is the list of what is broken; with one, more pictures are decoded whole beforehand.
        """
        from coalign.data.core.quarantine import Quarantine, check_source
        from coalign.data.pairs.sources import open_source

        source = open_source(
            self.data,
            image_column=self.image_column,
            text_column=list(self.text_column) or None,
            images=self.images,
            split=self.split,
            prefer=prefer,
        )
        thorough, quarantine = (200, Quarantine()) if quarantine is None else (2000, quarantine)
        checked = check_source(
            source, limit=self.max_broken, quarantine=quarantine, thorough=thorough, progress=shows_progress()
        )
        if checked.broken:
            say(f"{self.data}: {quarantine.summary()}; left out")
        return checked.source


@option_group
@dataclass(frozen=True, kw_only=True)
class Writing:
    """How captions are written."""

    sample: bool = False
    """Draw each word from the likeliest ones (nucleus sampling), which gives more various captions than the search for
    the likeliest."""
    beams: int = 3
    """Captions that the search keeps at a time; 1 takes the likeliest word each time."""
    max_length: int = 30
    """The most word pieces of a caption, its beginning and the prompt among them."""
    min_length: int = 0
    """The fewest."""
    top_p: float = 0.9
    """With --sample: the probability that the words drawn from have together."""
    temperature: float = 1.0
    """With --sample: below 1 likely words become likelier."""
    repetition_penalty: float = 1.0
    """Above 1 words that are there already are held back."""
    length_penalty: float = 1.0
    """Above 0 the search prefers longer captions, below 0 shorter ones."""
    prompt: OptionalName = None
    """The beginning of captions, such as "a picture of"; it is no part of them. By default the model's own."""
    seed: int = 0
    """Of --sample."""

    def settings(self, longest: int) -> Generation:
        """The settings of generation by a model of so many positions."""
        from coalign.ops.generation import Generation

        return Generation(
            method="nucleus" if self.sample else "beam",
            beams=self.beams,
            max_length=min(self.max_length, longest),
            min_length=self.min_length,
            top_p=self.top_p,
            temperature=self.temperature,
            repetition_penalty=self.repetition_penalty,
            length_penalty=self.length_penalty,
        )


SEARCHED, DRAWN = Writing(), Writing(sample=True)
"""Captions by beam search; captions that are drawn."""


@reader
def run_config(run: Path) -> dict[str, Any]:
    """The content of the run's config.json. Errors: `InputError` where there is no run, or it is damaged."""
    from coalign.checkpoints.hub import local_folder

    path = local_folder(run) / "config.json"
    if not path.is_file():
        raise InputError(
            f"{run}: no run here (there is no config.json); coalign quickstart and coalign train make runs"
        )
    config: Any = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: not the description of a run: it holds no JSON object")
    return config  # pyright: ignore[reportUnknownVariableType]


def load_run(run: Path, system: str | None = None, *, half: bool = False, **options: Any) -> Loaded:
    """The run, or with `system` another's file, on a GPU if there is one; `options` are those of `coalign.load`.

    With `half` what this thread computes on a GPU that has bfloat16 is computed in it, where that is safe (autocast).
    """
    import torch

    from coalign import load

    if system is None:
        run_config(run)
    cuda = torch.cuda.is_available()
    if half and cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
    return load(run, system, **options).to("cuda" if cuda else "cpu")
