"""Base recipes that ship, each tuned at its base batch size only.

A recipe carries its number of examples (or of tokens), so that
`legw scale NAME -b N` can count updates before the application is installed.
"""

from __future__ import annotations

from legw.decays import Cosine, Exponential, Halving, Polynomial
from legw.errors import RecipeError, unknown_name
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Muon
from legw.recipe import Recipe

DIGITS_LSTM = Recipe(
    name="digits-lstm",
    batch_size=16,
    lr=0.1,
    epochs=30,
    warmup_epochs=0.25,
    optimizer=SGD(momentum=0.9),
    clip_norm=1.0,
    num_examples=1438,
    source="tuned at batch 16: results/digits-lstm/tuning",
)
"""scikit-learn's 8x8 digits, row by row: the demo. Tuned here, not taken from a table."""

MNIST_LSTM = Recipe(
    name="mnist-lstm",
    batch_size=128,
    lr=0.1,
    epochs=25,
    warmup_epochs=0.1,
    optimizer=SGD(momentum=0.9),
    clip_norm=1.0,
    num_examples=60000,
    source="tuned at batch 128: results/mnist-lstm/tuning; "
    "application of You et al. 2019, arXiv 1901.08256",
)
"""MNIST, row by row: the first application of arXiv 1901.08256. Tuned here, at 128 only."""


def _penn_treebank(
    name: str,
    *,
    window: int,
    clip_norm: float,
    constant: float,
    epochs: float,
    rate: float,
    warmup_epochs: float = 0.0,
    source: str = "",
) -> Recipe:
    return Recipe(
        name=name,
        batch_size=20,
        lr=1.0,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        clip_norm=clip_norm,
        decay=Exponential(rate=rate, constant_epochs=constant),
        num_tokens=929589,
        window_tokens=window,
        source="Zaremba et al. 2014, arXiv 1409.2329, section 4.1; TensorFlow's PTB tutorial"
        + source,
    )


PTB_SMALL = _penn_treebank(
    "ptb-small",
    window=20,
    clip_norm=5.0,
    constant=4,
    epochs=13,
    rate=0.5,
    warmup_epochs=0.1,
    source="; the warmup chosen at batch 20: results/ptb-small/tuning",
)
"""Two LSTM layers of 200 on the Penn Treebank: lr 1 for 4 of 13 epochs, then halved each
epoch; clip norm 5; windows of 20 tokens. The published recipe has no warmup, and LEGW would
then equal sqrt; 0.1 epoch was chosen at batch 20 by validation.

Reference: Zaremba et al. 2014, arXiv 1409.2329, section 4.1, "non-regularized LSTM", and
the small configuration of TensorFlow's PTB tutorial (test perplexity 115.91).
"""

PTB_SMALL_NESTEROV = Recipe(
    name="ptb-small-nesterov",
    batch_size=20,
    lr=0.05,
    epochs=13,
    warmup_epochs=0.1,
    optimizer=SGD(momentum=0.9, nesterov=True),
    clip_norm=5.0,
    decay=Polynomial(power=2.0, after_warmup=True),
    num_tokens=929589,
    window_tokens=20,
    source="rate, clip norm and decay tuned at batch 20: results/ptb-small-nesterov",
)
"""The same model with Nesterov momentum and a decay over the whole run. That this family
carries to 640 streams was known beforehand; its numbers were chosen at 20 alone."""

PTB_MEDIUM = _penn_treebank("ptb-medium", window=35, clip_norm=5.0, constant=6, epochs=39, rate=0.8)
"""Two LSTM layers of 650 on the Penn Treebank: lr 1 for 6 of 39 epochs, then times 0.8
each epoch; clip norm 5; windows of 35 tokens. The published recipe has no warmup.

Reference: Zaremba et al. 2014, arXiv 1409.2329, section 4.1, "medium LSTM", and the
medium configuration of TensorFlow's PTB tutorial (test perplexity 82.07).
"""

PTB_LARGE = _penn_treebank(
    "ptb-large", window=35, clip_norm=10.0, constant=14, epochs=55, rate=1 / 1.15
)
"""Two LSTM layers of 1500 on the Penn Treebank: lr 1 for 14 of 55 epochs, then divided by
1.15 each epoch; clip norm 10; windows of 35 tokens. The published recipe has no warmup.

Reference: Zaremba et al. 2014, arXiv 1409.2329, section 4.1, "large LSTM", and the large
configuration of TensorFlow's PTB tutorial (test perplexity 78.29).
"""

