"""W3: a MAE step beside the authors' and transformers': a quarter of the patches encoded, the rest predicted.

python benchmarks/peers/mae.py --authors FOLDER [--compile]   # a checkout of github.com/facebookresearch/mae
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from coalign.models.mae.model import Mae, MaeConfig
from coalign.models.mae.names import original
from coalign.models.mae.names import transformers as names
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images

sys.path.insert(0, str(Path(__file__).parent))
import authors
from side_by_side import arguments, compare, compiled, parameters, released, same, training, version

ITEMS = 8
TRUNK = VitConfig(image_size=224, dim=384, depth=4, heads=6, hidden_dim=1536)
CONFIG = MaeConfig(TRUNK, decoder_dim=192, decoder_depth=2, decoder_heads=6, decoder_hidden_dim=768)


def main() -> None:
    given = arguments(__doc__, authors="github.com/facebookresearch/mae")
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
    batch = Batch(images=Images(pixels))

    def ours(noise: Tensor = noise) -> Tensor:
        return model.losses(batch, Draws(choices={"noise": noise}))["reconstruction"]

    def theirs(form: torch.nn.Module = peer) -> Tensor:
        return form(pixels, noise=noise).loss

    differ = same(ours(), theirs(), "losses")
    published = authors.mae(
        given.authors,
        embed_dim=t.dim,
        depth=t.depth,
        num_heads=t.heads,
        decoder_embed_dim=c.decoder_dim,
        decoder_depth=c.decoder_depth,
        decoder_num_heads=c.decoder_heads,
        norm_layer=partial(torch.nn.LayerNorm, eps=t.eps),
        norm_pix_loss=c.normalise_pixels,
    )
    published.load_state_dict(original(c).export(model.state_dict()))

    def by_authors(form: torch.nn.Module = published) -> Tensor:
        return form(pixels)[0]

    with torch.random.fork_rng():
        published_loss = by_authors()
    differ = max(differ, same(ours(torch.rand(ITEMS, 196)), published_loss, "losses"))  # they draw their noise inside
    forms = {"transformers": peer, **compiled(given, transformers_compiled=peer)}
    theirs_too = {"authors": published, **compiled(given, authors_compiled=published)}
    compare(
        "W3 MAE step",
        training(model, ours),
        {
            **{name: training(peer, lambda form=form: theirs(form)) for name, form in forms.items()},
            **{name: training(published, lambda form=form: by_authors(form)) for name, form in theirs_too.items()},
        },
        given,
        differ=differ,
        parameters=[parameters(model), parameters(peer), parameters(published)],
        versions=[version("transformers"), version("timm")],
    )


if __name__ == "__main__":
    main()
