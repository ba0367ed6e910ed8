import pytest
import torch
from torch.nn.functional import normalize

from coalign.errors import InputError
from coalign.retrieval.querybank import FILE, NEIGHBOURS, Querybank
from coalign.retrieval.rerank import evaluate_retrieval
from coalign.types import Packed


class Silent:
    """Cannot tell one pair from another."""

    def match(self, images, texts, pairs):
        return torch.zeros(len(pairs))


def random_units(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [normalize(torch.randn(size, 4, generator=generator), dim=1) for size in sizes]


def test_hubness_is_the_mean_of_the_nearest_items_of_the_other_modality():
    image, text, asked = random_units(NEIGHBOURS + 7, NEIGHBOURS - 4, 1100)
    bank = Querybank(image, text)
    nearest = (asked @ image.T).sort(dim=1, descending=True).values[:, :NEIGHBOURS]
    torch.testing.assert_close(bank.hubness(asked, "text"), nearest.mean(1))
    torch.testing.assert_close(bank.hubness(asked, "image"), (asked @ text.T).mean(1))  # there are fewer


def test_a_hub_stands_back_behind_the_right_answers():
    axes = torch.eye(3)
    images = normalize(torch.tensor([[1.0, 0.0, 1.2], [0.0, 1.0, 1.2], [0.0, 0.0, 1.0]]), dim=1)  # all near text 2
    tokens = Packed.from_items([torch.zeros(1, 1)] * 3)
    bank = Querybank(normalize(torch.tensor([[0.2, 0.1, 1.0], [0.1, 0.2, 1.0]]), dim=1), axes)

    def recall(**given):
        found = evaluate_retrieval(images, axes, torch.arange(3), torch.arange(3), Silent(), tokens, tokens, **given)
        return found["image_to_text"]["R@1"], found["text_to_image"]["R@1"]

    assert recall() == (pytest.approx(1 / 3), 1.0)
    assert recall(bank=bank) == (1.0, 1.0)
    assert recall(bank=bank, hubness=0.0) == recall()
    assert recall(bank=bank, k=1) == recall()  # what is not on the shortlist cannot come up


def test_a_bank_is_kept_in_the_run_and_missed_by_name(tmp_path):
    bank = Querybank(*random_units(3, 2))
    with pytest.raises(InputError, match=FILE):
        Querybank.load(tmp_path)
    bank.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    again = Querybank.load(tmp_path)
    assert torch.equal(again.image, bank.image) and torch.equal(again.text, bank.text)


def test_a_broken_bank_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / FILE).write_bytes(b"half a file")
    with pytest.raises(InputError, match=FILE):
        Querybank.load(tmp_path)
    Querybank(torch.zeros(0, 4), torch.zeros(2, 4)).save(tmp_path)
    with pytest.raises(InputError, match=f"{FILE}: not a bank"):
        Querybank.load(tmp_path)
