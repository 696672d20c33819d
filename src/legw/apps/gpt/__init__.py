"""Transformer language model: words or subwords of the Penn Treebank, or of a text of your own.

A decoder of pre-norm blocks (Radford et al. 2019, GPT-2; Xiong et al. 2020, arXiv 2002.04745)
that two CPU cores train in about half an hour.
"""

from legw.apps.gpt.task import SIZES, Size, WindowTask, task

__all__ = ["SIZES", "Size", "WindowTask", "task"]

TAKES = ("vocabulary", "subwords")
"""Options of these applications alone."""
