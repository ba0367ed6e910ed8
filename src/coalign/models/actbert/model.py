"""ActBERT: Learning Global-Local Video-Text Representations (Zhu & Yang, CVPR 2020, arXiv 2011.07231).

Three streams of transformer blocks: words, regions of a frame, and actions of the clip (features of a video network).
In tangled layers (`actbert_trunk`) each action asks regions and words, and what it finds is added to the keys and
values of the other: actions guide text and regions to each other. Pre-training predicts hidden words, what hidden
regions show, the class of hidden actions, and whether text and video belong together (class 0: they do).

The authors' code is not public; this follows PaddleVideo's port, whose first-row poolers are ReLU, whose actions have
no positions, and whose padding word reads a row of zeros. A first region stands for the whole frame. Departures: an
objective with nothing to predict costs 0; nothing depends on padding unless `padded` says so; a wrong text comes from
the batch, and what is hidden is then not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap, Tie, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.heads import MaskedLMHead
from coalign.models.actbert.config import ActBertConfig, StreamConfig
from coalign.models.actbert.trunk import ActBertTrunk
from coalign.objectives.classification import Classification
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.masked_region import RegionDistribution
from coalign.ops.alignment import AlignmentRecord, Attended, Rows
from coalign.ops.masking import IGNORED, Drawn, mask_features, mask_tokens
from coalign.ops.packing import moved_rows
from coalign.ops.pairing import draw_partners, take_texts
from coalign.trunks.bert import BertConfig, init_bert, layer_rules
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, Regions, System, Text
from coalign.types.spec import RegionSpec, StreamSpec, TextSpec

SIZES = {
    "base": ActBertConfig(),
    "tiny": ActBertConfig(
        text=BertConfig(dim=128, depth=3, heads=4, hidden_dim=256),
        regions=StreamConfig(dim=128, depth=2, heads=4, hidden_dim=256),
        actions=StreamConfig(dim=128, depth=2, heads=4, hidden_dim=256),
        co_dim=128,
        co_heads=4,
        text_connections=(1, 2),
    ),
}


class ActBert(Aligning, Model):
    """The pre-training model. Match logits: class 0 says that text and video belong together.

    A batch has texts, regions, and actions as `Video.features`, one row an action.
    """

    match_class = 0

    def __init__(self, config: ActBertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        self.config = config
        self.trunk = ActBertTrunk(c)
        self.words = MaskedLMHead(t.dim, t.vocab_size, eps=t.eps, activation=t.activation)

        def head(dim: int, targets: int) -> MaskedLMHead:
            return MaskedLMHead(dim, targets, tied=False, eps=t.eps, activation=t.activation)

        self.region_head = head(c.regions.dim, c.region_targets)
        self.action_head = head(c.actions.dim, c.action_targets)
        self.match_head = nn.Linear(c.co_dim, 2)
        self.mlm, self.distribution, self.classify = MaskedLM("none"), RegionDistribution(), Classification()
        self.act = Classification(reduction="none")
        self.apply(init_bert)
        # A hidden action is zeros. Were this bias zeros too, a video whose actions are all hidden would have a stream
        # of zeros, and normalising those multiplies gradients by 1e6 a block.
        nn.init.normal_(self.trunk.action_embedding.feature.bias, std=0.02)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        return InputSpec(
            TextSpec(c.text.vocab_size, c.max_text_length),
            regions=RegionSpec(c.regions.width, c.max_regions),
            streams=StreamSpec({"actions": c.actions.width}),
        )

    def embed(
        self, text: Text, regions: Regions, actions: Packed, whole: Tensor | None = None, box: Tensor | None = None
    ) -> dict[str, Packed]:
        """Embedded rows by stream; regions begin with the whole frame's, `whole` [B, width] at `box` [B, 5]."""
        return {
            "text": self.trunk.embed_text(text),
            "regions": self.trunk.embed_regions(regions, whole, box),
            "actions": self.trunk.embed_actions(actions),
        }

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States "text", "regions" (the whole frame's first) and "actions"; `pooled` of each, and "match_logits".

        With `record`: what `ActBertTrunk.forward` records.
        """
        kept: Record | None = {} if record else None
        seen = self.trunk(self.embed(*parts_of(batch)), kept)
        pooled = self.trunk.pool(seen)
        return Encoding(seen, pooled | {"match_logits": self.match_head(self.trunk.join(pooled))}, record=kept or {})

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on regions, by the connections. Tangled ones have no attention of words to regions: what a word draws
        on a region goes through the words that it attends to, and the actions stretched over them."""
        if self.config.connection == "apart":
            raise InputError("this ActBERT keeps its streams apart: no words attend to regions")
        text, regions, actions = parts_of(batch)
        kept: Record = {}
        self.trunk(self.embed(text, regions, actions), kept)
        words, counts = text.ids.host_lengths.tolist(), regions.features.host_lengths.tolist()
        names = [f"connection.{i}.text_to_regions" for i in range(len(self.trunk.connections))]
        layers = [[Attended("text", "regions", kept[name])] for name in names]
        return AlignmentRecord(
            Rows.of("text", words), Rows.of("regions", counts, 1), [(count,) for count in counts], layers
        )

    def predict(self, text: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        return self.words(text.values[rows], self.trunk.embedding.word.weight)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The objectives on videos whose words, regions and actions are partly hidden, some with a wrong text.

        Needs each region's class probabilities (`Regions.classes`), and `labels.action` [T], the class of every
        action (-100 where it is not known). `choices` may hold what `draw` draws.
        """
        c = self.config
        wanted = [name for name in c.objectives if draws.wants(name)]
        text, regions, actions = parts_of(batch)
        d = Drawn(self.draw(batch, draws.on_host, draws.choices, wanted), regions.boxes.device)
        text = take_texts(text, d.host["partner"])
        hidden = replace(regions, features=regions.features.with_values(d["region_features"]))
        words = replace(text, ids=text.ids.with_values(d["mlm_input_ids"]))
        embedded = self.embed(
            words, hidden, actions.with_values(d["action_features"]), d.get("whole"), d.get("whole_box")
        )
        seen = self.trunk(embedded)
        losses: dict[str, Tensor] = {}
        if "mlm" in wanted:
            rows = d.rows("mlm_labels")
            each = self.mlm(self.predict(seen["text"], rows), d["mlm_labels"][rows])
            losses["mlm"] = each.sum() / self.places(each, len(text.ids), c.padded and c.padded.text)
        if "regions" in wanted:
            rows = d.rows("predicted")
            logits = self.region_head(seen["regions"].values[moved_rows(regions.features.layout, rows, 0)])
            losses["regions"] = self.distribution(logits, self.region_targets(regions)[rows])
        if "actions" in wanted:
            rows = d.rows("action_labels")
            each = self.act(self.action_head(seen["actions"].values[rows]), d["action_labels"][rows])
            losses["actions"] = each.sum() / self.places(each, len(text.ids), c.padded and c.padded.actions)
        if "match" in wanted:
            logits = self.match_head(self.trunk.join(self.trunk.pool(seen)))
            losses["match"] = self.classify(logits, d["mismatched"].long())
        return losses

    @staticmethod
    def places(each: Tensor, items: int, padded: int | None) -> int:
        """The divisor of a sum of losses: the number predicted, or of all places of `padded` an item."""
        return max(each.shape[0], 1) if padded is None else items * padded

    def region_targets(self, regions: Regions) -> Tensor:
        """The detector's class probabilities [T, region_targets]."""
        targets = self.config.region_targets
        if regions.classes is None or regions.classes.shape[1] != targets:
            classes = "none" if regions.classes is None else regions.classes.shape[1]
            raise InputError(f"each region needs {targets} class probabilities (Regions.classes), there are {classes}")
        return regions.classes

    @torch.no_grad()
    def draw(
        self, batch: Batch, generator: torch.Generator | None, choices: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> dict[str, Tensor]:
        """Every random choice of a step, by name: whose text, and what is hidden. `choices` go first."""
        c, d = self.config, dict(choices)
        _, regions, actions = parts_of(batch)
        text, places, steps = parts_of(batch.host)
        size = len(text.ids)

        def chance(objective: str) -> float:
            return c.mask_probability if objective in wanted else 0.0

        if "partner" not in d:
            swap = c.mismatch_probability if "match" in wanted else 0.0
            d["partner"] = draw_partners(size, batch.host.ids, probability=swap, generator=generator)
        d.setdefault("mismatched", d["partner"] != torch.arange(size))
        wrong = d["mismatched"].bool()
        if "mlm_input_ids" not in d:
            words = text.ids.select(d["partner"])
            special = torch.tensor([c.pad_id, c.cls_id, c.sep_id])
            d["mlm_input_ids"], labels = mask_tokens(
                words.values,
                ~torch.isin(words.values, special),
                probability=chance("mlm"),
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator,
            )
            d["mlm_labels"] = labels.masked_fill(wrong[words.layout.item], IGNORED)
        if "region_features" not in d:
            d["region_features"], chosen = mask_features(
                regions.features.values, probability=chance("regions"), zero=0.9, random=0.0, generator=generator
            )
            d["predicted"] = chosen & ~wrong[places.features.layout.item]
        if "action_features" not in d:
            d["action_features"], chosen = mask_features(
                actions.values, probability=chance("actions"), zero=1.0, random=0.0, generator=generator
            )
            if "actions" in wanted:
                predicted = chosen & ~wrong[steps.layout.item]
                d["action_labels"] = batch.host.labels.require("action").masked_fill(~predicted, IGNORED)
        return d


def parts_of(batch: Batch) -> tuple[Text, Regions, Packed]:
    """The batch's texts, regions and actions."""
    if batch.text is None or batch.regions is None or batch.video is None or batch.video.features is None:
        raise InputError("ActBERT reads texts, regions and actions (Video.features): this batch lacks one of them")
    actions = batch.video.features
    if bool((actions.host_lengths == 0).any()):
        raise InputError("every video needs at least one action")
    return batch.text, batch.regions, actions


# ------------------------------------------------------------------------------------------------------- checkpoints
def _linear(rules: Sequence[Rule]) -> list[Rule]:
    """The same rules for a file whose linear weights are [in, out]; norms and tables keep their names."""
    out: list[Rule] = []
    for rule in rules:
        file, ours = (rule.file, rule.ours) if isinstance(rule, Rename) else ("", "")
        if isinstance(file, str) and isinstance(ours, str) and file.endswith(".{p}") and "Norm" not in file:
            stem, mine = file.removesuffix("{p}"), ours.removesuffix("{p}")
            out += [Transpose(f"{stem}weight", f"{mine}weight"), Rename(f"{stem}bias", f"{mine}bias")]
        else:
            out.append(rule)
    return out


def _head(file: str, ours: str) -> list[Rule]:
    return [
        Rename(f"{file}transform.dense.{{p}}", f"{ours}dense.{{p}}"),
        Rename(f"{file}transform.LayerNorm.{{p}}", f"{ours}norm.{{p}}"),
    ]


def original(config: ActBertConfig) -> StateMap:
    """PaddleVideo's BertForMultiModalPreTraining: its linear weights are [in, out]."""
    table, c, mine = "bert.embeddings.word_embeddings.weight", "bert.encoder.c_layer.{i}.", "trunk.connections.{i}."
    rules: list[Rule] = [
        Rename(table, "trunk.embedding.word.weight"),
        Rename("bert.embeddings.position_embeddings.weight", "trunk.embedding.position.weight"),
        Rename("bert.embeddings.token_type_embeddings.weight", "trunk.embedding.segment.weight"),
        Rename("bert.embeddings.LayerNorm.{p}", "trunk.embedding.norm.{p}"),
        Rename("bert.v_embeddings.image_embeddings.{p}", "trunk.region_embedding.feature.{p}"),
        Rename("bert.v_embeddings.image_location_embeddings.{p}", "trunk.region_embedding.location.{p}"),
        Rename("bert.v_embeddings.LayerNorm.{p}", "trunk.region_embedding.norm.{p}"),
        Rename("bert.a_embeddings.action_embeddings.{p}", "trunk.action_embedding.feature.{p}"),
        Rename("bert.a_embeddings.LayerNorm.{p}", "trunk.action_embedding.norm.{p}"),
    ]
    # The port's number 1 is regions, 2 is text and 3 is actions.
    for number, letter, stream in (("1", "v", "regions"), ("2", "t", "text"), ("3", "a", "actions")):
        prefix = "" if stream == "text" else f"{letter}_"
        rules += layer_rules(f"bert.encoder.{prefix}layer.{{i}}.", f"trunk.encoders.{stream}.blocks.{{i}}.")
        rules.append(Rename(f"bert.{letter}_pooler.dense.{{p}}", f"trunk.poolers.{stream}.dense.{{p}}"))
        names = {
            f"ent_output.dense{number}": f"out.{stream}",
            f"ent_output.LayerNorm{number}": f"norm.{stream}",
            f"{letter}_intermediate.dense": f"blocks.{stream}.feed_forward.up",
            f"{letter}_output.dense": f"blocks.{stream}.feed_forward.down",
            f"{letter}_output.LayerNorm": f"blocks.{stream}.feed_forward_norm",
        }
        names |= {f"ent_attention.{part}{number}": f"{part}.{stream}" for part in ("query", "key", "value")}
        rules += [Rename(f"{c}{theirs}.{{p}}", f"{mine}{ours}.{{p}}") for theirs, ours in names.items()]
    if config.shared_value:
        rules.append(Carry(f"{c}ent_attention.value_av.{{p}}"))
    for part in ("key", "value"):
        rules.append(Rename(f"{c}ent_attention.{part}_av.{{p}}", f"{mine}guide_{part}.text.{{p}}"))
        rules.append(Rename(f"{c}ent_attention.{part}_at.{{p}}", f"{mine}guide_{part}.regions.{{p}}"))
    rules += _head("cls.predictions.", "words.")
    for theirs, ours in (("cls.imagePredictions.", "region_head."), ("cls.actionPredictions.", "action_head.")):
        rules += _head(theirs, ours)
        rules.append(Transpose(f"{theirs}decoder.weight", f"{ours}decoder.weight"))
        rules.append(Rename(f"{theirs}decoder.bias", f"{ours}bias"))
    rules.append(Rename("cls.seq_relationship.{p}", "match_head.{p}"))
    return StateMap(
        _linear(rules),
        Rename("cls.predictions.decoder_bias", "words.bias"),
        Tie("cls.predictions.decoder_weight", table),
    )


SYSTEM = System(
    name="actbert",
    title="ActBERT: actions guide words and regions to each other",
    paper="Zhu & Yang, CVPR 2020, arXiv 2011.07231",
    model=ActBert,
    config=ActBertConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("mlm", "regions", "actions", "match"),
)
