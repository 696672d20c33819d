"""`results/rare_words.py`: what a model makes of rare words, and what beta2 has to do with it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from corpora import TINY, tiny_corpus

RESULTS = Path(__file__).parents[1] / "results"
BOUNDS = (0, 16, 18, 10**9)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RESULTS))
    import rare_words

    monkeypatch.setattr(rare_words, "BOUNDS", BOUNDS)
    monkeypatch.setattr(rare_words, "STREAMS", 3)
    monkeypatch.setattr(rare_words, "PIECE", 4)
    return rare_words


def test_parts_of_a_model_that_knows_frequencies_alone(script: ModuleType) -> None:
    corpus = tiny_corpus()
    words = len(corpus.vocabulary.words)
    counts = torch.bincount(corpus.train.long(), minlength=words)
    chances = (counts + 1.0).double() / (counts + 1.0).sum()
    model = TINY.model(words)
    with torch.no_grad():
        model.decode.weight.zero_()
        model.decode.bias.copy_(chances.log())
    targets = corpus.valid.long()[: 57 // 3 * 3].view(3, -1)[:, 1:].flatten()
    found = script.parts(model, corpus)
    assert len(found) == len(BOUNDS) - 1
    for part, (low, high) in zip(found, pairwise(BOUNDS), strict=True):
        here = (counts >= low) & (counts < high)
        seen = targets[here[targets]]
        assert part.share == pytest.approx(len(seen) / len(targets))
        assert part.loss == pytest.approx(-chances[seen].log().mean().item(), rel=1e-5)
        expected = chances[here].sum().item() * len(targets) / len(seen)
        assert part.given == pytest.approx(expected, rel=1e-5)


def test_the_state_is_carried_from_piece_to_piece(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tiny_corpus()
    model = TINY.model(len(corpus.vocabulary.words))
    in_pieces = script.parts(model, corpus)
    monkeypatch.setattr(script, "PIECE", 100)
    at_once = script.parts(model, corpus)
    for one, other in zip(in_pieces, at_once, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_the_table_has_a_line_for_each_part(script: ModuleType) -> None:
    part = script.Part(0.25, 7.0, 0.5)
    printed = script.table({"0.95": [part] * 3, "0.999": [part._replace(loss=6.5)] * 3})
    assert printed.splitlines() == [
        "| count in training | share | 0.95: loss | 0.95: given | 0.999: loss | 0.999: given |",
        "|---|---|---|---|---|---|",
        "| 0 to 15 | 25.0% | 7.00 | 0.50 | 6.50 | 0.50 |",
        "| 16 to 17 | 25.0% | 7.00 | 0.50 | 6.50 | 0.50 |",
        "| 18 and more | 25.0% | 7.00 | 0.50 | 6.50 | 0.50 |",
    ]


@pytest.mark.parametrize("run", ["no-such-run", "0.95=no-such-run"])
def test_a_run_that_is_not_there_is_one_line(
    script: ModuleType, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("a small bank\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["rare_words.py", str(tmp_path), run])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2
    assert ": error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("beta2", "low", "high"), [(0.95, 0.0, 0.5), (0.999, 0.9, 1.1)])
def test_a_short_memory_learns_too_small_a_chance_of_a_rare_word(
    beta2: float, low: float, high: float
) -> None:
    """One of 20 tokens an update; the rare word is in one update of 100, so its share is 1/2000."""
    logits = torch.tensor([5.0, -2.0], requires_grad=True)
    adam = torch.optim.AdamW([logits], lr=0.003, betas=(0.9, beta2), weight_decay=0.0)
    chances = []
    for update in range(12_000):
        share = torch.tensor([0.95, 0.05] if update % 100 == 50 else [1.0, 0.0])
        chance = logits.softmax(0).detach()
        logits.grad = chance - share
        adam.step()
        if update >= 9000:
            chances.append(chance[1])
    assert low < float(torch.stack(chances).mean()) * 2000 < high
