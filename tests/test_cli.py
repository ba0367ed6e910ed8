"""The command line as a user types it: what it prints, what it writes, and how it fails."""

import dataclasses
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model

import coalign
import coalign.extraction
import coalign.recipes
import coalign.tasks
from coalign.cli.commands import command_names
from coalign.cli.commands.systems import FACTS, facts_of_systems, systems_table
from coalign.cli.commands.train import in_processes
from coalign.cli.failures import FOLDER, group_failure, report_error
from coalign.cli.main import main
from coalign.data.words.tokenizer import Tokenizer
from coalign.deferral import flags_alone, value_of
from coalign.errors import InputError
from coalign.registry import describe
from coalign.retrieval.index import Index
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "grey": (120, 120, 120)}
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A table of four pictures with a text each."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, colour in COLOURS.items():
        Image.new("RGB", (24, 16), colour).save(folder / f"{name}.png")
    lines = ["image,caption", *(f"{name}.png,a {name} square" for name in COLOURS)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a tiny ALBEF that was not trained."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([f"a {name} square" for name in COLOURS], 120, min_frequency=1)
    model = coalign.create(
        "albef",
        image=VitConfig(image_size=32, patch_size=8, dim=32, depth=1, heads=2, hidden_dim=64),
        text=BertConfig(
            vocab_size=tokenizer.vocab_size, dim=32, depth=2, heads=2, hidden_dim=64, context_dim=32, cross_from=1
        ),
        embed_dim=16,
        queue_size=8,
    ).model
    config = {**describe(model), "retrieval": {"k": 3, "weight": 0.5}}
    (folder / "config.json").write_text(json.dumps(config))
    save_model(model, str(folder / "model.safetensors"))
    tokenizer.save(folder)
    return folder


def call(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `coalign WORDS`."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def call_json(capsys, *words: object):
    status, out, err = call(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


# ------------------------------------------------------------------------------------------------ help and failures
def flags_of(kind) -> dict[str, list[str]]:
    """Type and default of each field, as words."""
    hints, found = typing.get_type_hints(kind, include_extras=True), {}
    for field in dataclasses.fields(kind):
        known = field.default_factory is dataclasses.MISSING
        value = field.default if known else field.default_factory()
        found[field.name] = [re.sub(r" at 0x\w+", "", repr(part)) for part in (hints[field.name], value)]
    return found


def test_helps_and_the_list_of_systems_come_without_torch():
    """In one process: the list of commands without tyro too, then every flag there is, with torch out of reach. The
    flags are those of the modules read whole."""
    script = inspect.getsource(flags_of) + WITHOUT_TORCH
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in command_names():
        assert f"coalign {command}" in done.stdout
    assert "usage: coalign train vilt-pretrain" in done.stdout and "arXiv 2107.07651" in done.stdout
    alone = json.loads(done.stdout.splitlines()[-1])
    for path, flags in alone.items():
        module, _, kind = path.rpartition(".")
        assert flags == flags_of(getattr(importlib.import_module(module), kind)), path
    assert "deferral.Later" not in str(alone) and sum(map(len, alone.values())) > 300


WITHOUT_TORCH = """
import dataclasses, json, re, sys, typing
import coalign.extraction, coalign.recipes, coalign.tasks
from coalign.cli.main import main
from coalign.deferral import flags_alone, value_of
from coalign.discovery import homes, summaries

class Far:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy", "PIL", "pyarrow", "sklearn", "scipy", "matplotlib", "jaxtyping"):
            raise AssertionError(f"a help imports {name}")

def says(*words):
    try:
        main(words)
    except SystemExit as done:
        assert done.code == 0, words

sys.meta_path.insert(0, Far())
says("--help")
assert "tyro" not in sys.modules
for words in ("train --help", "evaluate --help", "extract --help", "systems", "train vilt-pretrain --help",
              "evaluate --task retrieval --help", "search --help", "quickstart --help"):
    says(*words.split())
flags = {}
for package, kind in ("recipes", "Recipe"), ("tasks", "Evaluate"), ("extraction", "Extract"):
    found = summaries(f"coalign.{package}", kind)
    assert len(found) > 3 and all(said.strip() for said in found.values())
    for name in found:
        home = homes(f"coalign.{package}")[name]
        with flags_alone():
            flags[f"{home}.{kind}"] = flags_of(value_of(home, kind))
assert not any(name.startswith("coalign.recipes.pairs.") for name in sys.modules)
print(json.dumps(flags))
"""


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("tra", ["train"]),
        ("train albef-s", ["albef-small"]),
        ("train vilt-pretrain --image-co", ["--image-column"]),
        ("evaluate RUN --task word-", ["word-alignment"]),
        ("search RUN --ind", ["--index"]),
        ("search RUN pic", []),
    ],
)
def test_the_tab_key(capsys, typed, found):
    assert call(capsys, "completion", "words", "--", *typed.split())[1].split() == found


def test_scripts_of_the_tab_key(capsys):
    for shell in ("bash", "zsh", "fish"):
        status, out, _ = call(capsys, "completion", shell)
        assert status == 0 and "coalign completion words --" in out
    assert "bash|zsh|fish" in call(capsys, "completion", "cmd")[2]
    script = call(capsys, "completion", "bash")[1]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


LAZY = """
import nowhere
from nowhere import thing
from dataclasses import dataclass

WIDTH = 3
def wide(): return 2 * WIDTH
def fails(): return thing.x
@dataclass
class Recipe:
    width: int = wide() if WIDTH == 3 else nowhere.x
class Other(nowhere.Base): ...
"""


COUNTED = """
from coalign.recipes.lazy_base import *

CALLS = []
def pair():
    CALLS.append(1)
    return len(CALLS), len(CALLS)
FIRST, SECOND = pair()
TABLE = {}
"""


def test_flags_alone_run_whole_what_cannot_be_read_by_names(tmp_path, monkeypatch):
    (tmp_path / "lazy_base.py").write_text(
        "class Base: width = 5\nclass Wide(Base): width = 7\nif Base is None: LOST = 1\n"
    )
    apart = COUNTED.replace("import *", "import Base")
    (tmp_path / "lazy_apart.py").write_text(apart + "class Recipe(Base): ...\n")
    (tmp_path / "lazy_whole.py").write_text(COUNTED + 'TABLE["k"] = FIRST\nCALLS.append(2)\nclass Recipe(Wide): ...\n')
    monkeypatch.setattr(coalign.recipes, "__path__", [*coalign.recipes.__path__, str(tmp_path)])
    with flags_alone():
        assert [value_of("coalign.recipes.lazy_apart", name) for name in ("FIRST", "SECOND")] == [1, 1]
        assert value_of("coalign.recipes.lazy_apart", "Recipe").width == 5
        with pytest.raises(ModuleNotFoundError, match="LOST"):
            value_of("coalign.recipes.lazy_base", "LOST")
        assert value_of("coalign.recipes.lazy_whole", "TABLE") == {"k": 1}
        assert value_of("coalign.recipes.lazy_whole", "CALLS") == [1, 2]
        assert value_of("coalign.recipes.lazy_whole", "Recipe").width == 7


def test_flags_alone_run_only_what_the_name_stands_on(tmp_path, monkeypatch):
    (tmp_path / "lazy_one.py").write_text(LAZY.replace("else nowhere.x", "else 0"))
    (tmp_path / "lazy_two.py").write_text(LAZY)
    monkeypatch.setattr(coalign.recipes, "__path__", [*coalign.recipes.__path__, str(tmp_path)])
    with flags_alone():
        recipe = value_of("coalign.recipes.lazy_one", "Recipe")
        assert recipe().width == 6
        with pytest.raises(ModuleNotFoundError, match="nowhere"):
            value_of("coalign.recipes.lazy_one", "fails")()
        with pytest.raises(ModuleNotFoundError, match="nowhere"):
            value_of("coalign.recipes.lazy_two", "Recipe")
    assert not {"coalign.recipes.lazy_one", "coalign.recipes.lazy_two"} & set(sys.modules)


@pytest.mark.parametrize("command", ["systems", "evaluate", "embed", "index", "search", "align", "convert", "verify"])
def test_every_command_explains_itself(capsys, command):
    status, out, _ = call(capsys, command, "--help")
    assert status == 0 and f"usage: coalign {command}" in out and ("--json" in out or command == "convert")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["retrain"], "no command 'retrain'"),
        (["_shared"], "no command '_shared'"),
        (["extract", "smells"], "no extractor 'smells'"),
        (["evaluate", "nowhere", "--task", "result"], "no task 'result'; there are:"),
        (["evaluate", "nowhere", "--data", "x.csv"], "nowhere: no run here"),
        (["evaluate", "nowhere", "--of-a-task", "x.csv"], "nowhere: no run here"),
        (["search", "nowhere", "red"], "nowhere: no run here"),
        (["search", "nowhere"], "--image FILE"),
        (["search", "nowhere", " "], "--image FILE"),
        (["align", "nowhere", "nothing.png", "red"], "nothing.png: no such picture"),
        (["train", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["verify"], "nothing to verify"),
        (["convert", "nothing.pth", "out.safetensors", "--system", "albert"], "no system 'albert'"),
        (["convert", "nothing.pth", "out.safetensors", "--system", "albef"], "nothing.pth"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, monkeypatch, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, *words)
    assert status == 2 and out == ""
    assert err.startswith("coalign: ") and err.count("\n") == 1 and said in err


def test_data_errors_name_the_file_and_the_mend(capsys, run, pairs):
    status, _, err = call(capsys, "evaluate", run, "--data", pairs, "--text-column", "title")
    assert status == 2 and "title" in err and "caption" in err and err.count("\n") == 1
    status, _, err = call(capsys, "evaluate", run, "--data", pairs.with_name("others.csv"))
    assert status == 2 and "others.csv: no such file" in err


def test_a_damaged_run_is_one_line(capsys, run, pairs, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text()[:50])
    status, _, err = call(capsys, "evaluate", tmp_path, "--data", pairs)
    assert status == 2 and "config.json: is not JSON" in err and err.count("\n") == 1
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    status, _, err = call(capsys, "evaluate", tmp_path, "--data", pairs)
    assert status == 2 and "model.safetensors" in err and err.count("\n") == 1


def test_debug_shows_the_traceback(capsys):
    status, _, err = call(capsys, "train", "no-such-recipe", "--debug")
    assert status == 2 and "Traceback" in err and "no recipe" in err.splitlines()[-1]


def test_an_error_that_nobody_foresaw_is_one_line_too(capsys, monkeypatch):
    def fail() -> None:
        raise KeyError("odd")

    monkeypatch.setattr("coalign.cli.commands.systems.system_rows", fail)
    status, _, err = call(capsys, "systems")
    assert status == 2 and err == "coalign: KeyError: 'odd' (--debug shows where)\n"


# ------------------------------------------------------------------------------------------------------ the systems
def test_processes_that_fail_say_it_once(capfd, monkeypatch, tmp_path):
    assert in_processes("2", ["nonsense"]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("coalign: no command 'nonsense'")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for rank, error in enumerate((RuntimeError("connection closed"), InputError("shard 3: broken"))):
        monkeypatch.setenv("RANK", str(rank))
        report_error(error)
    assert group_failure(tmp_path) == "coalign: shard 3: broken"
    assert capfd.readouterr().err == ""


def test_systems_lists_all(capsys):
    rows = call_json(capsys, "systems")
    assert [row["name"] for row in rows] == list(coalign.systems())
    albef = next(row for row in rows if row["name"] == "albef")
    assert {"vqa", "nlvr2", "retrieval"} <= set(albef["tasks"]) and albef["objectives"] == ["itc", "itm", "mlm"]
    _, out, _ = call(capsys, "systems")
    assert "arXiv 2107.07651" in out


def test_the_readme_shows_the_table_of_systems(capsys, tmp_path, monkeypatch):
    text = README.read_text("utf-8")
    shown = text.split("<!-- systems -->\n")[1].split("\n<!-- /systems -->")[0]
    assert shown == systems_table(), "renew it: coalign systems --readme README.md"
    assert json.loads(FACTS.read_text("utf-8")) == facts_of_systems(), "renew it: coalign systems --readme README.md"
    copy = tmp_path / "README.md"
    copy.write_text(text.replace(shown, "an older table"), "utf-8")
    monkeypatch.setattr("coalign.cli.commands.systems.FACTS", tmp_path / "systems.json")
    assert call(capsys, "systems", "--readme", copy)[0] == 0
    assert (tmp_path / "systems.json").read_bytes() == FACTS.read_bytes()
    assert copy.read_text("utf-8") == text


# ----------------------------------------------------------------------------------------------------------- recipes
RECIPE = '''
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Recipe:
    """Writes its settings down.

    For the test."""
    data: str
    out: Path
    steps: int = 10

    def run(self) -> None:
        from coalign.training.meter import DivergenceError
        if self.steps == 0:
            raise DivergenceError("the loss 'itc' became nan in step 1")
        self.out.write_text(f"{self.data} {self.steps}")
'''


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "write_down.py").write_text(RECIPE)
    (folder / "_shared.py").write_text("")
    monkeypatch.setattr(coalign.recipes, "__path__", [str(folder)])
    yield folder
    sys.modules.pop("coalign.recipes.write_down", None)


def test_train_makes_flags_of_a_recipes_fields(capsys, recipe, tmp_path):
    out = tmp_path / "settings"
    assert call(capsys, "train", "write-down", "--data", "x.csv", "--out", out, "--steps", 3)[0] == 0
    assert out.read_text() == "x.csv 3"
    status, said, _ = call(capsys, "train", "write-down", "--help")
    assert status == 0 and "usage: coalign train write-down" in said and "--steps INT" in said
    assert call(capsys, "train", "write-down", "--out", out)[0] == 2  # --data is missing
    assert list(coalign.recipes.recipes()) == ["write-down"]


def test_train_lists_the_recipes(capsys, recipe):
    status, out, _ = call(capsys, "train")
    assert status == 0 and "write-down  Writes its settings down." in out and "shared" not in out


def test_a_training_that_diverges_is_one_line(capsys, recipe, tmp_path):
    status, _, err = call(capsys, "train", "write-down", "--data", "x", "--out", tmp_path / "o", "--steps", 0)
    assert status == 2 and err == "coalign: the loss 'itc' became nan in step 1\n"


def test_quickstart_is_a_recipe_with_a_command_of_its_own(capsys, recipe, tmp_path, monkeypatch):
    recipe.joinpath("quickstart.py").write_text(
        RECIPE.replace("data: str", 'data: str = "emoji"').replace("out: Path", 'out: Path = Path("q")')
    )
    monkeypatch.delitem(sys.modules, "coalign.recipes.pairs.quickstart", raising=False)
    assert call(capsys, "quickstart", "--out", tmp_path / "q", "--steps", 20)[0] == 0
    assert (tmp_path / "q").read_text() == "emoji 20"


# ------------------------------------------------------------------------------------------------------------- a run
def test_evaluate(capsys, run, pairs):
    found = call_json(capsys, "evaluate", run, "--data", pairs)
    assert (found["task"], found["images"], found["texts"]) == ("retrieval", 4, 4)
    assert found["reranking"] == {"k": 3, "weight": 0.5, "hubness": 0.0}  # as the run's config.json says
    assert found["chance"]["text_to_image"]["R@1"] == 0.25 and found["reranked"]["image_to_text"]["R@5"] == 1
    assert call_json(capsys, "evaluate", run, "--data", pairs, "--k", 2)["reranking"]["k"] == 2
    assert "reranked" not in call_json(capsys, "evaluate", run, "--data", pairs, "--no-rerank")
    status, out, _ = call(capsys, "evaluate", run, "--data", pairs)
    assert status == 0 and out.startswith("4 images, 4 texts") and "chance" in out


TASK = '''
"""Counts lines."""
from dataclasses import dataclass
from pathlib import Path
from coalign.arguments import RunFolder
from coalign.evaluation.result import TaskResult

@dataclass(frozen=True)
class Evaluate:
    """Counts the lines of a file."""
    run: RunFolder
    data: Path
    """The file."""
    scale: float = 1.0

    def evaluate(self) -> TaskResult:
        lines = self.data.read_text().splitlines()
        return TaskResult({"lines": len(lines) * self.scale, "none": float("nan")}, len(lines), {"chance": 0.5})
'''


def test_a_task_is_a_file_and_the_run_says_which(capsys, run, pairs, tmp_path, monkeypatch):
    (tmp_path / "count_lines.py").write_text(TASK)
    monkeypatch.setattr(coalign.tasks, "__path__", [*coalign.tasks.__path__, str(tmp_path)])
    status, out, _ = call(capsys, "evaluate", "--help")
    assert status == 0 and re.search(r"count-lines +Counts the lines of a file\.", out) and "\n  retrieval" in out
    assert "arguments" not in out
    status, out, _ = call(capsys, "evaluate", "--task", "count-lines", "--help")
    assert status == 0 and "--data PATH" in out and "The file." in out and "--json" in out
    found = call_json(capsys, "evaluate", run, "--task", "count_lines", "--data", pairs, "--scale", 2)
    assert found["metrics"] == {"lines": 10, "none": None} and found["count"] == 5 and found["chance"] == 0.5
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"task": "count-lines"}))
    status, out, _ = call(capsys, "evaluate", folder, "--data", pairs)
    assert status == 0 and out.splitlines() == ["5 items", "lines   5.0000", "none    nan", "chance  0.5000"]
    sys.modules.pop("coalign.tasks.count_lines", None)


