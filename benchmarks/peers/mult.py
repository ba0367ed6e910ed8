"""W9: MulT on unaligned streams of CMU-MOSEI's widths and lengths, a training step and answers, beside the authors'.

python benchmarks/peers/mult.py --authors FOLDER   # a checkout of github.com/yaohungt/Multimodal-Transformer
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.models.mult.config import MulTConfig
from coalign.models.mult.model import MulT
from coalign.models.mult.names import original
from coalign.types import Batch, Labels, Packed, Series

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, from_checkout, parameters, same, training

LENGTHS = {"text": 50, "audio": 375, "vision": 500}
CONFIG = MulTConfig(layers=4)
ITEMS = 1


def main() -> None:
    given = arguments(__doc__, authors="github.com/yaohungt/Multimodal-Transformer")
    from_checkout(given.authors)
    from src.models import MULTModel  # pyright: ignore

    c, widths = CONFIG, {stream.name: stream.width for stream in CONFIG.streams}
    peer = MULTModel(
        SimpleNamespace(
            orig_d_l=widths["text"],
            orig_d_a=widths["audio"],
            orig_d_v=widths["vision"],
            lonly=True,
            aonly=True,
            vonly=True,
            num_heads=c.heads,
            layers=c.layers,
            attn_dropout=c.streams[0].attention_dropout,
            attn_dropout_a=c.streams[1].attention_dropout,
            attn_dropout_v=c.streams[2].attention_dropout,
            relu_dropout=c.relu_dropout,
            res_dropout=c.residual_dropout,
            out_dropout=c.output_dropout,
            embed_dropout=c.embedding_dropout,
            attn_mask=c.causal,
            output_dim=c.outputs,
        )
    )
    model = MulT(c)
    model.load_state_dict(original(c).load(peer.state_dict()).state)
    streams = {name: torch.randn(ITEMS, length, widths[name]) for name, length in LENGTHS.items()}
    label = torch.randn(ITEMS, 1)
    series = Series({name: Packed.uniform(rows) for name, rows in streams.items()})
    batch = Batch(series=series, labels=Labels(label=label))

    def ours() -> Tensor:
        return model.losses(batch)["regression"]

    def theirs() -> Tensor:
        return F.l1_loss(peer(*streams.values())[0], label)

    model.eval(), peer.eval()
    facts = {"differ": same(ours(), theirs(), "losses"), "parameters": [parameters(model), parameters(peer)]}
    model.train(), peer.train()
    compare("W9 MulT step", training(model, ours), {"authors": training(peer, theirs)}, given, **facts)
    model.eval(), peer.eval()
    with torch.inference_mode():
        compare("W9 MulT infer", ours, {"authors": theirs}, given, **facts)


if __name__ == "__main__":
    main()
