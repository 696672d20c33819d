"""Parameter groups for Muon: its own tensors, and those left to AdamW.

Muon is for the matrices between hidden layers. Embeddings, the output layer, biases and
norms are left to AdamW: their rows are used unequally often, or they are no matrices.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn import Parameter

from legw import optimizers
from legw.errors import LegwWarning, RecipeError, unknown_name
from legw.train.multi_tensor import Group

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip

GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}
"""Number of matrices that lie one above the other in a recurrent layer's weights."""


UNKNOWN = "unknown"
"""Beginning of the reason for a matrix of a module that is not known."""

MAX_NAMES = 6
"""Names of unknown matrices in a warning."""


@dataclass(frozen=True)
class Choice:
    """Optimizer of one parameter, and the reason."""

    name: str
    parameter: Parameter
    use_muon: bool
    split: int
    """Matrices that lie one above the other in it, each made orthogonal by itself; at least 1."""
    why: str
    """Hidden, embedding, output layer, bias or norm, excluded, or unknown: a matrix of a module
    that is not known, which is named: ``unknown (Rotary)``."""
    transposed: bool = False
    """Whether its matrices lie side by side: a weight of shape (in, out), as GPT-2 has them."""


def muon_choices(
    model: nn.Module,
    *,
    output: str | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
) -> list[Choice]:
    """Decide for each parameter of a model whether Muon takes it, and as how many matrices.

    Muon takes the weights of linear layers (Hugging Face's `Conv1D` is one), convolutions,
    recurrent layers and attention. It never takes an embedding (tied weights are embeddings
    too), a bias, a norm, the output layer, or, unless `split` names it, a parameter of a
    module that it does not know.

    Args:
        model: parameters that need no gradient are left out, shared ones come once.
        output: name of the output layer, as `model.named_modules` has it. None is the
            linear layer that was registered last; an empty text says that there is none.
        exclude: names of parameters or modules that AdamW is to have; may hold ``*``.
        split: names of parameters (may hold ``*``), and of how many matrices of as many rows
            each is made, for modules that stack them, as ``{"*.qkv.weight": 3}``. It goes
            before what is known of the module, and gives Muon what is not known.

    Raises:
        RecipeError: a name fits nothing in the model, or a split does not divide a tensor.
    """
    output = _last_linear(model) if output is None else output
    kinds = _kinds(model)
    _check_names(model, output, exclude, split or {})
    choices = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        why, parts, transposed = kinds[id(parameter)]
        named = next((n for each, n in (split or {}).items() if fnmatchcase(name, each)), None)
        if named is not None and (parts or why.startswith(UNKNOWN)):
            why, parts = "hidden", named
        if parts and output and name.startswith(f"{output}."):
            why, parts = "output layer", 0
        if _fits(name, exclude) and (parts or why.startswith(UNKNOWN)):
            why, parts = "excluded", 0
        choices.append(Choice(name, parameter, parts > 0, max(parts, 1), why, transposed))
    return choices


def muon_groups(
    model: nn.Module,
    data: optimizers.Muon | None = None,
    lr: float = 1.0,
    *,
    output: str | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
) -> list[Group]:
    """Return the parameter groups of a model for `Muon`; `described` says what is in them.

    Args:
        model: see `muon_choices`, as for the arguments below.
        data: settings of the groups; None takes the defaults.
        lr: Muon's learning rate; AdamW's groups have ``lr*adamw_lr_ratio``.
        output: see `muon_choices`.
        exclude: see `muon_choices`.
        split: see `muon_choices`.

    Returns:
        Groups of (name, parameter) pairs: hidden matrices by the number of parts, then
        AdamW's weights, then its biases and norms, which are not decayed. An empty group
        is left out.

    Raises:
        RecipeError: a name fits nothing in the model, or a split does not divide a tensor.

    Warns:
        LegwWarning: matrices go to AdamW because their modules are not known.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> [(group["use_muon"], len(group["params"])) for group in muon_groups(model)]
    [(True, 1), (False, 1), (False, 2)]
    """
    data = data or optimizers.Muon()
    choices = muon_choices(model, output=output, exclude=exclude, split=split)
    groups: list[Group] = []
    hidden = [choice for choice in choices if choice.use_muon]
    for parts, transposed in sorted({_parts(choice, data) for choice in hidden}):
        own = [choice for choice in hidden if _parts(choice, data) == (parts, transposed)]
        settings = {"transposed": True} if transposed else {}
        groups.append(_group(own, lr=lr, use_muon=True, split=parts, **settings))
    rest = [choice for choice in choices if not choice.use_muon]
    for flat, decay in ((False, data.adamw_weight_decay), (True, 0.0)):
        own = [choice for choice in rest if (choice.parameter.ndim < 2) is flat]
        groups.append(_group(own, lr=lr * data.adamw_lr_ratio, use_muon=False, weight_decay=decay))
    _warn_of_unknown(rest)
    return [group for group in groups if group["params"]]


