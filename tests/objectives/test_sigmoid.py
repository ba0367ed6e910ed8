"""The sigmoid loss against its formula, in chunks, and over processes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from groups import in_new_group_of
from sigmoid_ranks import features

from coalign.objectives.sigmoid import SigmoidContrastive


def formula(image, text, scale, bias, same):
    logits = scale * image @ text.T + bias
    return -F.logsigmoid(torch.where(same, logits, -logits)).sum() / len(image)


@pytest.mark.parametrize("chunk", [512, 1, 4])
@pytest.mark.parametrize("ids", [None, [0, 1, 1, 2, 3, 0]])
def test_formula_and_gradients(chunk, ids):
    given = features()
    numbers = torch.arange(6) if ids is None else torch.tensor(ids)
    expected = formula(*given, numbers[:, None] == numbers)
    slopes = torch.autograd.grad(expected, given)
    loss = SigmoidContrastive(chunk)(*given, None if ids is None else numbers)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(torch.autograd.grad(loss, given), slopes, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_block_of_similarities_is_larger_than_the_chunk(monkeypatch):
    sizes = []
    real = F.logsigmoid
    monkeypatch.setattr(F, "logsigmoid", lambda x: sizes.append(x.shape) or real(x))
    SigmoidContrastive(2)(*features()).backward()
    assert set(sizes) == {(6, 2)}
    assert len(sizes) == 6  # each block once more in the backward pass


def test_memory_grows_with_the_batch_and_not_with_its_square():
    """Bytes kept for the backward pass, the settings being the default ones."""

    def kept(size):
        found = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: found.update({x.data_ptr(): x.nbytes}) or x, lambda x: x
        ):
            loss = SigmoidContrastive()(*features(size, 8))
        assert loss.requires_grad
        return sum(found.values())

    assert kept(4096) < 2.1 * kept(2048)
    assert kept(4096) < 4 * 4096 * 512  # less than one block of similarities


def test_two_processes_give_the_step_of_one(tmp_path):
    in_new_group_of(2, Path(__file__).with_name("sigmoid_ranks.py"), "half", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    given = features()
    loss = SigmoidContrastive()(*given)
    loss.backward()
    expected = [loss.detach(), *(tensor.grad for tensor in given)]
    for one, other, whole in zip(first, second, expected, strict=True):
        torch.testing.assert_close((one + other) / 2, whole)
