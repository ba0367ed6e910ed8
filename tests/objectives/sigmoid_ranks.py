"""The sigmoid loss and its gradients on one of two processes, each with half of the pairs."""

import torch
import torch.nn.functional as F

from coalign.objectives.sigmoid import SigmoidContrastive
from coalign.ops.collectives import rank
from coalign.training.distributed import process_group


def features(size=6, dim=5):
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(size, dim, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    return image, text, torch.tensor(4.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)


def half(folder):
    with process_group("cpu"):
        image, text, scale, bias = features()
        own = slice(3 * rank(), 3 * rank() + 3)
        loss = SigmoidContrastive()(image[own], text[own], scale, bias)
        loss.backward()
        torch.save([loss.detach(), image.grad, text.grad, scale.grad, bias.grad], folder / f"{rank()}.pt")
