"""Hypothesis strategies for what the core is made of: any decay, any optimizer, any recipe."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from legw.decays import (
    UNITS,
    Constant,
    Cosine,
    Decay,
    Exponential,
    Halving,
    InverseSqrt,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Optimizer
from legw.recipe import Recipe
from legw.schedule import in_unit

BELOW_ONE = st.floats(0, 1, exclude_max=True)
"""Momenta, betas, ends."""
SHARES = st.floats(0.01, 1)
"""What a step decay multiplies by."""
LENGTHS = st.floats(0, 1000)
"""Positions in epochs."""
SMALL = st.floats(0, 1)
"""Weight decays, epsilons."""
LETTERS = "ab Z09-_.,:;#=+*/'\"\\[]{}()<>|&%$@!?~^`éßñλЖ中あ한🙂"
NAMES = st.text(LETTERS, min_size=1, max_size=100)
"""Names of letters that files and lines of text may trip over."""

SOURCES = st.text(LETTERS + "\n\r\t\0\x1b\x7f\x85\u2028\ufeff", max_size=100)
"""Any text: sources may hold lines and control characters."""


def decays() -> st.SearchStrategy[Decay]:
    """Any decay that ships, with any settings."""
    late = st.booleans()
    return st.one_of(
        st.builds(Constant, after_warmup=late),
        st.builds(
            Step,
            milestones_epochs=st.lists(LENGTHS, max_size=4).map(lambda m: tuple(sorted(m))),
            rate=SHARES,
            after_warmup=late,
        ),
        st.builds(
            Exponential,
            rate=SHARES,
            constant_epochs=LENGTHS,
            every_epochs=st.floats(0.01, 100),
            after_warmup=late,
        ),
        st.builds(Polynomial, power=st.floats(0.1, 4), end=BELOW_ONE, after_warmup=late),
        st.builds(Cosine, end=BELOW_ONE, after_warmup=late),
        st.builds(Cosine, end=BELOW_ONE, half_cycles=st.floats(0.1, 9), after_warmup=late),
        st.builds(
            WarmupStableDecay,
            tail=SHARES,
            shape=st.sampled_from(["linear", "cosine", "1-sqrt"]),
            end=BELOW_ONE,
            after_warmup=late,
        ),
        st.builds(
            InverseSqrt,
            time_scale_epochs=st.floats(0.01, 1000),
            end=BELOW_ONE,
            after_warmup=late,
        ),
        st.builds(
            Halving, begin=BELOW_ONE, times=st.integers(1, 20), rate=SHARES, after_warmup=late
        ),
    )


def optimizers() -> st.SearchStrategy[Optimizer]:
    """Any optimizer that ships, with any settings."""
    adam: dict[str, Any] = {
        "beta1": BELOW_ONE, "beta2": BELOW_ONE, "epsilon": SMALL, "weight_decay": SMALL,
    }  # fmt: skip
    return st.one_of(
        st.builds(SGD, momentum=BELOW_ONE, weight_decay=SMALL),
        st.builds(SGD, momentum=st.floats(0.1, 0.9), nesterov=st.just(True)),
        st.builds(
            LARS,
            momentum=BELOW_ONE,
            weight_decay=SMALL,
            trust_coefficient=st.floats(1e-6, 1),
            epsilon=SMALL,
        ),
        *(st.builds(cls, **adam) for cls in (Adam, AdamW, LAMB)),
    )


@st.composite
def recipes(draw: st.DrawFn, **given: Any) -> Recipe:
    """Any recipe. Fields that are given are taken as they are, or drawn if strategies."""
    for name, value in given.items():
        given[name] = draw(value) if isinstance(value, st.SearchStrategy) else value
    lr = given.get("lr") or draw(st.floats(1e-9, 1e6) | st.integers(1, 100))
    epochs = given.get("epochs") or draw(st.floats(1e-3, 1e4) | st.integers(1, 1000))
    parts: dict[str, Any] = {
        "batch_size": st.integers(1, 2**20),
        "warmup_epochs": st.just(0.0) | st.floats(0, 0.99).map(lambda share: share * epochs),
        "warmup_from_lr": st.just(0.0) | st.floats(0, 1).map(lambda share: share * lr),
        "decay": decays(),
        "optimizer": optimizers(),
    }
    drawn = {name: draw(part) for name, part in parts.items() if name not in given}
    return Recipe(**{"name": "any", "lr": lr, "epochs": epochs, **drawn, **given})


@st.composite
def full_recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe, with any of the fields that have no say in its schedule, too."""
    window = draw(st.integers(1, 100))
    sizes = [
        {},
        {"num_examples": draw(st.integers(1, 2**53))},
        {"num_tokens": (window + 1) * 2**20, "window_tokens": window},
    ]
    return draw(
        recipes(
            name=NAMES,
            source=SOURCES,
            clip_norm=st.none() | st.floats(1e-3, 1e3),
            ema_decay=st.none() | st.floats(0, 0.999),
            norm_batch_size=st.integers(1, 1024),
            **draw(st.sampled_from(sizes)),
        )
    )


@st.composite
def recipes_in_any_unit(draw: st.DrawFn) -> Recipe:
    """Any recipe with its lengths in epochs, steps, examples or tokens; it knows its epoch."""
    recipe = draw(
        recipes(
            batch_size=st.integers(1, 2**12),
            num_examples=st.integers(1, 10**7),
            tokens_per_example=st.integers(1, 2**12),
        )
    )
    return in_unit(recipe, draw(st.sampled_from(UNITS)))
