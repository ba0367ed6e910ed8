"""`coalign convert-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    from coalign.evaluation.bert_weights import starting_weights
    from coalign.extraction.features import read_table, word_features
    from coalign.files import replace_folder, writing
    from coalign.worlds.speakers import open_series

    with writing(out):
        if out.exists():
            raise InputError(f"{out}: exists already; give the name of a new folder")
        path = Path(data)
        if path.is_file() and is_table(path):
            features = None if words is None else word_features(*starting_weights(words))
            series = read_table(path, by_word, audio, vision, vision_system, fps, features)
        else:
            given = {name: file for name, _, file in (part.partition("=") for part in stream)}
            series = open_series(data, padding=padding, by_word=by_word, streams=given, labels=labels)
        for note in series.notes:
            say(note)

        def fill(folder: Path) -> None:
            import json as json_format

            about = write_files(series, folder)
            (folder / FILE).write_text(json_format.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        replace_folder(out, fill)
    sizes = {split: len(items) for split, items in series.splits.items()}
    said = {
        "out": str(out),
        "task": series.task,
        "streams": series.widths,
        "splits": sizes,
        "words": series.has_words,
    }
    streams = ", ".join(f"{name} ({width})" for name, width in series.widths.items())
    answer(
        json,
        said,
        f"{out}: {series.task}, {', '.join(f'{n} {split}' for split, n in sizes.items())}; streams {streams}"
        f"{'; with words' if series.has_words else ''}; next: coalign train mult-mosi --data {out}",
    )
    return 0