GNMT = Recipe(
    name="gnmt",
    batch_size=2048,
    lr=2.0e-3,
    epochs=8,
    warmup_epochs=200 * 2048 / 3534981,
    optimizer=Adam(),
    clip_norm=5.0,
    decay=Halving(begin=2 / 3, times=4),
    num_examples=3534981,
    source="MLPerf training, GNMT submission at batch 2048: lr 2.0e-3, 200 warmup updates "
    "(exponential there, linear here), Adam, 4 halvings in the last third",
)
"""WMT16 English-German, 3,534,981 sentence pairs, as submitted to MLPerf at batch 2048.

The tuned submissions beside it, always with 200 warmup updates: 3072 lr 2.875e-3, 8192
4.0e-3, 12288 4.5e-3, 16384 5.0e-3. LEGW says 2.45e-3, 4.0e-3, 4.9e-3 and 5.66e-3.
"""

GNMT_SMALL = Recipe(
    name="gnmt-small",
    batch_size=64,
    lr=1.0e-3,
    epochs=30,
    warmup_epochs=200 * 64 / 29000,
    optimizer=Adam(),
    clip_norm=5.0,
    decay=Halving(begin=2 / 3, times=4),
    num_examples=29000,
    source="tuned at batch 64: results/translation/tuning; "
    "the form of MLPerf's GNMT: 200 warmup updates, Adam, 4 halvings in the last third",
)
"""Multi30k English-German, 29,000 sentence pairs, with a GNMT of 2 + 2 layers of 256.
The rate is tuned here, at batch 64 only.
"""

GNMT_SMALL_SGD = Recipe(
    name="gnmt-small-sgd",
    batch_size=64,
    lr=16.0,
    epochs=30,
    warmup_epochs=200 * 64 / 29000,
    optimizer=SGD(),
    clip_norm=5.0,
    decay=Halving(begin=0.55, times=9),
    num_examples=29000,
    source="tuned at batch 64 over 8 epochs: results/translation/tuning-sgd; the form of "
    "TensorFlow NMT's GNMT (arXiv 1609.08144): SGD, nine halvings in the second half",
)
"""The same with plain SGD, as TensorFlow NMT trained GNMT: halved in the second half of the
run. Its rate of 1.0 is for a loss divided by sentences, of 17.5 subwords on average here, where
ours is divided by subwords. The warmup is ours: the published recipe has none, and without one
LEGW equals sqrt.
"""

RESNET50_IMAGENET = Recipe(
    name="resnet50-imagenet",
    batch_size=512,
    lr=4.0,
    epochs=90,
    warmup_epochs=10 / 64,
    optimizer=LARS(momentum=0.9, weight_decay=1e-4, trust_coefficient=1e-3, epsilon=1e-5),
    decay=Polynomial(power=2.0),
    num_examples=1281167,
    source="You et al. 2019, arXiv 1901.08256: LARS, batch 512 to 32K",
)
"""ImageNet, ResNet-50 with LARS: lr 2**2 at 512 to 2**5 at 32K, always 391 warmup updates.

Reference: the ImageNet table of You et al. 2019, arXiv 1901.08256 (lr 2**2, 2**2.5, ...
2**5 and warmup 10/64, 10/32, ... 10 epochs at 512, 1K, ... 32K).
"""

RESNET50_IMAGENET_LAMB = Recipe(
    name="resnet50-imagenet-lamb",
    batch_size=512,
    lr=4e-2 / 2**3,
    epochs=90,
    warmup_epochs=0.3125,
    optimizer=LAMB(weight_decay=0.01, epsilon=1e-6),
    decay=Polynomial(power=1.0),
    num_examples=1281167,
    source="You et al. 2019, arXiv 1904.00962: ResNet-50, untuned LAMB, batch 512 to 32K",
)
"""ImageNet, ResNet-50 with LAMB: lr 4e-2/2**x, x from 3 at 512 to 0 at 32K in steps of 0.5,
warmup 0.3125 epochs at 512, doubling with the batch to 20 at 32K.

Reference: the untuned LAMB recipes of You et al. 2019, arXiv 1904.00962.
"""

