import torch
from torch import nn

from coalign.layers.momentum import FeatureQueue, Further, MomentumContrast, momentum_copy, momentum_update


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


def test_what_is_staged_is_enqueued_by_flush_alone_and_only_with_gradients():
    queue = FeatureQueue(4, image=1)
    before = queue.get_buffer("image").clone()
    with torch.no_grad():
        queue.stage(image=torch.tensor([[9.0]]))
    assert not queue.staged
    queue.stage(torch.tensor([5]), image=torch.tensor([[2.0]]))
    assert torch.equal(queue.get_buffer("image"), before)
    queue.discard()
    queue.stage(torch.tensor([6]), image=torch.tensor([[3.0]]))
    queue.stage(torch.tensor([7]), image=torch.tensor([[4.0]]))
    queue.flush()
    assert queue.get_buffer("image")[0, :2].tolist() == [3.0, 4.0] and queue.ids[0].tolist() == [6, 7, -100, -100]
    assert not queue.staged


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_the_batch_s_own_keys_have_a_gradient_where_they_are_online():
    for online in (False, True):
        contrast = MomentumContrast(4, 3, online_keys=online)
        image, text = unit(2, 3).requires_grad_(), unit(2, 3).requires_grad_()
        found = contrast(image, text, unit(2, 3), unit(2, 3), torch.tensor(0.1))
        (gradient,) = torch.autograd.grad(found.similarity_i2t[0, 1], text, allow_unused=True)
        assert (gradient is not None) is online


def test_targets_are_spread_over_all_candidates_of_an_id_and_softened_by_alpha():
    contrast, vectors = MomentumContrast(3, 2), [unit(2, 2) for _ in range(4)]
    contrast.enqueue(torch.tensor([7]), image=unit(1, 2), text=unit(1, 2))
    further = Further(unit(1, 2), unit(1, 2), torch.tensor([7]))
    ids = torch.tensor([7, 8])
    found = contrast(*vectors, torch.tensor(0.1), ids=ids, further=further)
    third = 1 / 3  # its own text, the queue's, and the further one
    torch.testing.assert_close(found.target_i2t, torch.tensor([[third, 0, third, 0, 0, third], [0, 1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(found.target_t2i, torch.tensor([[0.5, 0, 0.5, 0, 0], [0, 1.0, 0, 0, 0]]))
    soft = contrast(*vectors, torch.tensor(0.1), alpha=0.25, ids=ids, further=further)
    texts = torch.cat([vectors[3], contrast.get_buffer("text").T, further.vectors_m])
    momentum = (vectors[2] @ texts.T / 0.1).softmax(1)
    torch.testing.assert_close(soft.target_i2t, 0.25 * momentum + 0.75 * found.target_i2t)
