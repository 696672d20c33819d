"""Optimizers as data: their kinds, and their settings apart from the learning rate.

A value here changes nothing and needs no torch; `legw.train.optim.build` turns
it into a `torch.optim.Optimizer`. A new optimizer is one new dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from legw.errors import RecipeError, check_count, check_range

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration
``X <- a*X + (b*X@X' + c*(X@X')@(X@X'))@X``, chosen by Jordan et al. 2024 so that small singular
values grow fast; all end between about 0.7 and 1.2."""

MUON_RMS = 0.2
"""Root mean square of the entries of Muon's step, per lr: about that of AdamW's steps."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Base of all optimizers. `kind` is the name used in TOML, JSON and tables."""

    kind: ClassVar[str] = ""
    adaptive: ClassVar[bool] = False
    """True where the step's length does not grow with the gradient's (Adam's family)."""
    decoupled: ClassVar[tuple[str, ...]] = ()
    """Settings that are weight decay beside the step, ``w -= lr*weight_decay*w``."""
    elsewhere: ClassVar[bool] = False
    """True for an optimizer of another library that legw does not have; recipe files cannot name
    it."""


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent: ``m = momentum*m + g + weight_decay*w``, ``w -= lr*m``.

    >>> SGD(momentum=0.9).nesterov
    False
    """

    kind: ClassVar[str] = "sgd"

    momentum: float = 0.0
    """Share of the last step that is kept, in [0, 1)."""
    nesterov: bool = False
    """Look ahead: step along ``g + momentum*m``. Needs momentum above 0."""
    weight_decay: float = 0.0
    """Factor of the weights that is added to the gradient, at least 0."""

    def __post_init__(self) -> None:
        check_range(self.kind, "momentum", self.momentum, 0, 1)
        check_range(self.kind, "weight_decay", self.weight_decay, 0)
        if self.nesterov and self.momentum == 0:
            raise RecipeError("sgd: nesterov=True: needs momentum above 0; set momentum, say 0.9")


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam, weight decay (if any) added to the gradient.

    Reference: Kingma and Ba 2014, arXiv 1412.6980, algorithm 1.

    >>> Adam().beta2
    0.999
    """

    kind: ClassVar[str] = "adam"
    adaptive: ClassVar[bool] = True

    beta1: float = 0.9
    """Decay of the gradient's average per update, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the squared gradient's average per update, in [0, 1)."""
    epsilon: float = 1e-8
    """Added to the denominator, at least 0."""
    weight_decay: float = 0.0
    """Factor of the weights that is added to the gradient, at least 0."""

    def __post_init__(self) -> None:
        check_range(self.kind, "beta1", self.beta1, 0, 1)
        check_range(self.kind, "beta2", self.beta2, 0, 1)
        check_range(self.kind, "epsilon", self.epsilon, 0)
        check_range(self.kind, "weight_decay", self.weight_decay, 0)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``w -= lr*weight_decay*w`` beside the step.

    Reference: Loshchilov and Hutter 2017, arXiv 1711.05101.

    >>> AdamW().weight_decay
    0.01
    """

    kind: ClassVar[str] = "adamw"
    decoupled: ClassVar[tuple[str, ...]] = ("weight_decay",)

    weight_decay: float = 0.01
    """Share of the weights taken off per update, times lr, at least 0."""


@dataclass(frozen=True, kw_only=True)
class LARS(Optimizer):
    """Layer-wise adaptive rate scaling; biases and norms take plain momentum steps.

    ``ratio = trust_coefficient*|w| / (|g| + weight_decay*|w| + epsilon)``, 1 where a
    norm is 0; ``m = momentum*m + lr*ratio*(g + weight_decay*w)``; ``w -= m``.

    Reference: You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1.

    >>> LARS().trust_coefficient
    0.001
    """

    kind: ClassVar[str] = "lars"

    momentum: float = 0.9
    """Share of the last step that is kept, in [0, 1)."""
    weight_decay: float = 0.0
    """Factor of the weights that is added to the gradient, at least 0."""
    trust_coefficient: float = 0.001
    """Length of a layer's step as a share of its weights' norm, per lr, above 0."""
    epsilon: float = 1e-8
    """Added to the ratio's denominator, at least 0."""

    def __post_init__(self) -> None:
        check_range(self.kind, "momentum", self.momentum, 0, 1)
        check_range(self.kind, "weight_decay", self.weight_decay, 0)
        check_range(self.kind, "trust_coefficient", self.trust_coefficient, 1e-300)
        check_range(self.kind, "epsilon", self.epsilon, 0)