CIFAR10 = Recipe(
    name="cifar10",
    batch_size=512,
    lr=0.8,
    epochs=24,
    warmup_epochs=0.25,
    optimizer=LARS(momentum=0.9, weight_decay=5e-4, trust_coefficient=1e-2, epsilon=1e-5),
    decay=Polynomial(power=2.0),
    num_examples=50000,
    source="not tuned yet; LARS as in arXiv 1901.08256",
)
"""CIFAR-10, ResNet-18 with LARS: the form of ResNet-50's recipe. Not tuned yet.

The trust coefficient is 10 times the usual one, and lr so much smaller: weights step as
far, and biases and norms, which LARS leaves to plain momentum, not 10 times too far.
The base values are the middle of the grid until the tuning is in.
"""

CIFAR10_MOMENTUM = Recipe(
    name="cifar10-momentum",
    batch_size=512,
    lr=0.2,
    epochs=24,
    warmup_epochs=0.25,
    optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=5e-4),
    decay=Cosine(),
    num_examples=50000,
    source="not tuned yet; cosine as in arXiv 1608.03983",
)
"""CIFAR-10, ResNet-18 with Nesterov momentum and a cosine. Not tuned yet."""

CIFAR10_SMALL = Recipe(
    name="cifar10-small",
    batch_size=128,
    lr=1.6,
    epochs=10,
    warmup_epochs=0.125,
    optimizer=LARS(momentum=0.9, weight_decay=5e-4, trust_coefficient=1e-2, epsilon=1e-5),
    decay=Polynomial(power=2.0),
    num_examples=50000,
    source="rate tuned at batch 128: results/cifar10/tuning; LARS as in arXiv 1901.08256",
)
"""CIFAR-10 for two CPU cores: a residual net of 309,000 weights with LARS, 10 epochs."""

CIFAR10_SMALL_MOMENTUM = Recipe(
    name="cifar10-small-momentum",
    batch_size=128,
    lr=0.4,
    epochs=10,
    warmup_epochs=0.125,
    optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=5e-4),
    decay=Cosine(),
    num_examples=50000,
    source="rate tuned at batch 128: results/cifar10-momentum/tuning",
)
"""The same with Nesterov momentum and a cosine."""

BERT_LAMB = Recipe(
    name="bert-lamb",
    batch_size=512,
    lr=5e-3 / 2**3,
    epochs=1,
    warmup_epochs=1 / 320,
    optimizer=LAMB(weight_decay=0.01, epsilon=1e-6),
    decay=Polynomial(power=1.0),
    num_examples=512_000_000,
    source="You et al. 2019, arXiv 1904.00962: BERT, untuned LAMB, batch 512 to 32K; "
    "the whole run counted as one epoch of 512,000,000 sequences",
)
"""BERT with LAMB: lr 5e-3/2**x, x from 3 at 512 to 0 at 32K in steps of 0.5, warmup 1/320
of the run at 512, doubling with the batch to 1/5 at 32K. The run is one epoch.

Reference: the untuned LAMB recipes of You et al. 2019, arXiv 1904.00962.
"""

DIGITS_LSTM_MUON = Recipe(
    name="digits-lstm-muon",
    batch_size=16,
    lr=0.01,
    epochs=60,
    warmup_epochs=0.0625,
    optimizer=Muon(momentum=0.9, adamw_lr_ratio=0.5),
    clip_norm=1.0,
    decay=Polynomial(power=1.0, after_warmup=True),
    num_examples=1438,
    source="tuned at batch 16: results/digits-lstm-muon/tuning",
)
"""The digits with a base that carries: Muon for each gate, images shifted by up to one pixel,
linear decay."""

MNIST_LSTM_MUON = Recipe(
    name="mnist-lstm-muon",
    batch_size=128,
    lr=0.0025,
    epochs=25,
    warmup_epochs=0.03,
    optimizer=Muon(momentum=0.9, adamw_lr_ratio=0.5),
    clip_norm=1.0,
    decay=Polynomial(power=1.0, after_warmup=True),
    num_examples=60000,
    source="tuned at batch 128: results/mnist-lstm-muon/tuning; "
    "application of You et al. 2019, arXiv 1901.08256",
)
"""MNIST-LSTM with a base that carries: Muon for each gate, images shifted by up to two
pixels, linear decay."""

