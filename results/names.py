"""What the scripts beside this file share about the studies."""

STUDIES = {"gnmt-small": "translation"}
"""Folders of studies that are not called like their application."""

OLDER_GPT = "gpt-small-muon-beta2-0.95"
"""The study of the transformer's base as it was, with a memory too short for rare words: what it
shows of them stays."""

UNTIMED = {"gnmt-small", "gpt-small", "gpt-small-muon", "ptb-small-muon"}
"""Applications whose seconds are no comparison: their runs are from before and after their code
became faster, or had other work beside them."""

CARRYING = {
    "MNIST-LSTM": (8192, "0.001", "mnist-lstm-muon", "mnist-lstm"),
    "PTB-small": (640, "3%", "ptb-small-muon", "ptb-small"),
    "translation (gnmt-small)": (1024, "1", "gnmt-small-muon", "translation"),
    "CIFAR-10 (small net)": (2048, "0.02", "cifar10-small-muon", "cifar10"),
    "transformer (gpt-small)": (256, "1%", "gpt-small-muon", "gpt-small"),
    "digits": (512, "0.015", "digits-lstm-muon", "digits-lstm"),
}
"""Each application: the batch at which its bases are compared, how much worse than the base
still counts as kept there, and the studies: of the base that is to carry, and of the base in
the paper's form, or for the transformer, which the paper does not have, in the usual one."""
