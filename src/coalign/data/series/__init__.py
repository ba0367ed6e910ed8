"""Utterances of several streams (words, sound, face) with a sentiment or an emotion, from the files people have."""

from coalign.data.series.utterances import SeriesData, Task, Utterance

__all__ = ["SeriesData", "Task", "Utterance"]
