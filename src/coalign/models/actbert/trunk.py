"""ActBERT's trunk: three streams and the tangled layers between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.heads import Pooler
from coalign.layers.transformer import Encoder, TransformerBlock
from coalign.models.actbert.config import STREAMS, ActBertConfig
from coalign.ops.attention import Mask, attend, attend_with_weights
from coalign.ops.boxes import box_numbers
from coalign.ops.packing import insert_row
from coalign.types import Layout, Packed, Record, Regions, Text

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0, 1.0)


def actual_lengths(layout: Layout) -> Tensor:
    """[B] how many rows of each item are not hidden."""
    if layout.hidden is None:
        return layout.lengths
    return torch.zeros_like(layout.lengths).index_add(0, layout.item, (~layout.hidden).to(layout.lengths.dtype))


def stretched_rows(actions: Layout, to: Layout, length: int | None = None) -> Tensor:
    """[T] the row of `actions` at each row of `to`, when an item's actions are stretched evenly to `length`.

    Nearest neighbour: place p of n shows action floor(p · a / n) of a. With None, a and n are the item's own numbers
    of rows that are not hidden.
    """
    have = actual_lengths(actions) if length is None else actions.lengths
    want = actual_lengths(to) if length is None else torch.full_like(to.lengths, length)
    step = have.float() / want.float()  # in single precision, as interpolation does it: the last place may differ
    place = (to.position * step[to.item]).long().clamp(max=have[to.item] - 1)
    return actions.first[to.item] + place


class TangledLayer(nn.Module):
    """One connection (section 3.2, figure 2): actions ask regions and text, and what they find guides both.

        r = Attention(Q_a, K_r, V_r),  t = Attention(Q_a, K_t, V_t)     per action
        text:    Attention(Q_t, K_t + K_av r, V_t + V_av r)             r, t stretched along time
        regions: Attention(Q_r, K_r + K_at t, V_r + V_at t)             V_av = V_at with `shared_value`
        actions: Attention(Q_a, K_a, V_a)

    Then each stream adds its part, is normalised, and has its feed-forward. `ActBertConfig.connection` leaves the
    guiding out, for comparison.
    """

    def __init__(self, config: ActBertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        self.heads, self.dropout, self.padded, self.kind = c.co_heads, t.dropout, c.padded, c.connection
        if c.co_dim % c.co_heads:
            raise ValueError(f"{c.co_heads} heads do not divide the inner width {c.co_dim}")
        blocks = {"text": t.block(0), "regions": c.regions.block(t), "actions": c.actions.block(t)}

        def linears(inputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Linear(width, c.co_dim) for name, width in inputs.items()})

        widths = {name: block.dim for name, block in blocks.items()}
        self.query, self.key, self.value = linears(widths), linears(widths), linears(widths)
        guided = {"text": c.co_dim, "regions": c.co_dim}
        shared = {"regions": c.co_dim} if c.shared_value else guided
        if c.connection == "tangled":
            self.guide_key, self.guide_value = linears(guided), linears(shared)
        else:
            spare = (len(guided) + len(shared)) * c.co_dim * (c.co_dim + 1)
            wider = round(spare / sum(2 * width + 1 for width in widths.values()))
            blocks = {name: replace(block, hidden_dim=block.hidden_dim + wider) for name, block in blocks.items()}
        self.out = nn.ModuleDict({name: nn.Linear(c.co_dim, width) for name, width in widths.items()})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width, t.eps) for name, width in widths.items()})
        self.blocks = nn.ModuleDict(
            {name: TransformerBlock(replace(block, self_attention=False)) for name, block in blocks.items()}
        )
        self.drop = Dropout(t.dropout)

    def forward(self, seen: Mapping[str, Packed], record: Record | None = None, name: str = "") -> dict[str, Packed]:
        """The three streams, from their states before the layer.

        `record` gets `{name}{stream}.attended`, and what words draw on regions, `{name}text_to_regions` [B, H, L, R]:
        by way of the actions where the streams are tangled, straight where they are joint.
        """
        query, key, value = (
            {stream: parts[stream](x.values) for stream, x in seen.items()}
            for parts in (self.query, self.key, self.value)
        )
        own = dict(key)
        if self.kind == "tangled":
            self.guide(seen, query["actions"], key, value)
        attended = self.attend_all(seen, query, key, value)
        if record is not None and self.kind != "apart":
            record[f"{name}text_to_regions"] = self.text_to_regions(seen, query, key, own)
        out: dict[str, Packed] = {}
        for stream, x in seen.items():
            if record is not None:
                record[f"{name}{stream}.attended"] = attended[stream]
            rows = self.norm[stream](x.values + self.drop(self.out[stream](attended[stream])))
            out[stream] = x.with_values(self.blocks[stream](rows, Mask.within(x)))
        return out

    def guide(
        self, seen: Mapping[str, Packed], query: Tensor, key: dict[str, Tensor], value: dict[str, Tensor]
    ) -> None:
        """Adds to the keys and values of text and regions what the actions, which ask by `query`, find in the other."""
        actions = seen["actions"]
        guided = {
            stream: self.attend(query, key[stream], value[stream], Mask.between(actions, seen[stream]))
            for stream in ("regions", "text")
        }
        lengths = (None, None) if self.padded is None else (self.padded.text, self.padded.regions)
        for stream, source, length in zip(("text", "regions"), ("regions", "text"), lengths, strict=True):
            rows = stretched_rows(actions.layout, seen[stream].layout, length)
            guide = self.guide_value[stream if stream in self.guide_value else "regions"]
            key[stream] = key[stream] + self.guide_key[stream](guided[source])[rows]
            value[stream] = value[stream] + guide(guided[source])[rows]

    def attend_all(
        self,
        seen: Mapping[str, Packed],
        query: Mapping[str, Tensor],
        key: Mapping[str, Tensor],
        value: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Each stream within itself; in a "joint" connection over the rows of all three."""
        if self.kind != "joint":
            return {
                stream: self.attend(query[stream], key[stream], value[stream], Mask.within(x))
                for stream, x in seen.items()
            }
        text, regions, actions = (seen[stream] for stream in STREAMS)

        def both(parts: Mapping[str, Tensor]) -> Packed:
            return Packed.concat(text.with_values(parts["text"]), regions.with_values(parts["regions"]))

        def joined(parts: Mapping[str, Tensor]) -> Packed:
            return Packed.concat(both(parts), actions.with_values(parts["actions"]))

        pair, rows = both(query).layout, joined(query)
        attended = rows.with_values(
            self.attend(rows.values, joined(key).values, joined(value).values, Mask.within(rows))
        )
        before, last = attended.split(pair, actions.layout)
        first, second = before.split(text.layout, regions.layout)
        return {"text": first.values, "regions": second.values, "actions": last.values}

    def text_to_regions(
        self,
        seen: Mapping[str, Packed],
        query: Mapping[str, Tensor],
        key: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
    ) -> Tensor:
        """[B, H, L, R] what words draw on regions; `own` are the keys before they are guided."""
        text, regions, actions = (seen[stream] for stream in STREAMS)
        if self.kind == "joint":
            rows = Packed.concat(text.with_values(key["text"]), regions.with_values(key["regions"]))
            rows = Packed.concat(rows, actions.with_values(key["actions"]))
            weights = self.weights(query["text"], rows.values, Mask.between(text, rows))
            place = torch.arange(regions.max_length, device=weights.device) + text.lengths[:, None]
            index = place.clamp(max=weights.shape[3] - 1)[:, None, None].expand(*weights.shape[:3], -1)
            return weights.gather(3, index)
        within = self.weights(query["text"], key["text"], Mask.within(text))
        shares = self.weights(query["actions"], own["regions"], Mask.between(actions, regions))
        length = None if self.padded is None else self.padded.text
        action = stretched_rows(actions.layout, text.layout, length) - actions.layout.first[text.layout.item]
        index = text.with_values(action).to_padded()[:, None, :, None].expand(-1, self.heads, -1, shares.shape[3])
        return within @ shares.gather(2, index)

    def weights(self, query: Tensor, key: Tensor, mask: Mask) -> Tensor:
        q, k = (x.unflatten(-1, (self.heads, -1)) for x in (query, key))
        return attend_with_weights(q, k, k, mask)[1]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (query, key, value))
        return attend(q, k, v, mask, dropout=self.dropout if self.training else 0.0).flatten(1)