PTB_SMALL_MUON = Recipe(
    name="ptb-small-muon",
    batch_size=20,
    lr=0.01,
    epochs=13,
    warmup_epochs=0.03,
    optimizer=Muon(momentum=0.9, adamw_lr_ratio=0.5, beta2=0.999),
    clip_norm=5.0,
    decay=Polynomial(power=1.0, after_warmup=True),
    num_tokens=929589,
    window_tokens=20,
    source="tuned at batch 20, over 4 epochs: results/ptb-small-muon/beta2, then its rate: "
    "results/ptb-small-muon/tuning; model of Zaremba et al. 2014, arXiv 1409.2329",
)
"""The small model of the Penn Treebank with a base that carries: Muon for each gate,
dropout, linear decay."""

GNMT_SMALL_MUON = Recipe(
    name="gnmt-small-muon",
    batch_size=64,
    lr=0.002,
    epochs=30,
    warmup_epochs=0.125,
    optimizer=Muon(momentum=0.95, beta2=0.999),
    clip_norm=5.0,
    decay=Polynomial(power=1.0, after_warmup=True),
    num_examples=29000,
    source="not tuned yet: the rate is that of trials at 1024, scaled back, and beta2 is for some "
    "900 words an update; Muon beside the warmup of arXiv 1901.08256",
)
"""Multi30k with a base that carries: Muon for each gate, linear decay."""

CIFAR10_SMALL_MUON = Recipe(
    name="cifar10-small-muon",
    batch_size=128,
    lr=0.02,
    epochs=10,
    warmup_epochs=0.0625,
    optimizer=Muon(momentum=0.9, weight_decay=0.05, adamw_weight_decay=0.05),
    decay=Polynomial(power=1.0, after_warmup=True),
    num_examples=50000,
    source="rate tuned at batch 128: results/cifar10-small-muon/tuning; "
    "Muon beside the warmup of arXiv 1901.08256",
)
"""CIFAR-10 for two CPU cores with a base that carries: Muon on the flattened convolutions."""

GPT_SMALL = Recipe(
    name="gpt-small",
    batch_size=16,
    lr=2e-3,
    steps=5448,
    warmup_steps=100,
    optimizer=AdamW(beta2=0.95, weight_decay=0.1),
    clip_norm=1.0,
    decay=Cosine(),
    num_examples=14525,
    tokens_per_example=64,
    source="rate tuned at batch 16: results/gpt-small/tuning; "
    "AdamW, clip norm and cosine as in GPT-3, arXiv 2005.14165, appendix B",
)
"""A decoder of four pre-norm blocks on the Penn Treebank, in windows of 64 words: 1,024 a batch.
Its length is in updates, as recipes of transformers have it: 5,448 are six epochs. The rate is
tuned here, at batch 16 only.
"""

GPT_SMALL_MUON = Recipe(
    name="gpt-small-muon",
    batch_size=16,
    lr=4e-3,
    steps=5448,
    warmup_steps=100,
    optimizer=Muon(momentum=0.95, weight_decay=0.1, adamw_lr_ratio=0.5, beta2=0.999),
    clip_norm=1.0,
    decay=Polynomial(power=1.0, after_warmup=True),
    num_examples=14525,
    tokens_per_example=64,
    source="rate tuned at batch 16: results/gpt-small-muon/tuning, and with beta2=0.95 "
    "tuning-beta2-0.95; Muon with weight decay as in arXiv 2502.16982",
)
"""The same with Muon for queries, keys, values, outputs and MLPs, AdamW for the table of words,
and a linear decay."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DIGITS_LSTM, DIGITS_LSTM_MUON, MNIST_LSTM, MNIST_LSTM_MUON,
        PTB_SMALL, PTB_SMALL_NESTEROV, PTB_SMALL_MUON, PTB_MEDIUM, PTB_LARGE,
        GNMT_SMALL, GNMT_SMALL_SGD, GNMT_SMALL_MUON, GNMT,
        RESNET50_IMAGENET, RESNET50_IMAGENET_LAMB, CIFAR10, CIFAR10_MOMENTUM,
        CIFAR10_SMALL, CIFAR10_SMALL_MOMENTUM, CIFAR10_SMALL_MUON, BERT_LAMB,
        GPT_SMALL, GPT_SMALL_MUON,
    )
}  # fmt: skip
"""The recipes that ship, by name."""


def find(name: str) -> Recipe:
    """Return the shipped recipe of this name.

    Raises:
        RecipeError: there is none; the line names the nearest.

    >>> find("mnist-lstm").batch_size
    128
    """
    if name not in RECIPES:
        raise RecipeError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]
