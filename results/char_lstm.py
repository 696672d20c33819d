"""Train the tutorial's script with another seed, rate or rule: the numbers of docs/char-lstm.md.

    python results/char_lstm.py --rate 4 --seeds 0,1,2               # char_lstm.py, batch 8
    python results/char_lstm.py --rule legw --warmup 0.1 --seeds 0,1,2    # char_lstm_large.py
    python results/char_lstm.py --rule sqrt --seeds 0,1,2            # fixed, linear: the same way

One line a seed, then the mean over them. The scripts are taken from examples/ and run with
these changes in their text; the seed is set again after the text is cut up.
"""

import argparse
import contextlib
import io
import re
from pathlib import Path

import torch

from legw.analysis.stats import estimate

EXAMPLES = Path(__file__).parents[1] / "examples"


def changed(rule: str, rate: float, warmup: float, seed: int) -> str:
    """Return the script's text: the base's without a rule, the large batch's with one."""
    name = "char_lstm_large.py" if rule else "char_lstm.py"
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    changes = {"EPOCHS, LR = 32, 16, 4.0": f"EPOCHS, LR = 32, 16, {rate}",
               "\nclass CharLSTM": f"\ntorch.manual_seed({seed})\nclass CharLSTM"}  # fmt: skip
    if rule:
        changes["warmup_epochs=0.1), BATCH := 128)"] = (
            f"warmup_epochs={warmup}), BATCH := 128, {rule!r})"
        )
    for before, after in changes.items():
        if text.count(before) != 1:
            raise SystemExit(f"{name}: has no single {before!r}")
        text = text.replace(before, after)
    return text


def loss(script: str) -> float:
    """Return the validation loss of a script's last epoch."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(script, "char_lstm", "exec"), {"__name__": "__main__"})
    return float(re.findall(r"validation loss ([\d.]+)", said.getvalue())[-1])


def main() -> None:
    """Train once a seed and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", default="", help="the base's script if not given")
    parser.add_argument("--rate", type=float, default=4.0, help="at batch 8")
    parser.add_argument("--warmup", type=float, default=0.0, help="epochs at batch 8")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    losses = []
    for seed in map(int, options.seeds.split(",")):
        losses.append(loss(changed(options.rule, options.rate, options.warmup, seed)))
        print(f"seed {seed}: {losses[-1]:.3f}", flush=True)
    found = estimate(losses)
    spread = "" if found.half_width is None else f" ± {found.half_width:.3f}"
    print(f"mean {found.mean:.3f}{spread}, n = {found.n}")


if __name__ == "__main__":
    main()
