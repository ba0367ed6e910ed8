"""W6: LXMERT and VisualBERT, a step (masked words, matching) and vectors of pairs, beside transformers.

Texts of real lengths with 36 regions each. Peers: the library's own forward pass, with logits of the vocabulary at
every word; and its parts put together by a careful user, with logits at the hidden words alone.

python benchmarks/peers/regions.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LxmertConfig as PeerLxmertConfig
from transformers import LxmertForPreTraining, VisualBertForPreTraining
from transformers import VisualBertConfig as PeerVisualBertConfig

from coalign.models.lxmert import names as lxmert_names
from coalign.models.lxmert.model import Lxmert, LxmertConfig
from coalign.models.visualbert.model import VisualBert, VisualBertConfig
from coalign.models.visualbert.model import transformers as visualbert_names
from coalign.ops.masking import mask_tokens
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Model, Packed, Regions, Text

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import Form, arguments, compare, lengths, parameters, released, same, training, version

ITEMS, MIDDLE, LONGEST, REGIONS, WIDTH = 8, 12, 20, 36, 2048
TEXT = BertConfig(dim=384, depth=4, heads=6, hidden_dim=1536)


class Data:
    """A batch of both sides' inputs: packed and padded."""

    def __init__(self) -> None:
        counts = lengths(ITEMS, MIDDLE, LONGEST)
        ids = torch.cat([torch.cat([torch.tensor([101]), torch.randint(1000, 30000, (n - 1,))]) for n in counts])
        self.hidden, self.labels = mask_tokens(ids, ids != 101, probability=0.15, mask_id=103, vocab_size=30522)
        self.packed = Packed.from_items(list(ids.split(counts)))
        self.matched = torch.arange(ITEMS) % 2
        self.features, corner = torch.randn(ITEMS, REGIONS, WIDTH), torch.rand(ITEMS, REGIONS, 2) / 2
        self.boxes = torch.cat([corner, corner + 0.4], -1)
        features, boxes = Packed.uniform(self.features), self.boxes.flatten(0, 1)
        segments = Labels(region_types=torch.ones(ITEMS * REGIONS, dtype=torch.long))
        self.batch = Batch(
            text=Text(self.packed, torch.zeros_like(ids)), regions=Regions(features, boxes), labels=segments
        )
        self.words, self.read = self.padded(self.hidden), self.padded(ids)
        self.mask, self.truth = self.padded(torch.ones_like(ids)), self.padded(self.labels, -100)
        self.wanted = (self.truth != -100).flatten().nonzero().squeeze(1)
        self.targets = self.truth.flatten()[self.wanted]

    def padded(self, values: Tensor, fill: int = 0) -> Tensor:
        return Packed(values, self.packed.layout).to_padded(fill=fill)

    def hidden_rows(self, states: Tensor) -> Tensor:
        return states[:, : self.words.shape[1]].flatten(0, 1).index_select(0, self.wanted)


def visualbert(data: Data) -> tuple[Model, nn.Module, Draws, dict[str, Form], tuple[Form, Form]]:
    config = PeerVisualBertConfig(
        hidden_size=TEXT.dim,
        num_hidden_layers=TEXT.depth,
        num_attention_heads=TEXT.heads,
        intermediate_size=TEXT.hidden_dim,
        visual_embedding_dim=WIDTH,
    )
    peer = VisualBertForPreTraining(config)
    model = VisualBert(VisualBertConfig(TEXT, WIDTH))
    model.load_state_dict(visualbert_names(model.config).load(released(peer)).state)
    seen = torch.ones(ITEMS, REGIONS, dtype=torch.long)
    given = {
        "attention_mask": data.mask,
        "visual_embeds": data.features,
        "visual_attention_mask": seen,
        "visual_token_type_ids": seen,
    }
    labels = torch.cat([data.truth, torch.full((ITEMS, REGIONS), -100)], 1)

    def whole() -> Tensor:
        return peer(data.words, labels=labels, sentence_image_labels=data.matched, **given).loss

    def careful() -> Tensor:
        states = peer.visual_bert(data.words, **given)
        words = F.cross_entropy(peer.cls.predictions(data.hidden_rows(states.last_hidden_state)), data.targets)
        return words + F.cross_entropy(peer.cls.seq_relationship(states.pooler_output), data.matched)

    choices = {"text_index": torch.arange(ITEMS), "swapped": data.matched}
    draws = Draws(choices={**choices, "mlm_input_ids": data.hidden, "mlm_labels": data.labels})
    infer = (
        lambda: model.trunk.pool(model.trunk(data.batch, first=True)),
        lambda: peer.visual_bert(data.read, **given).pooler_output,
    )
    return model, peer, draws, {"forward": whole, "careful": careful}, infer


