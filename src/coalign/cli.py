"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json as json_format
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg

from coalign.errors import InputError

HELP = """coalign: train, load, compare, search with and look into multimodal aligned representations.

start here:
  coalign quickstart                      train on real image-text pairs, evaluate, write a report (minutes, no GPU)
  coalign systems                         the published systems there are

your own pairs:
  coalign train RECIPE --data PAIRS       train; started again, it goes on from the run's last checkpoint
  coalign evaluate RUN --data PAIRS       recall on held-out pairs, beside chance

a trained run:
  coalign index RUN --data PAIRS          embed a corpus and make it searchable
  coalign search RUN "TEXT"               ranked answers to a text (or to --image FILE)
  coalign align RUN IMAGE "TEXT"          where in the image each word looks
  coalign embed RUN --data PAIRS --out T  the vectors of a corpus as a Parquet table

the authors' files:
  coalign convert FILE OUT --system NAME  their checkpoint <-> ours <-> Hugging Face layout
  coalign verify CASE ...                 recorded cases of the original implementations against ours

`coalign COMMAND --help` says more. Exit status: 0 done, 1 a check failed, 2 something given is wrong.
--debug, anywhere, shows the traceback of an error. --version says which coalign this is.
"""

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)

Json = Annotated[bool, arg(help="Print JSON, for programs.", help_behavior_hint="")]
Switch = Annotated[bool, arg(help_behavior_hint="")]
DATA_HELP = (
    "The pairs: a .csv, .tsv, .jsonl, .json or .parquet table with a column of image paths and one of texts; COCO "
    "captions or a Karpathy split (.json); a folder of images with a .txt beside each; .tar shards; the name of a "
    "Hugging Face data set."
)
RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help="The folder of a run, such as runs/quickstart.")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalName = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Pairs:
    """Where image-text pairs are and how to read them."""

    data: Annotated[str, arg(metavar="PAIRS", help=DATA_HELP)]
    images: OptionalPath = None
    """The folder that image paths are relative to. By default the table's own."""
    image_column: OptionalName = None
    """The column of the images. By default found by its name."""
    text_column: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """The column or columns of the texts. By default found by name."""
    split: OptionalName = None
    """Only this split, where the data has several."""

    def open(self, prefer: str | None = None) -> Any:
        """A `Source` of the usable pairs; what is broken is said on standard error, too much of it is an error."""
        from coalign.data.quarantine import Quarantine, check_source
        from coalign.data.sources import open_source

        source = open_source(
            self.data,
            image_column=self.image_column,
            text_column=list(self.text_column) or None,
            images=self.images,
            split=self.split,
            prefer=prefer,
        )
        quarantine = Quarantine()
        checked = check_source(source, quarantine=quarantine, thorough=200, progress=sys.stderr.isatty())
        if checked.broken:
            _say(f"{self.data}: {quarantine.summary()}; left out")
        return checked.source


PairsOptions = OmitArgPrefixes[Pairs]


# --------------------------------------------------------------------------------------------------------- commands
def systems_command(json: Json = False, readme: OptionalPath = None) -> int:
    """The published systems there are: papers, sizes, objectives, tasks.

    Args:
        readme: Put the table of systems into this Markdown file, between its two marks.
    """
    rows = system_rows()
    if json:
        _print_json(rows)
    elif readme is not None:
        _put_table(readme)
    else:
        for row in rows:
            print(f"{row['name']:12} {row['title']}\n{'':12} {row['paper']}")
            for key in ("sizes", "objectives", "tasks", "weights", "recipes"):
                if row[key]:
                    print(f"{'':12} {key}: {', '.join(row[key])}")
    return 0


