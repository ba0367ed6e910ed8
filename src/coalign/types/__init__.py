"""The types that every floor shares; imports torch and `errors` alone.

`Packed` carries a ragged batch without padding, `Batch` is where data and models meet, `Encoding` is what a model
gives back, `InputSpec` is what a model asks of its data, and `Model` is what training and retrieval know of a model.
"""

from coalign.types.batch import Batch, Candidates, Images, Mosaics, Regions, Series, Text, Video
from coalign.types.labels import Labels
from coalign.types.model import FREE, Draws, Encoding, Head, Model, System, Trainable
from coalign.types.packed import Layout, Packed, Record
from coalign.types.spec import InputSpec, Targets

__all__ = [
    "FREE",
    "Batch",
    "Candidates",
    "Draws",
    "Encoding",
    "Head",
    "Images",
    "InputSpec",
    "Labels",
    "Layout",
    "Model",
    "Mosaics",
    "Packed",
    "Record",
    "Regions",
    "Series",
    "System",
    "Targets",
    "Text",
    "Trainable",
    "Video",
]
