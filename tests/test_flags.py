"""Option groups within a dataclass are one set of fields and flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes

from coalign.flags import as_flags, configure, field_names


@dataclass(frozen=True, kw_only=True)
class Where:
    out: Path
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Rates:
    lr: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    where: OmitArgPrefixes[Where]
    rates: OmitArgPrefixes[Rates] = Rates(lr=0.5)
    name: str = "x"


def test_fields_are_handed_to_their_groups() -> None:
    assert field_names(Recipe) == ("out", "seed", "lr", "betas", "flip", "name")
    made = configure(Recipe, out=Path("o"), flip=True, name="y")
    assert made == Recipe(where=Where(out=Path("o")), rates=Rates(lr=0.5, flip=True), name="y")
    with pytest.raises(TypeError, match="no field 'rate'"):
        configure(Recipe, out=Path("o"), rate=3)
    with pytest.raises(TypeError, match="out"):
        configure(Recipe, seed=3)


def test_a_group_as_flags_is_read_back() -> None:
    group = Rates(lr=None, betas=(0.8, 0.9), flip=True)
    assert as_flags(group) == ["--betas", "0.8", "0.9", "--flip"]
    assert as_flags(group, Rates()) == ["--lr", "None", "--betas", "0.8", "0.9", "--flip"]
    assert as_flags(Rates(lr=0.5), Rates()) == ["--lr", "0.5"]
    read = tyro.cli(Recipe, args=["--out", "o", *as_flags(group, Rates())])
    assert read.rates == group
    assert tyro.cli(Recipe, args=["--out", "o", *as_flags(group)]).rates == Rates(lr=0.5, betas=(0.8, 0.9), flip=True)
