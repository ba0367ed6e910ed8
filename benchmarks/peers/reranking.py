"""W8: re-ranking by fusion, beside the loop of ALBEF's authors (a copy of the image's states for each pair).

The fusion half of a BERT at the paper's width, two blocks, from states that both are given; texts of real lengths.
One text an image with 577 and 257 patches, and 32 texts an image.

    python benchmarks/peers/reranking.py --authors FOLDER   # a checkout of github.com/salesforce/ALBEF
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from coalign.checkpoints import StateMap
from coalign.layers.fusion import fuse_pairs
from coalign.trunks.bert import BertConfig, BertTrunk, trunk_rules
from coalign.types import Packed

sys.path.insert(0, str(Path(__file__).parent))
import authors
from side_by_side import arguments, compare, lengths, parameters, same, version

TRUNK = BertConfig(vocab_size=1000, depth=3, cross_from=1, context_dim=768)
CASES = ((4, 1, 577), (4, 1, 257), (1, 32, 257))
"""Images, texts of each, rows of an image."""


@torch.inference_mode()
def main() -> None:
    given = arguments(__doc__, authors="github.com/salesforce/ALBEF")
    peer = authors.bert(
        given.authors,
        vocab_size=TRUNK.vocab_size,
        num_hidden_layers=TRUNK.depth,
        fusion_layer=TRUNK.cross_from,
        encoder_width=TRUNK.context_dim,
    ).eval()
    ours = BertTrunk(TRUNK).eval()
    names = StateMap(trunk_rules("", "", TRUNK, position_ids=True))
    ours.load_state_dict(names.load(peer.state_dict()).state)
    for images, each, rows in CASES:
        seen = Packed.uniform(torch.randn(images, rows, 768))
        sizes = lengths(images * each, 12, 30)
        texts = Packed(torch.randn(sum(sizes), 768), Packed.from_items([torch.zeros(n) for n in sizes]).layout)
        pairs = torch.stack([torch.arange(images).repeat_interleave(each), torch.arange(images * each)], 1)

        def rerank(seen: Packed = seen, texts: Packed = texts, pairs: Tensor = pairs) -> Tensor:
            return fuse_pairs(ours.encoder, TRUNK.cross_from, seen, texts, pairs)

        padded, mask, patches = texts.to_padded(), texts.padding_mask().long(), seen.to_padded()

        def theirs(padded: Tensor = padded, mask: Tensor = mask, patches: Tensor = patches, each: int = each) -> Tensor:
            copies = patches.repeat_interleave(each, 0)
            fused = peer(
                encoder_embeds=padded,
                attention_mask=mask,
                encoder_hidden_states=copies,
                encoder_attention_mask=torch.ones(copies.shape[:2], dtype=torch.long),
                return_dict=True,
                mode="fusion",
            )
            return fused.last_hidden_state[:, 0]

        compare(
            f"W8 re-ranking, {each} text{'s' * (each > 1)} an image of {rows} rows",
            rerank,
            {"authors": theirs},
            given,
            differ=same(rerank(), theirs(), "[CLS] rows", 1e-5),
            parameters=[parameters(ours), parameters(peer)],
            versions=[version("transformers")],
        )


if __name__ == "__main__":
    main()