class RegionEmbedding(nn.Module):
    """LayerNorm(W feature + W location), location = x1, y1, x2, y2, area."""

    def __init__(self, config: ActBertConfig) -> None:
        super().__init__()
        self.feature = nn.Linear(config.regions.width, config.regions.dim)
        self.location = nn.Linear(5, config.regions.dim)
        self.norm = nn.LayerNorm(config.regions.dim, config.text.eps)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.norm(self.feature(features) + self.location(boxes))


class ActionEmbedding(nn.Module):
    """LayerNorm(W feature); actions have no positions."""

    def __init__(self, config: ActBertConfig) -> None:
        super().__init__()
        self.feature = nn.Linear(config.actions.width, config.actions.dim)
        self.norm = nn.LayerNorm(config.actions.dim, config.text.eps)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.feature(features))


class ActBertTrunk(nn.Module):
    """The three streams, their connections and their poolers."""

    def __init__(self, config: ActBertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        connections = (c.text_connections, c.region_connections, c.action_connections)
        if len({len(places) for places in connections}) != 1:
            raise InputError("text_connections, region_connections and action_connections differ in number")
        if c.actions.dim != t.dim:
            raise InputError(f"the action stream is as wide as the text, {t.dim}, not {c.actions.dim}")
        self.config = config
        self.embedding = TextEmbedding(
            t.vocab_size, t.dim, positions=t.positions, types=t.types, eps=t.eps, dropout=t.dropout
        )
        self.region_embedding, self.action_embedding = RegionEmbedding(c), ActionEmbedding(c)
        self.encoders = nn.ModuleDict(
            {
                "text": Encoder(t.block(0), t.depth),
                "regions": Encoder(c.regions.block(t), c.regions.depth),
                "actions": Encoder(c.actions.block(t), c.actions.depth),
            }
        )
        self.connections = nn.ModuleList(TangledLayer(c) for _ in c.text_connections)
        widths = {"text": t.dim, "regions": c.regions.dim, "actions": c.actions.dim}
        self.poolers = nn.ModuleDict({name: Pooler(width, c.co_dim, "relu") for name, width in widths.items()})
        self.dropout = Dropout(t.dropout)

    def embed_text(self, text: Text) -> Packed:
        """Word rows. The padding word has its position and segment only: its row of the table is read as zeros."""
        e, padding = self.embedding, (text.ids.values == self.config.pad_id)[:, None]
        rows = e.sum(text.ids, text.types) - e.word.weight[self.config.pad_id] * padding
        return text.ids.with_values(e.dropout(e.norm(rows)))

    def embed_regions(self, regions: Regions, whole: Tensor | None = None, whole_box: Tensor | None = None) -> Packed:
        """Region rows, the whole frame's first: `whole` [B, width] is its feature, the mean where None."""
        features, boxes = regions.features, regions.features.with_values(box_numbers(regions.boxes, 5))
        width = self.config.regions.width
        if features.values.shape[-1] != width:
            raise InputError(f"regions are {features.values.shape[-1]} wide, this model reads {width}")
        if whole_box is None:
            whole_box = boxes.values.new_tensor(WHOLE_IMAGE).expand(len(boxes), -1)
        features = insert_row(features, features.mean() if whole is None else whole, 0)
        boxes = insert_row(boxes, whole_box, 0)
        return features.with_values(self.dropout(self.region_embedding(features.values, boxes.values)))

    def embed_actions(self, actions: Packed) -> Packed:
        width = self.config.actions.width
        if actions.values.shape[-1] != width:
            raise InputError(f"actions are {actions.values.shape[-1]} wide, this model reads {width}")
        return actions.with_values(self.dropout(self.action_embedding(actions.values)))

    def forward(self, embedded: Mapping[str, Packed], record: Record | None = None) -> dict[str, Packed]:
        """Blocks and connections in turn, then what is left of each stream's blocks, from embedded rows by stream.

        `record` gets what the blocks record as `{stream}.{i}....`, and of every connection
        `connection.{i}.{stream}.attended` and `connection.{i}.{stream}.hidden`.
        """
        c, seen, start = self.config, dict(embedded), dict.fromkeys(embedded, 0)
        places = zip(c.text_connections, c.region_connections, c.action_connections, strict=True)
        for i, ends in enumerate(places):
            seen = self.run(seen, start, dict(zip(STREAMS, ends, strict=True)), record)
            start = dict(zip(STREAMS, ends, strict=True))
            seen = self.connections[i](seen, record, f"connection.{i}.")
            if record is not None:
                record |= {f"connection.{i}.{stream}.hidden": x.values for stream, x in seen.items()}
        return self.run(seen, start, {}, record)

    def run(
        self, seen: Mapping[str, Packed], first: Mapping[str, int], last: Mapping[str, int], record: Record | None
    ) -> dict[str, Packed]:
        """Each stream's blocks `first` up to `last`, to its end where none is given."""
        return {
            stream: x.with_values(
                self.encoders[stream](
                    x.values,
                    Mask.within(x),
                    first=first[stream],
                    last=last.get(stream),
                    record=record,
                    name=f"{stream}.",
                )
            )
            for stream, x in seen.items()
        }

    def pool(self, seen: Mapping[str, Packed]) -> dict[str, Tensor]:
        """[B, co_dim] of each stream's first row."""
        return {stream: self.poolers[stream](x.first) for stream, x in seen.items()}

    def join(self, pooled: Mapping[str, Tensor], fusion: Literal["mul", "sum"] | None = None) -> Tensor:
        """[B, co_dim]: text · regions + actions, or the sum of the three."""
        text, regions, actions = (pooled[stream] for stream in STREAMS)
        joined = text * regions if (fusion or self.config.fusion) == "mul" else text + regions
        return self.dropout(joined + actions)
