"""W3: a MAE step beside transformers: a quarter of the patches encoded, the rest predicted.

python benchmarks/peers/mae.py [--compile]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from coalign.models.mae.model import Mae, MaeConfig
from coalign.models.mae.names import transformers as names
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, compiled, parameters, released, same, training, version

ITEMS = 8
TRUNK = VitConfig(image_size=224, dim=384, depth=4, heads=6, hidden_dim=1536)
CONFIG = MaeConfig(TRUNK, decoder_dim=192, decoder_depth=2, decoder_heads=6, decoder_hidden_dim=768)


def main() -> None:
    given = arguments(__doc__)
    c, t = CONFIG, TRUNK
    config = ViTMAEConfig(
        hidden_size=t.dim,
        num_hidden_layers=t.depth,
        num_attention_heads=t.heads,
        intermediate_size=t.hidden_dim,
        layer_norm_eps=t.eps,
        decoder_hidden_size=c.decoder_dim,
        decoder_num_hidden_layers=c.decoder_depth,
        decoder_num_attention_heads=c.decoder_heads,
        decoder_intermediate_size=c.decoder_hidden_dim,
        norm_pix_loss=c.normalise_pixels,
        attn_implementation="sdpa",
    )
    peer = ViTMAEForPreTraining(config)
    model = Mae(c)
    model.load_state_dict(names(c).load(released(peer)).state)
    pixels, noise = torch.randn(ITEMS, 3, 224, 224), torch.rand(ITEMS, 196)
    batch, draws = Batch(images=Images(pixels)), Draws(choices={"noise": noise})

    def ours() -> Tensor:
        return model.losses(batch, draws)["reconstruction"]

    def theirs(form: torch.nn.Module = peer) -> Tensor:
        return form(pixels, noise=noise).loss

    differ = same(ours(), theirs(), "losses")
    forms = {"transformers": peer, **compiled(given, transformers_compiled=peer)}
    compare(
        "W3 MAE step",
        training(model, ours),
        {name: training(peer, lambda form=form: theirs(form)) for name, form in forms.items()},
        given,
        differ=differ,
        parameters=[parameters(model), parameters(peer)],
        versions=[version("transformers")],
    )


if __name__ == "__main__":
    main()
