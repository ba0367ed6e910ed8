"""Studies of data sets: what is in each modality, what lies between them, and what a model would find hard in it.

Every function takes arrays or columns and returns a dataclass with `plot()`, a plotly figure.
"""

from coalign.analysis.datasets.cache import Tower, Towers
from coalign.analysis.datasets.columns import Columns, VideoFacts
from coalign.analysis.datasets.cross_modal import compare_pairs, ground_words, information
from coalign.analysis.datasets.findings import Finding, find_leaks
from coalign.analysis.datasets.images import image_statistics
from coalign.analysis.datasets.measures import row_measures
from coalign.analysis.datasets.page import write_study
from coalign.analysis.datasets.parts import Options, Study
from coalign.analysis.datasets.representations import linear_cka, map_items, mutual_knn, probe_label, senses, similarity
from coalign.analysis.datasets.series import agreement, label_statistics, series_statistics, video_statistics
from coalign.analysis.datasets.shared_space import canonical_space, whole_space
from coalign.analysis.datasets.slices import compare_slices, parse_slice, two_sample_test
from coalign.analysis.datasets.sources import (
    emoji_columns,
    image_columns,
    pair_columns,
    region_columns,
    series_columns,
    shot_changes,
    video_columns,
)
from coalign.analysis.datasets.study import compare_sets, study
from coalign.analysis.datasets.summary import summarise
from coalign.analysis.datasets.texts import label_words, near_duplicate_texts, text_statistics, tokenisation

__all__ = [
    "Columns",
    "Finding",
    "Options",
    "Study",
    "Tower",
    "Towers",
    "VideoFacts",
    "agreement",
    "canonical_space",
    "compare_pairs",
    "compare_sets",
    "compare_slices",
    "emoji_columns",
    "find_leaks",
    "ground_words",
    "image_columns",
    "image_statistics",
    "information",
    "label_statistics",
    "label_words",
    "linear_cka",
    "map_items",
    "mutual_knn",
    "near_duplicate_texts",
    "pair_columns",
    "parse_slice",
    "probe_label",
    "region_columns",
    "row_measures",
    "senses",
    "series_columns",
    "series_statistics",
    "shot_changes",
    "similarity",
    "study",
    "summarise",
    "text_statistics",
    "tokenisation",
    "two_sample_test",
    "video_columns",
    "video_statistics",
    "whole_space",
    "write_study",
]
