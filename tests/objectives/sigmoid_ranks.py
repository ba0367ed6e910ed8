"""The sigmoid loss and its gradients on one of two processes, each with half of the pairs.

python -m torch.distributed.run --nproc-per-node 2 sigmoid_ranks.py FOLDER
"""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F

from coalign.objectives.sigmoid import SigmoidContrastive


def features(size=6, dim=5):
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(size, dim, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    return image, text, torch.tensor(4.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)


def main(folder):
    dist.init_process_group("gloo")
    image, text, scale, bias = features()
    own = slice(3 * dist.get_rank(), 3 * dist.get_rank() + 3)
    loss = SigmoidContrastive()(image[own], text[own], scale, bias)
    loss.backward()
    torch.save([loss.detach(), image.grad, text.grad, scale.grad, bias.grad], f"{folder}/{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
