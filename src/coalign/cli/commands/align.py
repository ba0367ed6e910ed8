"""`coalign align`."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalInt, OptionalName, OptionalPath, RunFolder, Switch, load_run, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, new_file, print_json
from coalign.errors import InputError

if TYPE_CHECKING:
    from coalign.analysis.runs.alignment import Alignment
    from coalign.data.loaded import Loaded
    from coalign.data.regions.regions import RegionFile

HELP = Help("a trained run", 'RUN IMAGE "TEXT"', "where in the image each word looks", 30)

Method = Literal["auto", "cross_attention", "rollout", "grad_cam", "relevance", "transport", "similarity", "occlusion"]


def command(
    run: RunFolder,
    image: Annotated[Positional[Path | None], arg(metavar="IMAGE", help_behavior_hint="")] = None,
    text: Annotated[Positional[str | None], arg(metavar="TEXT", help_behavior_hint="")] = None,
    out: OptionalPath = None,
    pairs: Annotated[str | None, arg(metavar="PAIRS", help_behavior_hint="")] = None,
    images: OptionalPath = None,
    image_column: OptionalName = None,
    text_column: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = (),
    split: OptionalName = None,
    regions: OptionalPath = None,
    method: Method = "auto",
    layer: OptionalInt = None,
    head: OptionalInt = None,
    back: Switch = False,
    batch_size: int = 32,
    overwrite: Switch = False,
    json: Json = False,
) -> int:
    """Where in the image each word of the text looks; with --pairs, for all pairs of a table.

    Args:
        image: The picture.
        text: The text, in quotes.
        out: Write one picture a word to this .png, the numbers to this .json, or a page to this .html on which words,
            layers and heads are chosen; with --pairs a line a pair to this .jsonl. Without it, one pair's numbers are
            printed.
        pairs: A table of pairs (or any data that coalign evaluate takes), in place of IMAGE and TEXT.
        images: The folder that its image paths are relative to. By default the table's own.
        image_column: The column of its images. By default found by its name.
        text_column: The column or columns of its texts. By default found by name.
        split: Only this split of it.
        regions: A file or folder of region features that has the images, for models that read regions.
        method: cross_attention is what one layer attends to; rollout multiplies the attention of all layers; grad_cam
            weights one layer's by what made image and text match, relevance all layers'; transport is the plan that
            carries the words to the patches or regions at least cost; similarity compares the words' states with the
            patches'; occlusion hides each place and measures what the score loses. auto is the first that the system
            names.
        layer: One layer in place of the default, counted from 0 among those in which words and places meet.
        head: One head in place of the mean over heads.
        back: The other way: how much each place draws on each word.
        batch_size: Pairs at a time.
        overwrite: Replace the file if it exists.
    """
    from coalign.analysis.runs.alignment import alignment_sheet, save_alignment
    from coalign.data.images.pictures import save_picture

    options = {"method": method, "layer": layer, "head": head, "back": back}
    if pairs is not None:
        if image is not None or text is not None:
            raise InputError("give either IMAGE and TEXT, or --pairs")
        if out is None:
            raise InputError("--pairs needs the file to write: --out maps.jsonl")
        new_file(out, overwrite, (".jsonl",))
        columns = {"image_column": image_column, "text_column": list(text_column) or None}
        return _many(run, pairs, {**columns, "images": images, "split": split}, out, regions, batch_size, options, json)
    if image is None or text is None:
        raise InputError(
            'give a picture and a text, coalign align RUN IMAGE "TEXT", or a table: --pairs FILE --out FILE'
        )
    if out is not None:
        new_file(out, overwrite, (".png", ".jpg", ".webp", ".json", ".html"))
    if not image.is_file():
        raise InputError(f"{image}: no such picture")
    loaded = load_run(run)
    if out is not None and out.suffix == ".html":
        if layer is not None or head is not None or back:
            raise InputError("a page has all layers and heads to choose from; leave out --layer, --head and --back")
        return _page(loaded, image, text, _regions(loaded, regions), method, out, json)
    (alignment,) = _maps(loaded, [image], [str(image)], [text], _regions(loaded, regions), options)
    if out is not None and out.suffix == ".json":
        save_alignment(alignment, out)
    elif out is not None:
        save_picture(alignment_sheet(image, alignment), out)
    if json or out is None:
        print_json(alignment.to_json())
    else:
        print(out)
    return 0


def _page(
    loaded: Loaded, image: Path, text: str, regions: RegionFile | None, method: str, out: Path, json: bool
) -> int:
    """Writes a page that stands alone, with the map of every layer and head."""
    from coalign.analysis.runs.maps import explain
    from coalign.analysis.runs.viewer import save_page, shown

    explained = explain(loaded, text, image, None if regions is None else regions[str(image)], method)
    save_page(out, [shown(explained, text, image)], text)
    answer(json, {"page": str(out), **explained.to_json()}, str(out))
    return 0


def _regions(loaded: Loaded, path: Path | None) -> RegionFile | None:
    """The file of regions, for a model that reads them."""
    if loaded.spec.regions is None:
        return None
    if path is None:
        raise InputError(f"a {type(loaded.model).__name__} reads regions: give a file of them by --regions")
    from coalign.data.regions.files import open_regions

    return open_regions(path)


def _maps(
    loaded: Loaded,
    images: list[Any],
    names: list[str],
    texts: list[str],
    regions: RegionFile | None,
    options: dict[str, Any],
) -> list[Alignment]:
    from coalign import prepare
    from coalign.analysis.runs.alignment import read_alignment

    words = [loaded.vocabulary.words(text) for text in texts]
    if not all(words):
        raise InputError("the text has no words; give some, in quotes")
    if regions is None:
        batch = prepare(loaded, images=images, texts=texts)
    else:
        batch = prepare(loaded, regions=[regions[name] for name in names], texts=texts)
    return read_alignment(loaded.model, batch.to(loaded.device), words, **options)


def _many(
    run: Path,
    data: str,
    columns: dict[str, Any],
    out: Path,
    regions: Path | None,
    batch_size: int,
    options: dict[str, Any],
    json: bool,
) -> int:
    """A line of JSON a pair, in the order of the pairs: a text of an image. A pair that cannot be read has "error"."""
    from coalign.data.pairs.sources import open_source
    from coalign.files import replacing
    from coalign.progress import with_progress

    source = open_source(data, **columns)
    rejected = [problem for problem in source.problems if not problem.used]
    loaded = load_run(run)
    written, failed = 0, 0
    with replacing(out) as part, part.open("w", encoding="utf-8") as file:
        rows = _lines(loaded, source, _regions(loaded, regions), batch_size, options)
        for row in with_progress(rows, "aligning", None, True):
            file.write(json_format.dumps(row, ensure_ascii=False) + "\n")
            written += 1
            if "error" in row:
                failed += 1
                say(f"{row['image']}: {row['error']}")
    for problem in rejected:
        say(f"{problem}; it has no line")
    if failed or rejected:
        say(f'{failed} of {written} pairs could not be read (lines with "error"), {len(rejected)} rows are no pairs')
    if json:
        print_json({"out": str(out), "pairs": written, "unreadable": failed, "rejected": len(rejected)})
    else:
        print(out)
    return 0


def _lines(
    loaded: Loaded, source: Any, regions: RegionFile | None, batch_size: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    from coalign.data.images.decode import BadSample, decode_image, name_of

    tokenizer, waiting = loaded.vocabulary, list[tuple[dict[str, Any], Any]]()

    def flush() -> Iterator[dict[str, Any]]:
        good = [place for place, (row, _) in enumerate(waiting) if "error" not in row]
        chosen = [waiting[place] for place in good]
        alignments: list[Alignment] = []
        if chosen:
            names, texts = [row["image"] for row, _ in chosen], [row["text"] for row, _ in chosen]
            alignments = _maps(loaded, [image for _, image in chosen], names, texts, regions, options)
        maps = dict(zip(good, alignments, strict=True))
        for place, (row, _) in enumerate(waiting):
            yield row if place not in maps else row | flat(maps[place])
        waiting.clear()

    for number in range(len(source)):
        try:
            sample = source[number]
        except BadSample as error:
            waiting.append(({"image": error.image or error.file, "text": "", "error": error.reason}, None))
            continue
        image, error = None, ""
        try:
            if regions is None:
                image = decode_image(sample.image)
            elif str(name_of(sample.image) or sample.id) not in regions:
                error = f"{regions.name} has no regions of it"
        except BadSample as problem:
            error = problem.reason
        for text in sample.texts:
            row: dict[str, Any] = {"image": str(name_of(sample.image) or sample.id), "text": text}
            if error:
                row["error"] = error
            elif not tokenizer.words(text):
                row["error"] = "the text has no words"
            waiting.append((row, image))
        if len(waiting) >= batch_size:
            yield from flush()
    yield from flush()


def flat(alignment: Alignment) -> dict[str, Any]:
    """A map as in the lines of --pairs: the numbers of a word's patches row by row in one list."""
    said = alignment.to_json()
    said["values"] = alignment.values.flatten(1).tolist()
    return said