def evaluate_command(
    run: RunFolder,
    pairs: PairsOptions,
    task: Literal["retrieval"] = "retrieval",
    rerank: Annotated[bool, arg(help_behavior_hint="")] = True,
    k: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None,
    weight: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None,
    batch_size: int = 64,
    workers: int = 0,
    json: Json = False,
) -> int:
    """How well a run does a task on held-out pairs.

    retrieval: Recall@1, 5 and 10 from image to text and from text to image, by the vectors alone and with the best
    answers re-ranked by the fusion layers, beside chance. Of data with splits "test" is taken unless --split says
    another.

    Args:
        task: What is measured.
        rerank: Leave out re-ranking, which is done where the model can.
        k: How many answers are re-ranked. By default what the run's config.json says, else 32.
        weight: Score = similarity + weight * matching logit. By default what the run's config.json says, else 0.07.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
    """
    from coalign.retrieval.rerank import Matcher
    from coalign.tasks.retrieval import evaluate_pairs

    model = _load_run(run)
    matches: bool = isinstance(model, Matcher)
    reranking = _reranking(run, k, weight) if rerank and matches else None
    result = evaluate_pairs(
        model,
        pairs.open(prefer="test"),
        reranking=reranking,
        batch_size=batch_size,
        workers=workers,
        show_progress=True,
    )
    if result.left_out:
        _say(f"{result.left_out} samples could not be read and were left out")
    if json:
        _print_json({"task": task, **result.to_json()})
    else:
        print(result.table())
    return 0


def embed_command(
    run: RunFolder,
    pairs: PairsOptions,
    out: Path,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    json: Json = False,
) -> int:
    """Writes the vectors of a corpus as a Parquet table: one row an image or text, with the unit vector.

    Args:
        out: The .parquet file to write. Columns: modality, text, image, meta, vector.
        overwrite: Replace the file if it exists.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
    """
    from coalign.tasks.search import embed_pairs, vector_table, vector_width

    _new_file(out, overwrite, (".parquet",))
    model = _load_run(run)
    source = pairs.open()
    with vector_table(out, vector_width(model)) as table:
        added = embed_pairs(model, source, table, batch_size=batch_size, workers=workers, show_progress=True)
    _answer(json, {"out": str(out), **added}, f"{added['image']} images and {added['text']} texts: {out}")
    return 0


def index_command(
    run: RunFolder,
    pairs: PairsOptions,
    out: OptionalPath = None,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    json: Json = False,
) -> int:
    """Embeds a corpus into an index that `coalign search` reads. Interrupted, it goes on when it is started again.

    Args:
        out: The folder of the index. By default RUN/index.
        overwrite: Replace an index of other data, or one made before the run was trained further.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
    """
    from coalign.tasks.search import index_pairs

    model = _load_run(run)
    path = out or run / "index"
    added = index_pairs(
        run,
        model,
        pairs.open(),
        path,
        overwrite=overwrite,
        batch_size=batch_size,
        workers=workers,
        show_progress=True,
    )
    words = f"{added['image']} images and {added['text']} texts added: {path}"
    _answer(json, {"index": str(path), **added}, words)
    return 0


def search_command(
    run: RunFolder,
    text: Annotated[Positional[str | None], arg(metavar="TEXT", help_behavior_hint="")] = None,
    image: OptionalPath = None,
    k: Annotated[int, arg(aliases=("-k",))] = 10,
    answers: Annotated[Literal["image", "text"] | None, arg(metavar="image|text", help_behavior_hint="")] = None,
    rerank: Switch = False,
    open: Switch = False,
    index: OptionalPath = None,
    json: Json = False,
) -> int:
    """Ranked answers out of the run's index: pictures for a text, texts for a picture.

    Args:
        text: What to search for, in words.
        image: Search with this picture instead of words.
        k: How many answers.
        answers: Whether pictures or texts are wanted. By default what the query is not.
        rerank: Score the best answers again with the fusion layers, which see the text and the picture together.
        open: Write a contact sheet of the answers (PNG) and print its path.
        index: Another index than RUN/index.
    """
    from coalign.retrieval.index import Index
    from coalign.tasks.search import search

    if (text is None) == (image is None) or (text is not None and not text.strip()):
        raise InputError('give either words to search for, coalign search RUN "red fruit", or --image FILE')
    if image is not None and not image.is_file():
        raise InputError(f"{image}: no such picture")
    path = index or run / "index"
    _check_run(run)
    if not path.is_dir():
        raise InputError(f"{path}: no index; make one with: coalign index {run} --data YOUR_PAIRS")
    opened = Index.open(path)
    query = image if image is not None else str(text)
    wanted = answers or ("text" if image is not None else "image")
    reranking = _reranking(run) if rerank else None
    hits = search(_load_run(run), opened, query, k, answers=wanted, reranking=reranking)
    sheet = _contact_sheet(run, query, hits) if open else None
    if json:
        rows = [
            {
                "score": hit.score,
                "row": hit.row,
                "modality": hit.modality,
                "text": hit.entry.text,
                "image": hit.entry.image,
                "meta": hit.entry.meta,
            }
            for hit in hits
        ]
        _print_json({"query": str(query), "answers": rows, "sheet": None if sheet is None else str(sheet)})
        return 0
    for place, hit in enumerate(hits, 1):
        where = f"  {hit.entry.image}" if hit.entry.image else ""
        print(f"{place:3}  {hit.score:7.4f}  {hit.entry.text or ''}{where}")
    if sheet is not None:
        print(sheet)
    return 0


