"""W4: ViLT, a step of masked words, vectors of pairs, and of one pair, beside transformers.

Pictures of four proportions and texts of real lengths. Peers: the library's own forward pass, with logits of the
vocabulary at every word; and its parts put together by a careful user, with logits at the hidden words alone.

python benchmarks/peers/vilt.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViltConfig as PeerConfig
from transformers import ViltForMaskedLM

from coalign.models.vilt.model import Vilt, ViltConfig
from coalign.models.vilt.names import transformers as names
from coalign.ops.masking import mask_tokens
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Packed, Text

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, lengths, parameters, same, training, version

ITEMS, MIDDLE, LONGEST = 8, 14, 40
SIZES = ((384, 384), (384, 288), (256, 384), (384, 224))
"""Heights and widths."""
TRUNK = VitConfig(image_size=384, patch_size=32, dim=384, depth=4, heads=6, hidden_dim=1536, dropout=0.1)


def peer_model() -> ViltForMaskedLM:
    t = TRUNK
    config = PeerConfig(
        hidden_size=t.dim,
        num_hidden_layers=t.depth,
        num_attention_heads=t.heads,
        intermediate_size=t.hidden_dim,
        image_size=t.image_size,
        patch_size=t.patch_size,
        layer_norm_eps=t.eps,
        hidden_dropout_prob=t.dropout,
        attention_probs_dropout_prob=t.dropout,
        max_image_length=-1,
    )
    return ViltForMaskedLM(config)


def main() -> None:
    given = arguments(__doc__)
    counts = lengths(ITEMS, MIDDLE, LONGEST)
    ids = torch.cat([torch.cat([torch.tensor([101]), torch.randint(1000, 30000, (n - 1,))]) for n in counts])
    hidden, labels = mask_tokens(ids, ids != 101, probability=0.15, mask_id=103, vocab_size=30522)
    packed = Packed.from_items(list(ids.split(counts)))
    sizes = [SIZES[i % len(SIZES)] for i in range(ITEMS)]
    pixels, shown = torch.zeros(ITEMS, 3, 384, 384), torch.zeros(ITEMS, 384, 384, dtype=torch.long)
    for i, (height, width) in enumerate(sizes):
        pixels[i, :, :height, :width] = torch.randn(3, height, width)
        shown[i, :height, :width] = 1
    batch = Batch(text=Text(packed), images=Images(pixels, sizes=torch.tensor(sizes)))
    draws = Draws(choices={"mlm_input_ids": hidden, "mlm_labels": labels}, only=("mlm",))

    peer = peer_model()
    model = Vilt(ViltConfig(TRUNK, text_eps=TRUNK.eps, objectives=("mlm",), max_patches=None))
    state = names(model.config).load(peer.state_dict()).state
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith(("match_head", "trunk.pooler")) for name in missing), missing

    def padded(values: Tensor, fill: int = 0) -> Tensor:
        return Packed(values, packed.layout).to_padded(fill=fill)

    words, mask, truth = padded(hidden), padded(torch.ones_like(ids)), padded(labels, -100)
    wanted = (truth != -100).flatten().nonzero().squeeze(1)

    def ours() -> Tensor:
        return model.losses(batch, draws)["mlm"]

    def whole() -> Tensor:
        return peer(words, mask, pixel_values=pixels, pixel_mask=shown, labels=truth).loss

    def careful() -> Tensor:
        states = peer.vilt(words, mask, pixel_values=pixels, pixel_mask=shown).last_hidden_state
        rows = states[:, : words.shape[1]].flatten(0, 1).index_select(0, wanted)
        return F.cross_entropy(peer.mlm_score(rows), truth.flatten()[wanted])

    model.eval(), peer.eval()
    facts = {
        "differ": max(same(ours(), whole(), "losses", 5e-6), same(ours(), careful(), "losses", 5e-6)),
        "parameters": [parameters(model), parameters(peer)],
        "rows": [len(ids) + sum(h * w // 32**2 + 1 for h, w in sizes), ITEMS * (words.shape[1] + 145)],
        "versions": [version("transformers")],
    }
    model.train(), peer.train()
    forms = {**({"forward": training(peer, whole)} if given.all else {}), "careful": training(peer, careful)}
    compare("W4 ViLT step", training(model, ours), forms, given, **facts)

    model.eval(), peer.eval()
    for what, count in (("pairs", ITEMS), ("one pair", 1)):
        some = Batch(
            text=Text(packed.with_values(ids).select(range(count))),
            images=Images(pixels[:count], sizes=torch.tensor(sizes[:count])),
        )
        own = padded(ids)[:count, : max(counts[:count])]
        real = mask[:count, : own.shape[1]]

        def pool(some: Batch = some) -> Tensor:
            return model.trunk.pool(model.trunk(some.text, some.images, first=True))

        def peers(own: Tensor = own, real: Tensor = real, count: int = count) -> Tensor:
            return peer.vilt(own, real, pixel_values=pixels[:count], pixel_mask=shown[:count]).pooler_output

        with torch.inference_mode():
            facts["differ"] = same(pool(), peers(), "pooled rows", 1e-5)
            compare(f"W4 ViLT, vectors of {what}", pool, {"transformers": peers}, given, **facts)


if __name__ == "__main__":
    main()