def described(groups: Sequence[Group]) -> list[str]:
    """Return a line for each group of `muon_groups`: which optimizer has which tensors.

    >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> described(muon_groups(model))
    ['Muon: 0.weight', 'AdamW: 1.weight']
    """
    lines = []
    for group in groups:
        parts = f" (each as {group['split']} matrices)" if group.get("split", 1) > 1 else ""
        names = ", ".join(name for name, _ in group["params"])
        lines.append(f"{'Muon' if group['use_muon'] else 'AdamW'}{parts}: {names}")
    return lines


def _warn_of_unknown(choices: Sequence[Choice]) -> None:
    names = [f"{each.name}: {each.why}" for each in choices if each.why.startswith(UNKNOWN)]
    if names:
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        said = f"{', '.join(names[:MAX_NAMES])}{more}"
        warnings.warn(
            f"muon: AdamW takes matrices of modules that are not known ({said}); "
            "name them in split of muon_groups ({name: 1}) for Muon, or in exclude for AdamW",
            LegwWarning,
            stacklevel=3,
        )


def _parts(choice: Choice, data: optimizers.Muon) -> tuple[int, bool]:
    """Return the matrices of a weight, and whether they lie side by side; one lies either way."""
    parts = choice.split if data.split_gates else 1
    return parts, choice.transposed and parts > 1


def _group(choices: Sequence[Choice], **settings: object) -> Group:
    return {"params": [(each.name, each.parameter) for each in choices], **settings}


def _last_linear(model: nn.Module) -> str:
    """Return the name of the linear layer that was registered last; empty if there is none."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def _kinds(model: nn.Module) -> dict[int, tuple[str, int, bool]]:
    """Return (kind, number of matrices, transposed) of each parameter; AdamW has 0 matrices."""
    kinds: dict[int, tuple[str, int, bool]] = {}
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = _kind(module, f"{place}.{name}", parameter)
            if kinds.get(id(parameter), ("", 1, False))[1]:  # AdamW, once said, stays
                kinds[id(parameter)] = kind
    return kinds


def _kind(module: nn.Module, path: str, parameter: Parameter) -> tuple[str, int, bool]:
    name = path.rpartition(".")[2]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding", 0, False
    if parameter.ndim < 2:
        return "bias or norm", 0, False
    parts, transposed = 0, _is_transposed(module, parameter)
    if transposed:
        rows, columns = parameter.shape
        stacked = path.endswith(".c_attn.weight") and columns % rows == 0  # q, k, v; or k, v
        parts = columns // rows if stacked else 1
    elif isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        parts = 1
    elif isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight"):
        parts = 3 if name == "in_proj_weight" else 1
    elif name.startswith("weight_hr"):  # an LSTM's projection of its output is one matrix
        parts = 1
    elif name.startswith("weight_"):
        parts = next((gates for kind, gates in GATES.items() if isinstance(module, kind)), 0)
    return "hidden" if parts else f"{UNKNOWN} ({type(module).__name__})", parts, transposed


def _is_transposed(module: nn.Module, parameter: Parameter) -> bool:
    """Say whether this is the weight of Hugging Face's `Conv1D`: a linear layer's, (in, out)."""
    named = any(each.__name__ == "Conv1D" for each in type(module).__mro__)
    return named and parameter.ndim == 2 and parameter.shape[1] == getattr(module, "nf", None)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a parameter, or a module that it lies in, has one of these names."""
    pieces = name.split(".")
    names = [".".join(pieces[: end + 1]) for end in range(len(pieces))]
    return any(fnmatchcase(each, pattern) for each in names for pattern in patterns)


def _check_names(
    model: nn.Module, output: str, exclude: Sequence[str], split: Mapping[str, int]
) -> None:
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]
    if output and output not in modules:
        raise RecipeError(f"muon: {unknown_name('output layer', output, modules)}")
    for pattern in exclude:
        if not any(_fits(name, [pattern]) for name in parameters):
            raise RecipeError(f"muon: exclude: {unknown_name('name', pattern, parameters)}")
    for pattern in split:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise RecipeError(f"muon: split: {unknown_name('name', pattern, parameters)}")