@dataclass(frozen=True, kw_only=True)
class LAMB(Adam):
    """Layer-wise adaptive Adam; biases and norms take the step without the ratio.

    ``r = m_hat/(sqrt(v_hat) + epsilon)``; ``w -= lr * |w|/|r + weight_decay*w| *
    (r + weight_decay*w)``, the ratio 1 where a norm is 0.

    Reference: You et al. 2019, arXiv 1904.00962, algorithm 2.

    >>> LAMB().epsilon
    1e-06
    """

    kind: ClassVar[str] = "lamb"

    epsilon: float = 1e-6
    """Added to the denominator, at least 0."""
    weight_decay: float = 0.01
    """Factor of the weights that is added to the direction, at least 0."""


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Muon for the hidden layers' matrices, AdamW for everything else.

    A matrix steps along its momentum, made orthogonal: all singular values become about 1.
    ``m = momentum*m + (1 - momentum)*g``; ``u = g + momentum*(m - g)`` with Nesterov, else
    ``m``; ``w -= lr*(0.2*sqrt(max(rows, columns))*orthogonal(u) + weight_decay*w)``. The
    factor makes the step about as long as AdamW's, so that one learning rate serves both.
    An LSTM's stacked weight is four matrices, one for each gate; each is made orthogonal by
    itself, and so are a GRU's three gates and the query, key and value of attention.

    Embeddings, the output layer, biases and norms take AdamW's steps, with `beta1`, `beta2`
    and `epsilon`.

    Reference: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks";
    the factor: Liu et al. 2025, arXiv 2502.16982, section 2.2. One matrix for each gate of
    an LSTM is ours.

    >>> Muon().adaptive
    True
    """

    kind: ClassVar[str] = "muon"
    adaptive: ClassVar[bool] = True
    decoupled: ClassVar[tuple[str, ...]] = ("weight_decay", "adamw_weight_decay")

    momentum: float = 0.95
    """Share of the gradient's average that is kept, in [0, 1)."""
    nesterov: bool = True
    """Look ahead: step along the gradient and its average, mixed once more."""
    weight_decay: float = 0.0
    """Share of a hidden matrix taken off per update, times lr, at least 0."""
    ns_steps: int = 5
    """Newton-Schulz iterations that make a matrix orthogonal, 1 to 99."""
    split_gates: bool = True
    """Make each gate of an LSTM or GRU, and attention's query, key and value, orthogonal by
    itself; False takes the stacked matrix as one."""
    adamw_lr_ratio: float = 1.0
    """AdamW's learning rate as a share of Muon's, above 0."""
    adamw_weight_decay: float = 0.0
    """Share of embeddings and output weights taken off per update, times AdamW's lr, at
    least 0; biases and norms are never decayed."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's average per update, in [0, 1)."""
    beta2: float = 0.95
    """AdamW's decay of the squared gradient's average per update, in [0, 1)."""
    epsilon: float = 1e-8
    """Added to AdamW's denominator, at least 0."""

    def __post_init__(self) -> None:
        for name in ("momentum", "beta1", "beta2"):
            check_range(self.kind, name, getattr(self, name), 0, 1)
        for name in ("weight_decay", "adamw_weight_decay", "epsilon"):
            check_range(self.kind, name, getattr(self, name), 0)
        check_range(self.kind, "adamw_lr_ratio", self.adamw_lr_ratio, 1e-300)
        check_count(self.kind, "ns_steps", self.ns_steps, most=99)
