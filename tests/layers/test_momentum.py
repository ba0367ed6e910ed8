import torch
from torch import nn

from coalign.layers.momentum import FeatureQueue, momentum_copy, momentum_update


def test_the_copy_follows_what_is_trained():
    source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    source[1].weight.requires_grad_(False)
    copy = momentum_copy(source)
    assert not any(p.requires_grad for p in copy.parameters())
    before = copy[0].weight.clone()
    with torch.no_grad():
        source[0].weight.add_(1.0)
    momentum_update(copy, source, 0.9)
    torch.testing.assert_close(copy[0].weight, 0.9 * before + 0.1 * source[0].weight)
    torch.testing.assert_close(copy[1].weight, source[1].weight)


def test_the_queue_overwrites_the_oldest_and_wraps_round():
    queue = FeatureQueue(5, image=2, text=3)
    assert queue.ids.tolist() == [[-100] * 5]

    def batch(start, size):
        rows = torch.arange(start, start + size).float()[:, None]
        return {"image": rows.expand(-1, 2), "text": rows.expand(-1, 3)}

    queue.enqueue(ids=torch.tensor([7, 8, 9]), **batch(0, 3))
    queue.enqueue(ids=torch.tensor([10, 11, 12]), **batch(3, 3))
    assert queue.get_buffer("image")[0].tolist() == [5, 1, 2, 3, 4]
    assert queue.get_buffer("text")[2].tolist() == [5, 1, 2, 3, 4]
    assert queue.ids.tolist() == [[12, 8, 9, 10, 11]] and queue.pointer.tolist() == [1]


def test_a_batch_longer_than_the_queue_leaves_its_last_rows():
    queue = FeatureQueue(2, image=1)
    queue.enqueue(image=torch.tensor([[1.0], [2.0], [3.0]]))
    assert sorted(queue.get_buffer("image")[0].tolist()) == [2.0, 3.0]
