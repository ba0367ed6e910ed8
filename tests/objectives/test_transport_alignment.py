import math

import pytest
import torch

from coalign.objectives.ranking import Ranking
from coalign.objectives.transport_alignment import TransportAlignment


def test_alignment_pulls_pairs_together_and_others_apart():
    distance, matched = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([True, False, False])
    assert TransportAlignment()(distance, matched).item() == pytest.approx((0.5 - 0.2 - 0.9) / 3)
    assert TransportAlignment("none")(distance, matched).tolist() == pytest.approx([0.5, -0.2, -0.9])
    assert TransportAlignment()(distance[:0], matched[:0]).item() == 0.0


def test_ranking_is_a_hinge_on_probabilities():
    right, wrong = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([-2.0, 0.0, 1.0])

    def p(x):
        return 1 / (1 + math.exp(-x))

    wanted = [0.0, 0.2, 0.2 + p(1) - p(-1)]
    assert Ranking(0.2, "none")(right, wrong).tolist() == pytest.approx(wanted)
    assert Ranking(0.2)(right, wrong).item() == pytest.approx(sum(wanted) / 3)
