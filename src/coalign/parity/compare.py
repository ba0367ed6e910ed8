"""When is an output the same? The tolerance of the recorded cases, a line an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ABSOLUTE, RELATIVE, SCALED = 1e-4, 1e-5, 2e-5
"""|a-b| <= ABSOLUTE + RELATIVE |b| for every element, or max|a-b| <= SCALED (1 + max|b|), whichever is wider."""

Status = Literal["ok", "FAIL", "skip"]


@dataclass(frozen=True)
class Line:
    """The verdict on one output: largest |a-b|, the same over 1 + max|b|, and a word where there is one to say."""

    name: str
    status: Status
    absolute: float = 0.0
    scaled: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        note = f"  ({self.note})" if self.note else ""
        if self.status == "skip" or (self.note and self.absolute == 0.0 and self.status == "FAIL"):
            return f"{self.name}  {'-':>9}  {'-':>9}  {self.status}{note}"
        return f"{self.name}  {self.absolute:9.2e}  {self.scaled:9.2e}  {self.status}{note}"


def compare(name: str, ours: Tensor, recorded: Tensor, rows: Tensor | None = None) -> Line:
    """Holds an output against the recorded one; `rows`, a mask over the leading dimensions, limits it to real rows.

    Integers and booleans must be equal; NaN equals NaN, and an infinity the same infinity.
    """
    if ours.shape != recorded.shape:
        return Line(name, "FAIL", note=f"shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}")
    ours, recorded = ours.detach(), recorded.detach()
    if rows is not None:
        ours, recorded = ours[rows], recorded[rows]
    if not recorded.is_floating_point():
        wrong = int((ours.long() != recorded.long()).sum())
        return Line(name, "FAIL" if wrong else "ok", note=f"{wrong} of {recorded.numel()} differ" if wrong else "")
    if recorded.numel() == 0:
        return Line(name, "ok")
    a, b = ours.double(), recorded.double()
    equal = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(equal, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf)
    finite = b[b.isfinite()].abs()
    size = 1.0 + (float(finite.max()) if finite.numel() else 0.0)
    worst = float(difference.max())
    close = bool((difference <= ABSOLUTE + RELATIVE * b.abs().nan_to_num(posinf=0.0)).all())
    return Line(name, "ok" if close or worst <= SCALED * size else "FAIL", worst, worst / size)


def worse(a: Line, b: Line, note: str) -> Line:
    """The worse of two verdicts on one output; `note` says what the second one was."""
    if b.status == "FAIL" and a.status != "FAIL":
        return Line(b.name, b.status, b.absolute, b.scaled, "; ".join(filter(None, (note, b.note))))
    return a if a.absolute >= b.absolute or a.status == "FAIL" else Line(a.name, a.status, b.absolute, b.scaled, a.note)
