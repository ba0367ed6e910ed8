"""W1: a BERT pre-training step (masked words and next sentence) on real tokens alone, beside transformers' SDPA.

Peers: the library's own forward pass, with logits of the vocabulary at every place; and its parts, put together by
a careful user: logits at the hidden words alone, and the batch in two parts of like lengths, each padded to its
longest.

    python benchmarks/peers/bert.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig as PeerConfig
from transformers import BertForPreTraining

from coalign.models.bert.model import Bert, BertPretrainingConfig, transformers
from coalign.ops.masking import mask_tokens
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Packed, Text

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, lengths, parameters, same, training, version

ITEMS, MIDDLE, LONGEST = 8, 40, 128
TRUNK = BertConfig(dim=384, depth=4, heads=6, hidden_dim=1536)


def peer_model(dropout: float) -> BertForPreTraining:
    c = TRUNK
    config = PeerConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.dim,
        num_hidden_layers=c.depth,
        num_attention_heads=c.heads,
        intermediate_size=c.hidden_dim,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )
    return BertForPreTraining(config)


def main() -> None:
    given = arguments(__doc__)
    sizes = lengths(ITEMS, MIDDLE, LONGEST)
    ids = torch.cat([torch.cat([torch.tensor([101]), torch.randint(1000, 30000, (n - 1,))]) for n in sizes])
    hidden, labels = mask_tokens(ids, ids != 101, probability=0.15, mask_id=103, vocab_size=30522)
    types, following = torch.zeros_like(ids), torch.randint(0, 2, (ITEMS,))
    packed = Packed.from_items(list(ids.split(sizes)))
    draws = Draws(choices={"mlm_input_ids": hidden, "mlm_labels": labels})
    batch = Batch(text=Text(packed, types), labels=Labels(next_sentence=following))

    peer = peer_model(TRUNK.dropout)
    model = Bert(BertPretrainingConfig(replace(TRUNK)))
    model.load_state_dict(transformers(model.config).load(peer.state_dict()).state)

    def ours() -> Tensor:
        return torch.stack(list(model.losses(batch, draws).values())).sum()

    def padded(of: Tensor, items: Tensor, fill: int) -> Tensor:
        return Packed(of, packed.layout).select(items).to_padded(fill=fill)

    def parts(count: int) -> list[tuple[Tensor, ...]]:
        order = torch.tensor(sizes).argsort()
        return [
            (
                padded(hidden, items, 0),
                Packed(torch.ones_like(ids), packed.layout).select(items).to_padded(),
                padded(types, items, 0),
                padded(labels, items, -100),
                following[items],
            )
            for items in order.chunk(count)
        ]

    def whole(batches: list[tuple[Tensor, ...]]) -> Tensor:
        words, mask, segments, truth, follows = batches[0]
        return peer(words, mask, segments, labels=truth, next_sentence_label=follows).loss

    def careful(batches: list[tuple[Tensor, ...]]) -> Tensor:
        total, count = torch.zeros(()), int((labels != -100).sum())
        for words, mask, segments, truth, follows in batches:
            states = peer.bert(words, mask, segments)
            wanted = (truth != -100).flatten().nonzero().squeeze(1)
            rows = states.last_hidden_state.flatten(0, 1).index_select(0, wanted)
            logits = peer.cls.predictions(rows)
            total = total + F.cross_entropy(logits, truth.flatten()[wanted], reduction="sum") / count
            next_logits = peer.cls.seq_relationship(states.pooler_output)
            total = total + F.cross_entropy(next_logits, follows, reduction="sum") / ITEMS
        return total

    one, two = parts(1), parts(2)
    model.eval(), peer.eval()
    differences = [same(ours(), form, "losses") for form in (whole(one), careful(one), careful(two))]
    model.train(), peer.train()
    compare(
        "W1 BERT step",
        training(model, ours),
        {
            **({"forward": training(peer, lambda: whole(one))} if given.all else {}),
            "careful": training(peer, lambda: careful(one)),
            "careful, two lengths": training(peer, lambda: careful(two)),
        },
        given,
        differ=max(differences),
        parameters=[parameters(model), parameters(peer)],
        tokens=[len(ids), one[0][0].numel(), sum(part[0].numel() for part in two)],
        versions=[version("transformers")],
    )


if __name__ == "__main__":
    main()
