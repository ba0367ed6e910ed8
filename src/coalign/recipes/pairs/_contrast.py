"""What the pre-trainings of dual encoders share: pairs to a loader, a training, and a run that retrieves."""

from __future__ import annotations

from typing import Any

from coalign.data.core.samples import Source
from coalign.data.pairs.loader import Loader
from coalign.data.words.tokenizer import Tokenizer
from coalign.recipes.pairs._pretraining import Pixels
from coalign.registry import describe
from coalign.training.experiment import Experiment
from coalign.training.options import Schedule


def train(
    experiment: Experiment, model: Any, tokenizer: Tokenizer, source: Source, pixels: Pixels, schedule: Schedule
) -> None:
    """Trains both towers, or the one that is not locked, on the pairs; the run's task is retrieval."""
    loader = Loader(
        source,
        model.input_spec,
        tokenizer,
        schedule.batch_size,
        options=pixels.framing,
        quarantine=experiment.quarantine,
        **experiment.loading,
    )
    training = schedule.training(experiment.options)
    experiment.fit(model, loader, training, describe(model) | {"task": "retrieval"}, tokenizer)
    experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")
