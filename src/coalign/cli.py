"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from coalign.errors import InputError

HELP = """coalign: multimodal aligned representations.

commands:
  systems                       what there is
  train RECIPE [--field value]  pre-train or fine-tune; goes on by itself from the run's last checkpoint
  align RUN IMAGE TEXT          where in the image each word looks, as picture or JSON
  convert FILE OUT              the authors' checkpoint <-> ours <-> Hugging Face layout
  verify CASE ...               recorded cases of the original implementations against ours

`coalign COMMAND --help` says more. --debug, anywhere, shows the traceback of an error.
"""


@dataclass(frozen=True)
class Systems:
    """The systems there are: papers, sizes, objectives, tasks."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from coalign.registry import systems

        rows = [
            {
                "name": system.name,
                "title": system.title,
                "paper": system.paper,
                "sizes": list(system.sizes),
                "objectives": list(system.objectives),
                "tasks": list(system.heads),
            }
            for system in systems().values()
        ]
        if self.json:
            print(json.dumps(rows, indent=2))
            return 0
        for row in rows:
            print(f"{row['name']:12} {row['title']}\n{'':12} {row['paper']}")
            print(f"{'':12} sizes: {', '.join(row['sizes'])}")
            print(f"{'':12} tasks: {', '.join(row['tasks']) or '-'}")
        return 0


@dataclass(frozen=True)
class Verify:
    """Holds recorded cases of the original implementations against ours, a line an output.

    A line: name, largest |a-b|, the same over 1 + max|b|, and ok, FAIL or skip. Exit status: 0 all ok, 1 a FAIL, 2 a
    file that cannot be read.
    """

    cases: Positional[tuple[Path, ...]] = ()
    """Recorded cases (.safetensors, or the JSON trace of data creation)."""
    manifest: tuple[Path, ...] = ()
    """Manifests whose entries are checked by names and shapes alone, both ways."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from dataclasses import asdict

        from coalign.parity.verify import verify, verify_manifest

        if not self.cases and not self.manifest:
            raise InputError("nothing to verify: name a recorded case, or give --manifest FILE.json")
        work: list[tuple[Path, Callable[[Path], Sequence[Any]]]] = [(path, verify) for path in self.cases]
        work += [(path, verify_manifest) for path in self.manifest]
        failed, unreadable, out = 0, 0, []
        for path, check in work:
            try:
                lines = check(path)
            except InputError as error:
                unreadable += 1
                print(f"coalign: {error}", file=sys.stderr)
                continue
            failed += sum(line.status == "FAIL" for line in lines)
            out += [{"case": str(path), **asdict(line)} for line in lines]
            if not self.json:
                print(path)
                for line in lines:
                    print(f"  {line}")
        if self.json:
            print(json.dumps(out, indent=2))
        else:
            print(f"{len(out)} lines, {failed} FAIL, {unreadable} unreadable")
        return 2 if unreadable else 1 if failed else 0


@dataclass(frozen=True)
class Convert:
    """Reads a weights file and writes its tensors in another layout of its system. Never overwrites."""

    file: Positional[Path]
    """The authors' file, a Hugging Face folder, or one of our runs."""
    out: Positional[Path]
    """The .safetensors file to write."""
    system: str
    """Whose weights these are: `coalign systems` lists the names."""
    to: str = "original"
    """The layout to write: original, transformers, ..."""
    head: str | None = None
    """The task model in the file; found by names and shapes where it is not given."""

    def run(self) -> int:
        from coalign.registry import convert

        convert(self.file, self.out, system=self.system, to=self.to, head=self.head)
        print(self.out)
        return 0


@dataclass(frozen=True)
class Align:
    """Where in the image each word of the text looks."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder."""
    image: Positional[Path]
    """The image."""
    text: Positional[str]
    """The text."""
    out: Path | None = None
    """Write a sheet of heat maps to this PNG, or the numbers to this .json."""
    method: Literal["grad_cam", "cross_attention"] = "grad_cam"
    """How alignment is read off the model."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        import coalign
        from coalign.analysis.alignment import Aligner, align, alignment_sheet, save_alignment
        from coalign.analysis.pictures import save_picture
        from coalign.types import Model

        model = coalign.load(self.run_folder)
        if not isinstance(model, Aligner) or not isinstance(model, Model):
            raise InputError(f"{self.run_folder}: a {type(model).__name__} has no alignment maps")
        tokenizer: Any = getattr(model, "tokenizer", None)
        batch = coalign.prepare(model, images=[self.image], texts=[self.text])
        (found,) = align(model, batch, [tokenizer.words(self.text)], self.method)
        if self.out is None or self.json:
            print(json.dumps(found.to_json(), ensure_ascii=False))
        if self.out is not None:
            is_json = self.out.suffix == ".json"
            print(
                save_alignment(found, self.out)
                if is_json
                else save_picture(alignment_sheet(self.image, found), self.out)
            )
        return 0


COMMANDS: dict[str, Any] = {"systems": Systems, "verify": Verify, "convert": Convert, "align": Align}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 a check failed, 2 bad input (one line says what and how to mend it)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        sys.exit(_dispatch(words))
    except (InputError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"coalign: {error}", file=sys.stderr)
        sys.exit(2)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0
    name, rest = words[0], words[1:]
    if name == "train":
        from coalign.recipes import find_recipe, recipe_names

        if not rest or rest[0] in ("-h", "--help"):
            print(f"coalign train RECIPE [--field value ...]\n\nrecipes: {', '.join(recipe_names()) or 'none'}")
            return 0
        tyro.cli(find_recipe(rest[0]), prog=f"coalign train {rest[0]}", args=rest[1:]).run()
        return 0
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}; there are: train, {', '.join(COMMANDS)}")
    return tyro.cli(COMMANDS[name], prog=f"coalign {name}", args=rest).run()
