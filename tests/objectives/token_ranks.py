"""FILIP's loss and its gradients on one of two processes, each with half of the pairs."""

import torch
import torch.nn.functional as F

from coalign.objectives.late_interaction import TokenInteraction
from coalign.ops.collectives import rank
from coalign.training.distributed import process_group

SCALE = torch.tensor(4.0)


def tokens():
    """Patches [4, 5, 6], words [4, 3, 6] and which of these are real."""
    generator = torch.Generator().manual_seed(0)
    patches, words = (F.normalize(torch.randn(4, n, 6, generator=generator), dim=-1).requires_grad_() for n in (5, 3))
    return patches, words, torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()


def half(folder):
    with process_group("cpu"):
        patches, words, real = tokens()
        own = slice(2 * rank(), 2 * rank() + 2)
        loss = TokenInteraction()(patches[own], words[own], real[own], SCALE)
        loss.backward()
        torch.save([loss.detach(), patches.grad, words.grad], folder / f"{rank()}.pt")
