"""BLEU and chrF of translations, by sacrebleu on plain text, with their signatures.

Reference: Papineni et al. 2002, "BLEU"; Popovic 2015, "chrF"; Post 2018, arXiv 1804.08771.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Score:
    """Scores of translations, 0 to 100, with the signatures of their metrics."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str

    def lines(self) -> list[str]:
        """Return a line for each of the two."""
        return [
            f"BLEU {self.bleu:.2f} ({self.bleu_signature})",
            f"chrF {self.chrf:.2f} ({self.chrf_signature})",
        ]


class Scorer:
    """Compares translations with one reference each; the references are processed once."""

    def __init__(self, references: Sequence[str]) -> None:
        self._bleu, self._chrf = BLEU(references=[references]), CHRF(references=[references])

    def bleu(self, translations: Sequence[str]) -> float:
        """Return the BLEU of as many translations, cased and on their plain text, in [0, 100]."""
        return float(self._bleu.corpus_score(translations, None).score)

    def score(self, translations: Sequence[str]) -> Score:
        """Return BLEU and chrF of as many translations."""
        chrf = float(self._chrf.corpus_score(translations, None).score)
        return Score(self.bleu(translations), chrf, *self.signatures())

    def signatures(self) -> tuple[str, str]:
        """Return the signatures of BLEU and chrF, as papers quote them."""
        return str(self._bleu.get_signature()), str(self._chrf.get_signature())
