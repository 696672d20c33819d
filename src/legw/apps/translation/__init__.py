"""Translation: the GNMT model on two line-aligned texts of your own, or on Multi30k.

One of the four LSTM applications of You et al. 2019 (arXiv 1901.08256).
"""

from legw.apps.translation.task import SIZES, Size, TranslationTask, task

__all__ = ["SIZES", "Size", "TranslationTask", "task"]

TAKES = ("vocabulary", "source", "target")
"""Options of these applications alone."""