def align_command(
    run: RunFolder,
    image: Annotated[Positional[Path], arg(metavar="IMAGE")],
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    out: OptionalPath = None,
    method: Literal["auto", "grad_cam", "cross_attention"] = "auto",
    overwrite: Switch = False,
    json: Json = False,
) -> int:
    """Where in the image each word of the text looks.

    Args:
        image: The picture.
        text: The text, in quotes.
        out: Write one heat map a word to this .png, or the numbers to this .json. Without it they are printed.
        method: What the fusion layers attend to, and in grad_cam weighted by what made image and text match; auto is
            what the model can show.
        overwrite: Replace the file if it exists.
    """
    from coalign import prepare
    from coalign.analysis.alignment import Aligner, Method, align, alignment_sheet, save_alignment
    from coalign.analysis.pictures import save_picture
    from coalign.tasks.retrieval import device_of, inputs_of
    from coalign.types import Model

    if out is not None:
        _new_file(out, overwrite, (".png", ".jpg", ".webp", ".json"))
    if not image.is_file():
        raise InputError(f"{image}: no such picture")
    model = _load_run(run)
    words, device = inputs_of(model)[1].words(text), device_of(model)
    if not isinstance(model, Aligner) or not isinstance(model, Model):
        raise InputError(f"{run}: a {type(model).__name__} has no alignment maps")
    if not words:
        raise InputError("the text has no words; give some, in quotes")
    batch = prepare(model, images=[image], texts=[text]).to(device)
    chosen: Method = getattr(model, "alignment_method", "cross_attention") if method == "auto" else method
    (found,) = align(model, batch, [words], chosen)
    if out is not None and out.suffix == ".json":
        save_alignment(found, out)
    elif out is not None:
        save_picture(alignment_sheet(image, found), out)
    if json or out is None:
        _print_json(found.to_json())
    else:
        print(out)
    return 0


def convert_command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    system: Annotated[str, arg(metavar="NAME")],
    to: Annotated[str, arg(metavar="LAYOUT")] = "original",
    head: OptionalName = None,
) -> int:
    """Reads a weights file and writes its tensors in another layout of its system. Never overwrites.

    Args:
        file: The authors' file (.pth, .pt, .bin, .safetensors, .npz ...), a Hugging Face folder, or one of our runs.
        out: The .safetensors file to write.
        system: Whose weights these are; `coalign systems` lists the names.
        to: The layout to write: original, transformers ...
        head: The task model in the file. By default found by names and shapes.
    """
    from coalign import convert

    convert(file, out, system=system, to=to, head=head)
    print(out)
    return 0


