"""Libraries that not everybody needs: every import is a hard dependency or brought by an extra that is named."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

import coalign
from coalign.cli.main import main
from coalign.errors import InputError
from coalign.extras import EXTRAS, optional

ROOT = Path(coalign.__file__).parent
PROJECT = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "huggingface_hub": "huggingface-hub",
    "umap": "umap-learn",
    "faiss": "faiss-cpu",
    "PIL": "pillow",
    "anyio": "starlette",
    "markupsafe": "jinja2",
    "mlflow": "mlflow-skinny",
}
WHOLE = ("analysis/datasets", "serve")
"""Rooms of which nothing works without their extra, so that they import it at the top of their files."""


def names(requirements: list[str]) -> set[str]:
    return {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}


def imports(path: Path, top: bool) -> set[str]:
    """The libraries that a file imports: at its top, or inside."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top else [inner for node in tree.body for inner in ast.walk(node) if inner is not node]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"coalign"}


def test_each_library_is_a_dependency_or_of_an_extra():
    """torchcodec decodes videos where somebody has installed it beside PyAV."""
    hard, special = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    installed = {"torchcodec"} | {name for group in special.values() for name in names(group)}
    for path in ROOT.rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        for name in imports(path, top=True):
            assert DISTRIBUTIONS.get(name, name) in hard or (name in EXTRAS and where.startswith(WHOLE)), (where, name)
        for name in imports(path, top=False):
            known = DISTRIBUTIONS.get(name, name).replace("_", "-")
            assert name in EXTRAS or {name, known} & (hard | installed), (where, name)


def test_the_extra_that_is_named_brings_the_library():
    for library, extra in EXTRAS.items():
        assert DISTRIBUTIONS.get(library, library) in names(PROJECT["optional-dependencies"][extra]), library


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match=r"pyarrow is not installed: pip install 'coalign\[tables\]'"):
        optional("pyarrow.parquet").read_table("x")
    with pytest.raises(ImportError, match="pyarrow"):
        optional("pyarrow.parquet").read_table("x")
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path)])
    assert capsys.readouterr().err == "coalign: uvicorn is not installed: pip install 'coalign[serve]'\n"
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        optional("nowhere").thing()


def test_the_version_is_the_same_everywhere():
    cited = (ROOT.parents[1] / "CITATION.cff").read_text("utf-8")
    assert PROJECT["version"] == coalign.__version__ and f"\nversion: {coalign.__version__}\n" in cited
    assert f"version = {{{coalign.__version__}}}" in (ROOT.parents[1] / "docs" / "citing.md").read_text("utf-8")
