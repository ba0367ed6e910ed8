"""W5: an ALBEF pre-training step beside its authors' own code: contrast with a queue, matching, masked words, and the
momentum model's targets of all of them; texts of real lengths, which the authors pad.

    python benchmarks/peers/albef.py --authors FOLDER   # a checkout of github.com/salesforce/ALBEF
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coalign.models.albef.model import Albef
from coalign.models.albef.names import original
from coalign.models.albef.trunk import AlbefConfig
from coalign.ops.masking import mask_tokens
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Packed, Text

sys.path.insert(0, str(Path(__file__).parent))
import authors
from side_by_side import arguments, compare, lengths, parameters, same, training, version

ITEMS, MIDDLE, LONGEST = 8, 12, 30
CONFIG = AlbefConfig(
    image=VitConfig(image_size=224, dim=384, depth=4, heads=6, hidden_dim=1536),
    text=BertConfig(dim=384, depth=4, heads=6, hidden_dim=1536, context_dim=384, cross_from=2),
    queue_size=4096,
)


def peer_model(folder: Path, dropout: float) -> Any:
    c, v, t = CONFIG, CONFIG.image, CONFIG.text
    image = {
        "img_size": v.image_size,
        "patch_size": v.patch_size,
        "embed_dim": v.dim,
        "depth": v.depth,
        "num_heads": v.heads,
        "mlp_ratio": v.hidden_dim / v.dim,
        "qkv_bias": True,
        "norm_layer": lambda width: torch.nn.LayerNorm(width, eps=v.eps),
    }
    text = {
        "vocab_size": t.vocab_size,
        "hidden_size": t.dim,
        "num_hidden_layers": t.depth,
        "num_attention_heads": t.heads,
        "intermediate_size": t.hidden_dim,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "fusion_layer": t.cross_from,
        "encoder_width": t.context_dim,
    }
    names = ("embed_dim", "temperature", "queue_size", "momentum", "mask_probability")
    return authors.pretraining(folder, image, text, **{name: getattr(c, name) for name in names})


def main() -> None:
    given = arguments(__doc__, authors="github.com/salesforce/ALBEF")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the authors' queue asks for one
    sizes = lengths(ITEMS, MIDDLE, LONGEST)
    ids = torch.cat([torch.cat([torch.tensor([101]), torch.randint(1000, 30000, (n - 1,))]) for n in sizes])
    hidden, labels = mask_tokens(ids, ids != 101, probability=0.15, mask_id=103, vocab_size=CONFIG.text.vocab_size)
    packed, pixels = Packed.from_items(list(ids.split(sizes))), torch.randn(ITEMS, 3, 224, 224)
    batch = Batch(images=Images(pixels), text=Text(packed, torch.zeros_like(ids)))

    def padded(values: Tensor, fill: int = 0) -> Tensor:
        return packed.with_values(values).to_padded(fill=fill)

    text = SimpleNamespace(input_ids=padded(ids), attention_mask=padded(torch.ones_like(ids)))
    masked = padded(hidden), padded(labels, -100)

    peer = peer_model(given.authors, CONFIG.text.dropout)
    peer.mask = lambda *_, **__: masked
    model = Albef(CONFIG)
    model.load_state_dict(original(CONFIG).load(peer.state_dict()).state)
    chosen: dict[str, Tensor] = {"mlm_input_ids": hidden, "mlm_labels": labels}

    def ours() -> Tensor:
        model.before_step()
        value = torch.stack(list(model.losses(batch, Draws(choices=chosen)).values())).sum()
        model.after_step()
        return value

    def theirs() -> Tensor:
        return torch.stack(peer(pixels, text, alpha=CONFIG.alpha)).sum()

    def drawn(draw: Any, into: list[int]) -> Any:
        return lambda *given, **more: into.append(int(found := draw(*given, **more))) or found

    model.eval(), peer.eval()
    negatives: list[int] = []
    draw, torch.multinomial = torch.multinomial, drawn(torch.multinomial, negatives)
    expected = theirs()
    torch.multinomial = draw
    images, texts = torch.tensor(negatives).split(ITEMS)
    chosen |= {"neg_image_index": images, "neg_text_index": texts}
    differ = same(ours(), expected, "losses")
    del chosen["neg_image_index"], chosen["neg_text_index"]
    model.train(), peer.train()
    compare(
        "W5 ALBEF step",
        training(model, ours),
        {"authors": training(peer, theirs)},
        given,
        differ=differ,
        parameters=[parameters(model), parameters(peer)],
        tokens=[len(ids), text.input_ids.numel()],
        versions=[version("transformers"), version("timm")],
    )


if __name__ == "__main__":
    main()
