"""Language models: words of the Penn Treebank, or of a text of your own.

The two-layer LSTMs of Zaremba et al. 2014, "Recurrent neural network regularization"
(arXiv 1409.2329, section 4.1), in the three sizes of TensorFlow's PTB tutorial. They are
two of the four LSTM applications of You et al. 2019 (arXiv 1901.08256).
"""

from legw.apps.ptb.task import SIZES, WordTask, task

__all__ = ["SIZES", "WordTask", "task"]

TAKES = ("vocabulary",)
"""Options of these applications alone."""