def verify_command(
    cases: Annotated[Positional[tuple[Path, ...]], arg(metavar="CASE ...", help_behavior_hint="")] = (),
    manifest: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="FILE.json ...")] = (),
    json: Json = False,
) -> int:
    """Holds recorded cases of the original implementations against ours, one line an output.

    A line: the output's name, the largest |a-b|, the same over 1 + max|b|, and ok, FAIL or skip. Exit status: 0 all
    ok, 1 a FAIL, 2 a file that cannot be read.

    Args:
        cases: Recorded cases (.safetensors, or the JSON trace of data creation).
        manifest: Manifests (.json), whose entries are checked by names and shapes alone, both ways.
    """
    from dataclasses import asdict

    from coalign.parity.verify import verify, verify_manifest

    manifests = [path for paths in manifest for path in paths]
    if not cases and not manifests:
        raise InputError("nothing to verify: name a recorded case, or give --manifest FILE.json")
    work: list[tuple[Path, Callable[[Path], Sequence[Any]]]] = [(path, verify) for path in cases]
    work += [(path, verify_manifest) for path in manifests]
    failed, unreadable, out = 0, 0, list[dict[str, Any]]()
    for path, check in work:
        try:
            lines = check(path)
        except Exception as error:  # whatever a damaged file provokes, the other files are still checked
            unreadable += 1
            _report(error, path)
            continue
        failed += sum(line.status == "FAIL" for line in lines)
        out += [{"case": str(path), **asdict(line)} for line in lines]
        if not json:
            print("\n".join([str(path), *(f"  {line}" for line in lines)]))
    if json:
        _print_json([{key: None if value == math.inf else value for key, value in row.items()} for row in out])
    else:
        print(f"{len(out)} lines, {failed} FAIL, {unreadable} unreadable")
    return 2 if unreadable else 1 if failed else 0


COMMANDS: dict[str, Callable[..., int]] = {
    "systems": systems_command,
    "evaluate": evaluate_command,
    "embed": embed_command,
    "index": index_command,
    "search": search_command,
    "align": align_command,
    "convert": convert_command,
    "verify": verify_command,
}


# ------------------------------------------------------------------------------------------------------ entry point
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 a check failed, 2 bad input (one line says what and how to mend it)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    token = DEBUG.set("--debug" in words)
    os.environ.setdefault("LANCEDB_LOG", "error")  # else LanceDB warns of every index that is new
    try:
        sys.exit(_dispatch([word for word in words if word != "--debug"]))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except Exception as error:
        _report(error)
        sys.exit(2)
    finally:
        DEBUG.reset(token)


def _dispatch(words: list[str]) -> int:
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name == "--version":
        from coalign import __version__

        print(f"coalign {__version__}")
        return 0
    if name == "train":
        return _train(rest)
    if name == "quickstart":
        return _run_recipe("quickstart", "coalign quickstart", rest)
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}; there are: quickstart, train, {', '.join(COMMANDS)}")
    return tyro.cli(COMMANDS[name], prog=f"coalign {name}", args=rest, config=(FlagCreatePairsOff,))


def _train(words: list[str]) -> int:
    from coalign.recipes import recipe_names, recipes

    if not words or words[0] in ("-h", "--help"):
        print("usage: coalign train RECIPE [--field value ...]\n")
        print("Trains, and goes on by itself from the last checkpoint of the run. `coalign train RECIPE --help` lists")
        print("the recipe's fields. Recipes:\n")
        width = max(map(len, recipe_names()), default=0)
        for name, recipe in recipes().items():
            print(f"  {name:{width}}  {(recipe.__doc__ or '').strip().splitlines()[0]}")
        return 0
    return _run_recipe(words[0], f"coalign train {words[0]}", words[1:])


def _run_recipe(name: str, prog: str, words: list[str]) -> int:
    from coalign.recipes import find_recipe

    tyro.cli(find_recipe(name), prog=prog, args=words).run()
    return 0


# ------------------------------------------------------------------------------------------------------------ parts
def system_rows() -> list[dict[str, Any]]:
    """What `coalign systems` says of each system."""
    import pkgutil

    from coalign import parity, systems
    from coalign.recipes import recipe_names

    verified = {module.name for module in pkgutil.iter_modules(parity.__path__)}
    return [
        {
            "name": system.name,
            "title": system.title,
            "paper": system.paper,
            "sizes": list(system.sizes),
            "objectives": list(system.objectives),
            "tasks": list(system.heads),
            "weights": list(system.weights),
            "recipes": [name for name in recipe_names() if name.startswith(f"{system.name.replace('_', '-')}-")],
            "verified": system.name in verified,
        }
        for system in systems().values()
    ]