def lxmert(data: Data) -> tuple[Model, nn.Module, Draws, dict[str, Form], tuple[Form, Form]]:
    config = PeerLxmertConfig(
        hidden_size=TEXT.dim,
        num_attention_heads=TEXT.heads,
        intermediate_size=TEXT.hidden_dim,
        l_layers=TEXT.depth,
        x_layers=2,
        r_layers=2,
        visual_feat_dim=WIDTH,
        task_obj_predict=False,
        task_qa=False,
    )
    peer = LxmertForPreTraining(config)
    model = Lxmert(LxmertConfig(TEXT, 2, 2, WIDTH, objectives=("mlm", "itm")))
    loaded = lxmert_names.transformers(model.config).load(released(peer)).state
    missing = model.load_state_dict(loaded, strict=False).missing_keys
    assert all(name.startswith("region_head") for name in missing), missing
    given = {"attention_mask": data.mask, "visual_feats": data.features, "visual_pos": data.boxes}

    def whole() -> Tensor:
        return peer(data.words, labels=data.truth, matched_label=data.matched, **given).loss

    def careful() -> Tensor:
        states = peer.lxmert(data.words, **given)
        words = F.cross_entropy(peer.cls.predictions(data.hidden_rows(states.language_output)), data.targets)
        return words + F.cross_entropy(peer.cls.seq_relationship(states.pooled_output), data.matched)

    draws = Draws(
        choices={
            "partner": torch.arange(ITEMS),
            "matched": data.matched.bool(),
            "mlm_input_ids": data.hidden,
            "mlm_labels": data.labels,
            "region_features": data.features.flatten(0, 1),
            "features": data.features.flatten(0, 1),
            "features_weight": torch.zeros(ITEMS * REGIONS),
        }
    )
    infer = (
        lambda: model.trunk.pooler(model.trunk.first(data.batch.text, data.batch.regions)),
        lambda: peer.lxmert(data.read, **given).pooled_output,
    )
    return model, peer, draws, {"forward": whole, "careful": careful}, infer


def main() -> None:
    given, data = arguments(__doc__), Data()
    for name, system in (("VisualBERT", visualbert), ("LXMERT", lxmert)):
        model, peer, draws, forms, infer = system(data)
        if not given.all:
            del forms["forward"]

        def ours(model: Model = model, draws: Draws = draws) -> Tensor:
            return torch.stack(list(model.losses(data.batch, draws).values())).sum()

        model.eval(), peer.eval()
        facts = {
            "differ": max(same(ours(), form(), "losses") for form in forms.values()),
            "parameters": [parameters(model), parameters(peer)],
            "versions": [version("transformers")],
        }
        model.train(), peer.train()
        compare(
            f"W6 {name} step",
            training(model, ours),
            {what: training(peer, form) for what, form in forms.items()},
            given,
            **facts,
        )
        model.eval(), peer.eval()
        with torch.no_grad():  # the counter of operations cannot look at parameters that are passed in inference mode
            facts["differ"] = same(infer[0](), infer[1](), "pooled rows", 1e-5)
            compare(f"W6 {name}, vectors of pairs", infer[0], {"transformers": infer[1]}, given, **facts)


if __name__ == "__main__":
    main()