def test_an_extractor_is_a_file(capsys, tmp_path, monkeypatch):
    (tmp_path / "edges.py").write_text(RECIPE.replace("class Recipe", "class Extract"))
    monkeypatch.setattr(coalign.extraction, "__path__", [str(tmp_path)])
    assert "edges  Writes its settings down." in call(capsys, "extract")[1]
    out = tmp_path / "found"
    assert call(capsys, "extract", "edges", "--data", "x.png", "--out", out)[0] == 0 and out.read_text() == "x.png 10"
    sys.modules.pop("coalign.extraction.edges", None)


def test_broken_pairs_are_left_out_up_to_a_tenth(capsys, run, pairs):
    lines = pairs.read_text().splitlines()
    some = pairs.with_name("some.csv")
    some.write_text("\n".join([*lines, *lines[1:] * 3, "gone.png,nothing"]) + "\n")
    status, _, err = call(capsys, "evaluate", run, "--data", some, "--no-rerank")
    assert status == 0 and "1 broken" in err
    some.write_text("\n".join([*lines, "gone.png,nothing"]) + "\n")
    status, _, err = call(capsys, "evaluate", run, "--data", some)
    assert status == 2 and "20%" in err


def test_embed_writes_a_table_and_overwrites_none(capsys, run, pairs, tmp_path):
    out = tmp_path / "vectors.parquet"
    assert call_json(capsys, "embed", run, "--data", pairs, "--out", out) == {"out": str(out), "image": 4, "text": 4}
    before = out.read_bytes()
    status, _, err = call(capsys, "embed", run, "--data", pairs, "--out", out)
    assert status == 2 and "exists already" in err and out.read_bytes() == before
    assert call(capsys, "embed", run, "--data", pairs, "--out", out, "--overwrite")[0] == 0
    assert call(capsys, "embed", run, "--data", pairs, "--out", tmp_path / "vectors.txt")[0] == 2


