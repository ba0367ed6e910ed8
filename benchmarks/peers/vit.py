"""W2: ViT, a training step and classes of pictures, beside timm.

python benchmarks/peers/vit.py [--compile]
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.models.vit.names import timm as names
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images, Labels

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, compiled, parameters, same, training, version

ITEMS, CLASSES = 8, 100
TRUNK = VitConfig(image_size=224, dim=384, depth=4, heads=6, hidden_dim=1536)


def main() -> None:
    given = arguments(__doc__)
    peer = timm.create_model(
        "vit_small_patch16_224", pretrained=False, depth=TRUNK.depth, num_classes=CLASSES, drop_path_rate=0.0
    )
    torch.nn.init.normal_(peer.head.weight, std=0.1)  # timm's is 0, and so all logits would be
    model = Vit(VitClassifierConfig(TRUNK, CLASSES, pool="token"))
    model.load_state_dict(names(model.config).load(peer.state_dict()).state)
    pixels, label = torch.randn(ITEMS, 3, 224, 224), torch.randint(0, CLASSES, (ITEMS,))
    batch = Batch(images=Images(pixels), labels=Labels(label=label))
    facts = {
        "parameters": [parameters(model), parameters(peer)],
        "versions": [version("timm")],
    }

    def ours() -> Tensor:
        return model.losses(batch)["classification"]

    def theirs(form: torch.nn.Module = peer) -> Tensor:
        return F.cross_entropy(form(pixels), label)

    facts["differ"] = same(ours(), theirs(), "losses")
    forms = {"timm": peer, **compiled(given, timm_compiled=peer)}
    compare(
        "W2 ViT step",
        training(model, ours),
        {name: training(peer, lambda form=form: theirs(form)) for name, form in forms.items()},
        given,
        **facts,
    )
    model.eval(), peer.eval()
    with torch.inference_mode():
        facts["differ"] = same(model.encode_pooled(batch).pooled["logits"], peer(pixels), "logits", 1e-5)
        compare(
            "W2 ViT infer",
            lambda: model.encode_pooled(batch),
            {name: lambda form=form: form(pixels) for name, form in forms.items()},
            given,
            **facts,
        )


if __name__ == "__main__":
    main()
