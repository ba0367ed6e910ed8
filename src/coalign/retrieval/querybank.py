"""Holds back hubs: candidates that are near to whatever is asked, and so come first where they should not.

How near a candidate is to training items of the other modality tells a hub without a look at the other queries
(querybank normalisation, Bogolin et al., CVPR 2022). The measure is that of CSLS (Conneau et al., ICLR 2018, equations
1 to 3), which takes half of it off every similarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.files import reader, replace_file

FILE = "querybank.safetensors"
NEIGHBOURS = 10
"""As in the paper of CSLS."""


@dataclass(frozen=True, eq=False)
class Querybank:
    """Unit vectors of training images [I, d] and training texts [T, d]."""

    image: Tensor
    text: Tensor

    def hubness(self, candidates: Tensor, modality: Literal["image", "text"]) -> Tensor:
        """[G]: the mean similarity of each of `candidates` [G, d], which are of `modality`, to the training items of
        the other modality that are nearest to it."""
        bank = (self.text if modality == "image" else self.image).to(candidates.device)
        count = min(NEIGHBOURS, len(bank))
        means = [(part @ bank.T).topk(count, dim=1).values.mean(1) for part in candidates.split(1024)]
        return torch.cat(means)

    def save(self, run: Path) -> None:
        """Writes the run's file, whole or not at all; several processes may write it at once."""
        tensors = {"image": self.image.contiguous(), "text": self.text.contiguous()}
        replace_file(run / FILE, lambda part: save_file(tensors, part))

    @staticmethod
    @reader
    def load(run: Path) -> Querybank:
        """Raises InputError where the run has none, or it is broken."""
        path = run / FILE
        if not path.is_file():
            raise InputError(f"{path} is missing: the training that writes it has not ended; start it again")
        tensors = read_tensors(path)
        sound = all(t.ndim == 2 and len(t) and t.is_floating_point() for t in tensors.values())
        if tensors.keys() != {"image", "text"} or not sound or tensors["image"].shape[1] != tensors["text"].shape[1]:
            raise InputError(f"{path}: not a bank of vectors [N, d] of images and texts; train to the end again")
        return Querybank(**{name: tensor.float() for name, tensor in tensors.items()})
