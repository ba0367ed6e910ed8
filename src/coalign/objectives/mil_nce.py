"""Which of several sentences near a clip, if any, tells what it shows?"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coalign.objectives.reduce import Reduction, reduced


class MilNce(nn.Module):
    """MIL-NCE (Miech et al. 2020, equation 1): the sentences of a clip are a bag of which some are right.

        -log ( Σ_k e^{s(i,i,k)} / ( Σ_jk e^{s(i,j,k)} + Σ_jk e^{s(j,i,k)} ) )

    s(i, j, k) is the similarity of clip i with sentence k of clip j. As in the authors' code the sum below the line
    holds a clip's own sentences twice; the paper's has them once.

    What the paper compares it with (section 3.2 and table 1): `bag` "max" lets the sentence most similar to a clip
    stand for its bag, that of the negatives too; bags of one sentence are NCE with a single positive.
    """

    def __init__(self, reduction: Reduction = "mean", bag: Literal["sum", "max"] = "sum") -> None:
        super().__init__()
        self.reduction: Reduction = reduction
        self.bag: Literal["sum", "max"] = bag

    def forward(self, similarity: Float[Tensor, "b b k"]) -> Tensor:
        if self.bag == "max":
            similarity = similarity.amax(2, keepdim=True)
        own = similarity.diagonal(0, 0, 1).logsumexp(0)  # [K, B] over the sentences
        every = torch.cat([similarity.flatten(1), similarity.transpose(0, 1).flatten(1)], 1).logsumexp(1)
        return reduced(every - own, self.reduction)