def systems_table() -> str:
    """The README's table of systems, in Markdown."""
    lines = ["| name | system | objectives | tasks | reads weights of | state |", "|---|---|---|---|---|---|"]
    for row in system_rows():
        title, *subtitle = row["title"].split(":", 1)
        state = ["held against recordings" if row["verified"] else "not held against recordings yet"]
        state += [f"trains: `{name}`" for name in row["recipes"]]
        cells = [
            f"`{row['name']}`",
            f"**{title}**{''.join(subtitle) and ':' + ''.join(subtitle)} ({row['paper']})",
            *(", ".join(row[key]) or "–" for key in ("objectives", "tasks", "weights")),
            "; ".join(state),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _put_table(readme: Path) -> None:
    from coalign.analysis.pictures import write_text

    before, begins, rest = readme.read_text("utf-8").partition("<!-- systems -->\n")
    _, ends, after = rest.partition("<!-- /systems -->")
    if not begins or not ends:
        raise InputError(f"{readme}: has no lines <!-- systems --> and <!-- /systems --> for the table")
    write_text(readme, f"{before}{begins}{systems_table()}\n{ends}{after}")
    print(readme)


def _check_run(run: Path) -> None:
    config = run / "config.json"
    if not config.is_file():
        raise InputError(
            f"{run}: no run here (there is no config.json); coalign quickstart and coalign train make runs"
        )
    try:
        json_format.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{config}: not JSON: {error}") from error


def _load_run(run: Path) -> Any:
    """The run's model (an `nn.Module`), on a GPU if there is one."""
    import torch

    from coalign import load

    _check_run(run)
    return load(run).to("cuda" if torch.cuda.is_available() else "cpu")


def _reranking(run: Path, k: int | None = None, weight: float | None = None) -> Any:
    """The `Reranking` of the run, with what was said on the command line."""
    from coalign.tasks.retrieval import Reranking

    chosen = Reranking.of_run(run)
    return Reranking(chosen.k if k is None else k, chosen.weight if weight is None else weight)


def _contact_sheet(run: Path, query: str | Path, hits: Sequence[Any]) -> Path:
    """A sheet of the answers' pictures in RUN/searches, named after the query."""
    from coalign.analysis.contact_sheet import Cell, contact_sheet
    from coalign.analysis.pictures import save_picture
    from coalign.tasks.search import picture_of

    pictures = [(picture_of(hit.entry), hit) for hit in hits]
    cells = [Cell(picture, hit.entry.text or "", hit.score) for picture, hit in pictures if picture is not None]
    if not cells:
        raise InputError("no answer has a picture in the index, so there is no contact sheet; leave out --open")
    words = query.stem if isinstance(query, Path) else query
    name = re.sub(r"\W+", "-", words.lower()).strip("-")[:60] or "search"
    return save_picture(contact_sheet(cells, title=words), run / "searches" / f"{name}.png")


def _new_file(path: Path, overwrite: bool, endings: Sequence[str]) -> None:
    """Refuses, before any work is done, a file that exists or whose name does not say a known format."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: should end in {' or '.join(endings)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give another name, or --overwrite")


def _answer(json: bool, value: Any, words: str) -> None:
    if json:
        _print_json(value)
    else:
        print(words)


def _print_json(value: Any) -> None:
    print(json_format.dumps(value, indent=2, ensure_ascii=False))


def _say(message: str) -> None:
    print(f"coalign: {message}", file=sys.stderr)


def _report(error: Exception, path: Path | None = None) -> None:
    """One line on what went wrong; an error that nobody foresaw is called by its name."""
    if DEBUG.get():
        traceback.print_exception(error)
    where = "" if path is None or str(path) in str(error) else f"{path}: "
    message = " ".join(str(error).split())
    foreseen = isinstance(error, InputError | OSError | ImportError) or type(error).__name__ == "DivergenceError"
    _say(f"{where}{message}" if foreseen else f"{where}{type(error).__name__}: {message} (--debug shows where)")
