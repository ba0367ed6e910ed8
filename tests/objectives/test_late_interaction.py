"""Late interaction against its formula, on planted alignments."""

import math
from pathlib import Path

import torch
from groups import in_new_group_of
from token_ranks import SCALE as TOKEN_SCALE
from token_ranks import tokens
from torch.nn.functional import normalize

from coalign.objectives.late_interaction import LateInteraction, TokenInteraction, pooled_similarity, token_similarities

SCALE = torch.tensor(10.0)


def unit(*shape):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))), dim=-1)


def test_the_similarity_is_a_soft_maximum_over_patches():
    patches, texts = unit(3, 4, 5), unit(6, 5)
    found = pooled_similarity(patches, texts, SCALE)
    for b in range(3):
        for c in range(6):
            one = sum(math.exp(10 * float(patches[b, p] @ texts[c])) for p in range(4)) / 4
            assert abs(float(found[b, c]) - math.log(one)) < 1e-4
    hard = torch.einsum("bpd,cd->bcp", patches, texts).amax(2)
    assert (pooled_similarity(patches, texts, torch.tensor(1000.0)) / 1000 - hard).abs().max() < 2e-3


def test_one_matching_patch_is_enough_and_ids_are_shared():
    texts = torch.eye(4)
    patches = torch.zeros(3, 6, 4)
    for image, text in enumerate((0, 1, 0)):
        patches[image, image] = texts[text]  # one patch shows the text's thing, the others nothing
    ids, objective = torch.tensor([7, 8, 7]), LateInteraction()
    own = texts[[0, 1, 0]]
    right = objective(patches, torch.cat([own, texts[2:]]), torch.tensor(50.0), ids, torch.tensor([7, 8, 7, 9, 10]))
    wrong = objective(patches, texts[[1, 0, 1, 2, 3]], torch.tensor(50.0), ids, torch.tensor([7, 8, 7, 9, 10]))
    assert math.isclose(float(right), 2 / 3 * math.log(2), abs_tol=1e-3)  # two of three have two equal texts
    assert wrong > right + 1


def test_words_are_drawn_to_the_cell_that_shows_them():
    objective, patches = LateInteraction(), unit(2, 4, 9, 16).requires_grad_()
    words, mosaic, cell = unit(5, 16), torch.tensor([0, 0, 1, 1, 1]), torch.tensor([3, 1, 0, 2, 2])
    assert abs(float(objective.cells(patches * 0, words, SCALE, mosaic, cell)) - math.log(4)) < 1e-5
    optimiser, patch = torch.optim.SGD([patches], lr=0.5), normalize(patches, dim=-1)
    for _ in range(60):
        loss = objective.cells(normalize(patches, dim=-1), words, SCALE, mosaic, cell)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    patch = normalize(patches.detach(), dim=-1)
    chosen = torch.einsum("tcpd,td->tcp", patch[mosaic], words).logsumexp(2).argmax(1)
    assert torch.equal(chosen, cell) and loss < 0.2


def test_filip_is_its_formula_and_padding_counts_nowhere():
    patches, words, real = tokens()
    to_text, to_image = token_similarities(patches, words, real)
    for b in range(4):
        for m in range(4):
            said = words[m][real[m]]
            cosines = patches[b] @ said.T
            torch.testing.assert_close(to_text[b, m], cosines.amax(1).mean())  # equation 4
            torch.testing.assert_close(to_image[b, m], cosines.amax(0).mean())  # equation 5
    expected = sum(
        torch.nn.functional.cross_entropy(TOKEN_SCALE * logits, torch.arange(4)) for logits in (to_text, to_image.T)
    )
    loss = TokenInteraction()(patches, words, real, TOKEN_SCALE)
    torch.testing.assert_close(loss, expected / 2)
    (slope,) = torch.autograd.grad(loss, words)
    assert slope[real].abs().sum(1).min() > 0 and not slope[~real].any()
    alike = TokenInteraction()(patches, words, real, TOKEN_SCALE, torch.tensor([5, 5, 6, 7]))
    assert not torch.isclose(alike, loss)


def test_filip_in_two_processes_is_that_of_one(tmp_path):
    in_new_group_of(2, Path(__file__).with_name("token_ranks.py"), "half", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    patches, words, real = tokens()
    loss = TokenInteraction()(patches, words, real, TOKEN_SCALE)
    loss.backward()
    for one, other, whole in zip(first, second, [loss.detach(), patches.grad, words.grad], strict=True):
        torch.testing.assert_close((one + other) / 2, whole)
