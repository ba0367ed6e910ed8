"""W7: a dual encoder's step (CLIP's towers and loss), beside OpenCLIP.

Texts of real lengths: OpenCLIP pads them to 77 tokens, ours are packed.

python benchmarks/peers/clip.py [--compile]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from coalign.models.clip.model import Clip, ClipConfig, open_clip_arithmetic
from coalign.models.clip.names import open_clip as names
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import clip_tower
from coalign.types import Batch, Images, Packed, Text

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, compiled, lengths, parameters, same, training, version

ITEMS, MIDDLE, LONGEST = 16, 14, 77
CONFIG = open_clip_arithmetic(
    ClipConfig(
        clip_tower(patch_size=32, dim=384, depth=4, heads=6, hidden_dim=1536),
        TextConfig(dim=384, depth=4, heads=6, hidden_dim=1536),
        embed_dim=256,
    )
)


def main() -> None:
    given = arguments(__doc__)
    vision = CLIPVisionCfg(layers=4, width=384, head_width=64, patch_size=32, image_size=224)
    peer = CLIP(256, vision, CLIPTextCfg(context_length=77, vocab_size=49408, width=384, heads=6, layers=4))
    model = Clip(CONFIG)
    model.load_state_dict(names(CONFIG).load(peer.state_dict()).state)
    counts = lengths(ITEMS, MIDDLE, LONGEST)
    items = [
        torch.cat([torch.tensor([49406]), torch.randint(1, 40000, (n - 2,)), torch.tensor([49407])]) for n in counts
    ]
    packed = Packed.from_items(items)
    ids = torch.nn.functional.pad(packed.to_padded(), (0, 77 - max(counts)))
    pixels = torch.randn(ITEMS, 3, 224, 224)
    batch, contrast = Batch(text=Text(packed), images=Images(pixels)), ClipLoss()

    def ours() -> Tensor:
        return model.losses(batch)["contrastive"]

    def theirs(form: torch.nn.Module = peer) -> Tensor:
        return contrast(*form(pixels, ids))

    facts = {
        "differ": same(ours(), theirs(), "losses"),
        "parameters": [parameters(model), parameters(peer)],
        "tokens": [sum(counts), ids.numel()],
        "versions": [version("open_clip_torch")],
    }
    forms = {"open_clip": peer, **compiled(given, open_clip_compiled=peer)}
    steps = {name: training(peer, lambda form=form: theirs(form)) for name, form in forms.items()}
    compare("W7 dual encoder step", training(model, ours), steps, given, **facts)


if __name__ == "__main__":
    main()
