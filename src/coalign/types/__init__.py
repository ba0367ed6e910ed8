"""The types that every floor shares; imports torch and `errors` alone.

`Packed` carries a ragged batch without padding, `Batch` is where data and models meet, `Encoding` is what a model
gives back, `InputSpec` is what a model asks of its data, and `Model` is what training and retrieval know of a model.
"""

from coalign.types.batch import Batch, Candidates, Images, Mosaics, Patches, Places, Regions, Series, Text, Video
from coalign.types.labels import Labels
from coalign.types.model import FREE, Draws, Encoding, Head, Matcher, Model, System
from coalign.types.packed import Layout, Packed, Record
from coalign.types.spec import (
    AnswerSpec,
    ImageSpec,
    InputSpec,
    RegionSpec,
    StreamSpec,
    Targets,
    TextSpec,
    VideoSpec,
    needed,
)

__all__ = [
    "FREE",
    "AnswerSpec",
    "Batch",
    "Candidates",
    "Draws",
    "Encoding",
    "Head",
    "ImageSpec",
    "Images",
    "InputSpec",
    "Labels",
    "Layout",
    "Matcher",
    "Model",
    "Mosaics",
    "Packed",
    "Patches",
    "Places",
    "Record",
    "RegionSpec",
    "Regions",
    "Series",
    "StreamSpec",
    "System",
    "Targets",
    "Text",
    "TextSpec",
    "Video",
    "VideoSpec",
    "needed",
]
