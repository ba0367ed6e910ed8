"""Work beside the training: its errors reach the training, and none is lost."""

import threading

import pytest

from coalign.training.background import Background


def refuse() -> None:
    raise OSError("no space left")


def test_an_error_is_raised_as_soon_as_it_is_asked_for() -> None:
    begun = threading.Event()
    with pytest.raises(OSError, match="no space"), Background() as beside:
        beside.start(lambda: begun.wait(10))
        beside.check()  # under way: nothing to tell
        begun.set()
        beside.start(refuse)
        while True:
            beside.check()


def test_an_error_that_ends_the_training_keeps_the_other_as_a_note() -> None:
    with pytest.raises(ValueError, match="diverged") as ended, Background() as beside:
        beside.start(refuse)
        raise ValueError("diverged")
    assert any("no space left" in note for note in ended.value.__notes__)
