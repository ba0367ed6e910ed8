"""Late interaction of words and patches: what of a picture a text names, learned from pairs alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.contrastive import Contrastive
from coalign.ops.targets import matching_targets


class LateInteraction(nn.Module):
    """InfoNCE of similarities pooled over patches, and the choice of a mosaic's cell by each word of its caption.

    A text's similarity to an image is the soft maximum log mean_p exp(κ cos(t, v_p)) over its patches (FILIP, Yao et
    al. 2022, equation 4, has the maximum). The cell's part asks of every word of a mosaic's caption which of the
    mosaic's cells, each a picture whose text is known, it came from: the cross-entropy of its similarities to them.
    Vectors are of unit length; κ is their scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contrast = Contrastive()

    def forward(
        self,
        patches: Float[Tensor, "b p d"],
        texts: Float[Tensor, "c d"],
        scale: Tensor,
        ids: Int[Tensor, " b"],
        text_ids: Int[Tensor, " c"],
    ) -> Tensor:
        """Image to texts and text to images, averaged; images and texts that share an id are positive. The first b
        texts are the images' own; the others are candidates for the images alone."""
        similarity, size = pooled_similarity(patches, texts, scale), len(ids)
        i2t = self.contrast(similarity, matching_targets(ids, text_ids))
        t2i = self.contrast(similarity[:, :size].T, matching_targets(text_ids[:size], ids))
        return (i2t + t2i) / 2

    def cells(
        self,
        patches: Float[Tensor, "m c p d"],
        words: Float[Tensor, "t d"],
        scale: Tensor,
        mosaic: Int[Tensor, " t"],
        cell: Int[Tensor, " t"],
    ) -> Tensor:
        """The cross-entropy of each word's cell, of `patches` [mosaics, cells, patches, d]; `mosaic` and `cell` [t]."""
        own = patches[mosaic]
        similarity = scale * torch.einsum("tcpd,td->tcp", own, words)
        return F.cross_entropy(similarity.logsumexp(2), cell)


def pooled_similarity(
    patches: Float[Tensor, "b p d"], texts: Float[Tensor, "c d"], scale: Tensor
) -> Float[Tensor, "b c"]:
    """log mean_p exp(scale * t · v_p): of every image with every text."""
    similarity = scale * (patches.flatten(0, 1) @ texts.T).unflatten(0, patches.shape[:2])
    return similarity.logsumexp(1) - math.log(patches.shape[1])
