"""Maps of words on clips, frames, regions by way of actions, and streams: what each model says of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coalign.analysis.runs.alignment import MomentAlignment, read_alignment
from coalign.errors import InputError
from coalign.layers.s3d import S3dConfig
from coalign.models.actbert.config import ActBertConfig, StreamConfig
from coalign.models.actbert.model import ActBert
from coalign.models.actbert.trunk import stretched_rows
from coalign.models.mil_nce.model import MilNceConfig, MilNceModel
from coalign.models.mult.config import MulTConfig, Stream
from coalign.models.mult.model import MulT
from coalign.models.videobert.model import VideoBert, VideoBertConfig
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Packed, Regions, Series, Text, Video

IDS = [[101, 7, 8, 9, 102], [101, 5, 102]]
TEXT = Text(
    Packed.from_items([torch.tensor(ids) for ids in IDS]),
    words=torch.cat([torch.tensor([-1, *range(len(ids) - 2), -1]) for ids in IDS]),
)
WORDS = [["a", "b", "c"], ["d"]]


def rows(lengths: list[int], width: int, seed: int = 0) -> Packed:
    random = torch.Generator().manual_seed(seed)
    return Packed.from_items([torch.randn(length, width, generator=random) for length in lengths])


def test_videobert_aligns_words_with_clips() -> None:
    torch.manual_seed(0)
    bert = BertConfig(vocab_size=200, dim=16, depth=3, heads=2, hidden_dim=32)
    model = VideoBert(VideoBertConfig(bert, feature_width=4, branching=2, levels=2)).eval()
    model.visual.grow(rows([40], 4).values, generator=torch.Generator().manual_seed(0))
    batch = Batch(text=TEXT, video=Video(features=rows([4, 2], 4)))
    for method in (*model.alignment_methods, "occlusion"):
        found = read_alignment(model, batch, WORDS, method)
        assert all(isinstance(own, MomentAlignment) for own in found)
        assert [tuple(own.values.shape) for own in found] == [(3, 4), (1, 2)], method
    attention = model.encode(batch, record=True).record["fused.2.attention"].mean(1)
    torch.testing.assert_close(model.alignment(batch, "cross_attention")[1], attention[1, :3, 3:5])
    assert found[0].to_json()["moments"] == 4
    with pytest.raises(InputError, match="lacks one"):
        model.alignment(Batch(text=TEXT))


def test_mil_nce_maps_sum_to_the_similarity_of_a_word() -> None:
    torch.manual_seed(0)
    config = MilNceConfig(
        S3dConfig((8, 8, 16), ((8, 12, 16, 4, 4, 4),) * 9), 32, vocab_size=200, word_dim=8, text_hidden_dim=16
    )
    model = MilNceModel(config).eval()
    frames = torch.rand(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (maps, _) = model.alignment(Batch(text=TEXT, video=Video(frames=frames)))
    one = Text(Packed.from_items([torch.tensor([8])]))
    pooled = model.encode(Batch(text=one, video=Video(frames=frames[:1]))).pooled
    torch.testing.assert_close(maps[2].mean(), (pooled["text"] @ pooled["video"].T).squeeze(), atol=1e-4, rtol=1e-4)
    hidden = read_alignment(model, Batch(text=TEXT, video=Video(frames=frames)), WORDS, "occlusion")
    assert [tuple(own.values.shape) for own in hidden] == [(3, 8), (1, 8)]


@pytest.mark.parametrize("connection", ["tangled", "joint"])
def test_actbert_goes_through_the_actions(connection: str) -> None:
    torch.manual_seed(0)
    stream = StreamConfig(4, 16, 2, 2, 32)
    config = ActBertConfig(
        text=BertConfig(vocab_size=200, dim=16, depth=3, heads=2, hidden_dim=32),
        regions=stream,
        actions=stream,
        co_dim=16,
        co_heads=2,
        text_connections=(1, 2),
        region_targets=3,
        action_targets=3,
        connection=connection,  # type: ignore[arg-type]
    )
    model = ActBert(config).eval()
    features = rows([3, 2], 4)
    boxes = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).sort(1).values
    actions = rows([2, 1], 4, seed=1)
    batch = Batch(text=TEXT, regions=Regions(features, boxes), video=Video(features=actions))
    maps = model.alignment(batch)
    assert [tuple(own.shape) for own in maps] == [(5, 3), (3, 2)]
    kept: dict[str, Tensor] = {}
    model.trunk(model.embed(batch.text, batch.regions, actions), kept)
    whole = kept["connection.1.text_to_regions"].mean(1)
    torch.testing.assert_close(maps[0], whole[0, :5, 1:4])
    if connection == "tangled":  # all that the words draw on goes to the frame and its regions
        torch.testing.assert_close(whole[0, :5].sum(1), torch.ones(5))
        assert stretched_rows(actions.layout, TEXT.ids.layout).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_mult_aligns_the_steps_of_two_streams() -> None:
    torch.manual_seed(0)
    model = MulT(MulTConfig((Stream("text", 6), Stream("audio", 4), Stream("vision", 3)), dim=8, heads=2, layers=2))
    batch = Batch(series=Series({"text": rows([3, 2], 6), "audio": rows([5, 4], 4), "vision": rows([2, 2], 3)}))
    for method in model.eval().alignment_methods:
        found = read_alignment(model, batch, [["a", "b", "c"], ["d", "e"]], method)
        assert [tuple(own.values.shape) for own in found] == [(3, 5), (2, 4)]
    attention = model.encode(batch, record=True).record["text.audio.1.cross_attention"].mean(1)
    torch.testing.assert_close(model.alignment(batch, "cross_attention")[1], attention[1, :2, :4])
    other = model.alignment_record(batch, "vision", "text")
    assert other.shapes == [(3,), (2,)] and len(other.crossing()) == 2
    with pytest.raises(InputError, match="does not attend"):
        model.alignment_record(batch, "text", "text")
