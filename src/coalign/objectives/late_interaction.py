"""Late interaction of words and patches: what of a picture a text names, learned from pairs alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coalign.objectives.contrastive import Contrastive
from coalign.ops.collectives import everyone, gather, in_group
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


class TokenInteraction(nn.Module):
    """FILIP (Yao et al. 2022), section 3.1: InfoNCE, in both directions, of similarities between tokens.

    An image's similarity to a text is the mean over its patches of the greatest cosine with a word (equation 4), a
    text's to an image the mean over its words of the greatest with a patch (equation 5): two numbers for a pair.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contrast = Contrastive()

    def forward(
        self,
        patches: Float[Tensor, "b p d"],
        words: Float[Tensor, "b l d"],
        real: Bool[Tensor, "b l"],
        scale: Tensor,
        ids: Int[Tensor, " b"] | None = None,
    ) -> Tensor:
        """The mean of both directions for the pairs of this process, against those of all; equal ids are right.

        Vectors are of unit length; `real` is false at padding, which counts nowhere. All processes have as many pairs,
        and as many patches and places for words a pair.
        """
        if not in_group():
            to_text, to_image = token_similarities(patches, words, real)
            to_image = to_image.T
        else:
            texts = gather(words, "exact"), gather(real)
            to_text = token_similarities(patches, *texts)[0]
            to_image = token_similarities(gather(patches, "exact"), words, real)[1].T
        target = matching_targets(*everyone(len(patches), ids, patches.device))
        return (self.contrast(scale * to_text, target) + self.contrast(scale * to_image, target)) / 2


def token_similarities(
    patches: Float[Tensor, "b p d"], words: Float[Tensor, "m l d"], real: Bool[Tensor, "m l"]
) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"]]:
    """Of every image with every text: the mean over patches of the best word, and over words of the best patch."""
    cosines = torch.einsum("bpd,mld->bpml", patches, words)
    best_word = cosines.masked_fill(~real, -torch.inf).amax(3)
    best_patch = cosines.amax(1).masked_fill(~real, 0.0)
    return best_word.mean(1), best_patch.sum(2) / real.sum(1)


def pooled_similarity(
    patches: Float[Tensor, "b p d"], texts: Float[Tensor, "c d"], scale: Tensor
) -> Float[Tensor, "b c"]:
    """log mean_p exp(scale * t · v_p): of every image with every text."""
    similarity = scale * (patches.flatten(0, 1) @ texts.T).unflatten(0, patches.shape[:2])
    return similarity.logsumexp(1) - math.log(patches.shape[1])
