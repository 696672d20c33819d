"""Dropout in lanes: draws are a function of (seed, update, rows), whoever makes them."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from corpora import TINY, tiny_corpus
from legw.apps.ptb import WordTask
from legw.runs import records
from legw.train import SeededDropout, Settings, State, fit
from legw.train.dropout import seed_thread
from threads import threads
from train.runs import recipe, weights
from train.tasks import Lines

CPU = torch.device("cpu")


def in_thread(work: Any) -> Any:
    """Return what a function returns in a thread that was never seeded."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


# The layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_draws_as_torchs_dropout_from_the_same_state(p: float, dtype: torch.dtype) -> None:
    values = torch.randn(70, 50).to(dtype)
    torch.manual_seed(11)
    expected = functional.dropout(values, p)

    def seeded() -> Tensor:
        seed_thread(11, CPU)
        found: Tensor = SeededDropout(p)(values)
        return found

    assert_close(in_thread(seeded), expected, rtol=0, atol=0)


def test_outside_of_a_loop_it_is_torchs_dropout() -> None:
    values = torch.ones(200)
    torch.manual_seed(5)
    expected = functional.dropout(values, 0.5)
    torch.manual_seed(5)
    assert torch.equal(in_thread(lambda: SeededDropout(0.5)(values)), expected)


@pytest.mark.parametrize(
    ("settings", "fails"),
    [({"lanes": 1}, False), ({"lanes": 2}, False), ({"lanes": 1}, True)],
)
def test_after_a_run_it_is_torchs_dropout_again(
    settings: dict[str, Any], fails: bool, tmp_path: Path
) -> None:
    class Failing(Lines):
        def evaluate(self, model: nn.Module) -> float:
            raise OSError

    values = torch.ones(200)
    torch.manual_seed(5)
    expected = functional.dropout(values, 0.5)
    settings = {"device": "cpu", "micro_batch_size": 16} | settings
    with pytest.raises(OSError) if fails else contextlib.nullcontext():
        fit(Failing() if fails else Lines(), recipe(), out=tmp_path, settings=Settings(**settings))
    torch.manual_seed(5)
    assert torch.equal(SeededDropout(0.5)(values), expected)


def test_torchs_generator_is_left_alone() -> None:
    def seeded() -> bool:
        seed_thread(3, CPU)
        before = torch.get_rng_state()
        SeededDropout(0.5)(torch.ones(100))
        return torch.equal(before, torch.get_rng_state())

    assert in_thread(seeded)


def test_threads_of_torch_change_no_draw() -> None:
    """Many numbers are drawn by several of them, each from its own place in the sequence."""
    values = torch.ones(400_000)
    found = []
    for count in (1, 4):
        with threads(count):
            seed_thread(9, CPU)
            found.append(SeededDropout(0.3)(values))
    assert torch.equal(*found)
    assert (found[0] == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
    assert found[0].max().item() == pytest.approx(1 / 0.7)


def test_gradients_pass_where_numbers_are_kept() -> None:
    values = torch.ones(50, requires_grad=True)
    seed_thread(2, CPU)
    out = SeededDropout(0.4)(values)
    out.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, out.detach())


def test_evaluation_drops_nothing() -> None:
    values = torch.randn(30)
    assert SeededDropout(0.9).eval()(values) is values
    assert SeededDropout(0.0)(values) is values
    assert str(SeededDropout(0.25)) == "SeededDropout(p=0.25)"


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"dropout: p=.*: must be in \[0, 1\]"):
        SeededDropout(p)


# In the training loop -----------------------------------------------------------------------


class Dropped(Lines):
    """Regression with dropout, which notes what is left of each example, update by update."""

    name = "dropped"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[bytes, list[Tensor]] = defaultdict(list)
        self._lock = threading.Lock()

    def model(self) -> nn.Module:
        first, *rest = super().model()
        return nn.Sequential(first, SeededDropout(0.5), *rest)

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        inputs, targets, weights_B = batch
        hidden = model[1](model[0](inputs))  # type: ignore[index]
        with self._lock:
            for row, left in zip(inputs, hidden, strict=True):
                self.kept[row.numpy().tobytes()].append(left.detach() != 0)
        losses = (model[3](model[2](hidden)) - targets) ** 2 * weights_B  # type: ignore[index]
        return losses.sum(), weights_B.sum(), None


def kept(folder: Path, *, seed: int = 0, **settings: Any) -> dict[bytes, list[Tensor]]:
    """Train for two epochs; return which units of each example were kept in each."""
    task = Dropped()
    given = Settings(device="cpu", micro_batch_size=16, **settings)
    fit(task, recipe(batch_size=50, epochs=2.0), out=folder, seed=seed, settings=given)
    assert len(task.kept) == 200 and {len(each) for each in task.kept.values()} == {2}
    return task.kept


def test_draws_depend_on_seed_update_and_rows_alone(tmp_path: Path) -> None:
    """For the same micro-batches: on no number of lanes, on no thread, on no luck."""
    alone = kept(tmp_path / "1", lanes=1)
    for lanes in (2, 3, 4):
        with threads(4):
            found = kept(tmp_path / str(lanes), lanes=lanes)
        for example, masks in alone.items():
            assert all(map(torch.equal, found[example], masks))
    first, second = (torch.stack(masks) for masks in zip(*alone.values(), strict=True))
    assert len(torch.unique(first, dim=0)) > 100, "each example has draws of its own"
    assert (first == second).double().mean().item() == pytest.approx(0.5, abs=0.06)
    other = kept(tmp_path / "other", lanes=2, seed=1)
    others = torch.stack([other[example][0] for example in alone])
    assert (first == others).double().mean().item() == pytest.approx(0.5, abs=0.06)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_a_language_model_with_dropout_trains_in_lanes(tmp_path: Path) -> None:
    """The same run each time to the last bit, and to rounding the one without lanes."""
    size = replace(TINY, keep=0.6)
    for out, lanes in (("alone", 1), ("one", 3), ("two", 3)):
        settings = Settings(device="cpu", micro_batch_size=4, lanes=lanes)
        task = WordTask("tiny", size, tiny_corpus())
        fit(task, recipe(batch_size=12, epochs=3.0), out=tmp_path / out, settings=settings)
        assert records.read_manifest(tmp_path / out).lanes == lanes
    alone, one, two = (weights(tmp_path / out) for out in ("alone", "one", "two"))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
        assert_close(tensor, alone[name], rtol=0, atol=1e-10, msg=name)
    plain = WordTask("tiny", TINY, tiny_corpus())
    settings = Settings(device="cpu", micro_batch_size=4, lanes=3)
    fit(plain, recipe(batch_size=12, epochs=3.0), out=tmp_path / "plain", settings=settings)
    moved = weights(tmp_path / "plain")
    assert not torch.allclose(moved["decode.weight"], one["decode.weight"]), "it did drop units"