KILLED_ONCE = """#!{python}
import os, signal, sys
from coalign.cli.main import main
from coalign.retrieval.vector_table import VectorTable
append, file = VectorTable.append, {file!r}
def die(table, vectors, entries, modality):
    append(table, vectors, entries, modality)
    if "1/2" in sys.argv and not os.path.exists(file):
        open(file, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
VectorTable.append = die
main()
"""
"""`coalign` whose second part is killed in its middle when it is first started."""


def test_the_pages_line_of_bash_makes_the_index_of_one_go_after_a_part_was_killed(
    capsys, run, pairs, tmp_path, monkeypatch
):
    page = (Path(__file__).parents[1] / "docs" / "guides" / "cluster.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith("seq ")).partition("#")[0]
    line = line.replace("seq 0 2", "seq 0 1").replace("/3", "/2")
    assert "-P 2" in line and "--part I/2" in line
    here = tmp_path / "here"
    shutil.copytree(pairs.parent, here)
    shutil.copytree(run, here / "runs" / "clip")
    program = tmp_path / "bin" / "coalign"
    program.parent.mkdir()
    program.write_text(KILLED_ONCE.format(python=sys.executable, file=str(tmp_path / "killed")))
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    options = {"cwd": here, "env": {**os.environ, "PATH": path}, "capture_output": True, "text": True}
    index = here / "three"
    killed = subprocess.run(["bash", "-c", line], **options)
    parts = [f"part-0000{number}-of-00002.parquet" for number in range(2)]
    assert killed.returncode != 0 and (tmp_path / "killed").exists() and not index.exists(), killed
    assert [file.name for file in index.with_name("three.parts").glob("part-*")] == parts[:1]
    made = index.with_name("three.parts") / parts[0]
    before = made.stat().st_ino
    again = subprocess.run(["bash", "-c", line], **options)
    assert again.returncode == 0 and "8 rows joined from 2 parts" in again.stdout, again
    assert made.stat().st_ino == before
    monkeypatch.chdir(here)
    call(capsys, "index", "runs/clip", "--data", "pairs.csv", "--out", tmp_path / "whole")
    joined, whole = Index.open(index), Index.open(tmp_path / "whole")
    for modality in ("image", "text"):
        torch.testing.assert_close(joined.vectors(modality, 9), whole.vectors(modality, 9))
        kept = [found.columns(["text", "image", "meta"], modality).drop(["row"]) for found in (joined, whole)]
        assert kept[0].equals(kept[1])


def test_index_and_search(capsys, run, pairs, tmp_path):
    status, _, err = call(capsys, "search", run, "a red square", "--index", tmp_path / "none")
    assert status == 2 and f"coalign index {run}" in err
    index = tmp_path / "index"
    made = call_json(capsys, "index", run, "--data", pairs, "--out", index)
    assert made == {"index": str(index), "image": 4, "text": 4}
    assert "0 images and 0 texts added" in call(capsys, "index", run, "--data", pairs, "--out", index)[1]

    found = call_json(capsys, "search", run, "a red square", "--index", index, "-k", 3)["answers"]
    assert [row["modality"] for row in found] == ["image"] * 3
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    texts = call_json(capsys, "search", run, "--image", pairs.with_name("red.png"), "--index", index)["answers"]
    assert {row["text"] for row in texts} == {f"a {name} square" for name in COLOURS}
    mended = call_json(capsys, "search", run, "a red square", "--index", index, "-k", 3, "--rerank")["answers"]
    assert [row["score"] for row in mended] != [row["score"] for row in found]

    status, out, _ = call(capsys, "search", run, "a red square", "--index", index, "-k", 2, "--open")
    *answers, sheet = out.splitlines()
    assert status == 0 and len(answers) == 2 and answers[0].split()[0] == "1"
    assert Path(sheet) == run / "searches" / "a-red-square.png"
    with Image.open(sheet) as picture:
        assert picture.width > 300

    gone = call_json(capsys, "unindex", run, "--where", "modality = 'text' AND text = 'a red square'", "--index", index)
    assert gone == {"index": str(index), "removed": 1, "rows": 7}
    texts = call_json(capsys, "search", run, "--image", pairs.with_name("red.png"), "--index", index)["answers"]
    assert len(texts) == 3 and "a red square" not in {row["text"] for row in texts}
    status, _, err = call(capsys, "unindex", run, "--where", "colour = 'red'", "--index", index)
    assert status == 2 and str(index) in err and "colour" in err
    assert call(capsys, "unindex", run, "--where", "row = 1", "--index", tmp_path / "none")[0] == 2
    assert not (tmp_path / "none").exists()


def test_align(capsys, run, pairs, tmp_path):
    picture, out = pairs.with_name("red.png"), tmp_path / "heat.png"
    status, said, _ = call(capsys, "align", run, picture, "a red square", "--out", out)
    assert status == 0 and said == f"{out}\n"
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
    maps = call_json(capsys, "align", run, picture, "A red square!", "--method", "cross_attention")
    assert maps["words"] == ["a", "red", "square", "!"] and maps["grid"] == [4, 4]
    assert torch.tensor(maps["values"]).shape == (4, 4, 4)
    before = picture.read_bytes()
    status, _, err = call(capsys, "align", run, picture, "red", "--out", picture)
    assert status == 2 and "exists already" in err and picture.read_bytes() == before


# ------------------------------------------------------------------------------------------------ the authors' files
def test_verify_tells_by_its_exit_status(capsys, golden, manifests, tmp_path):
    case = golden / "mult.safetensors"
    status, out, _ = call(capsys, "verify", case)
    lines = out.splitlines()
    assert status == 0 and lines[0] == str(case) and lines[-1].endswith("0 FAIL, 0 unreadable")
    assert all(line.split()[3] == "ok" for line in lines[1:-1])

    with safe_open(case, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(case)
    name = next(name for name, tensor in tensors.items() if name.startswith("output/") and tensor.is_floating_point())
    save_file({**tensors, name: tensors[name] + 1}, tmp_path / "changed.safetensors", metadata=metadata)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(case.read_bytes()[:5000])
    assert call(capsys, "verify", tmp_path / "changed.safetensors")[0] == 1
    status, out, err = call(capsys, "verify", damaged, tmp_path / "changed.safetensors", case)
    assert status == 2 and "damaged.safetensors" in err and "1 FAIL, 1 unreadable" in out
    assert call(capsys, "verify", tmp_path / "nothing.safetensors")[0] == 2


def test_verify_reads_manifests_however_they_are_given(capsys, manifests, tmp_path):
    a, b = manifests / "gpt.json", manifests / "sasa.json"
    one = call_json(capsys, "verify", "--manifest", a, b)
    assert {row["case"] for row in one} == {str(a), str(b)}
    assert call_json(capsys, "verify", "--manifest", a, "--manifest", b) == one
    wrong = json.loads(a.read_text())
    wrong["checkpoints"][0]["tensors"]["surplus"] = [1]
    (tmp_path / "gpt.json").write_text(json.dumps(wrong))
    assert call(capsys, "verify", "--manifest", tmp_path / "gpt.json")[0] == 1
    (tmp_path / "gpt.json").write_text("{")
    assert call(capsys, "verify", "--manifest", tmp_path / "gpt.json")[0] == 2


def test_convert_writes_the_authors_names_and_never_over_a_file(capsys, run, tmp_path):
    out = tmp_path / "original.safetensors"
    status, said, _ = call(capsys, "convert", run, out, "--system", "albef")
    assert status == 0 and said == f"{out}\n"
    names = load_file(out)
    assert "visual_encoder.patch_embed.proj.weight" in names and "text_encoder.bert.embeddings.LayerNorm.bias" in names
    status, _, err = call(capsys, "convert", run, out, "--system", "albef")
    assert status == 2 and "exists already" in err
    status, _, err = call(capsys, "convert", run, tmp_path / "x.safetensors", "--system", "albef", "--to", "onnx")
    assert status == 2 and "no layout 'onnx'" in err
