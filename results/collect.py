"""Copy what is small of a study's folder to a place beside this file, for the repository.

    python results/collect.py runs/mnist-lstm-study results/mnist-lstm

takes study.json and table.json, and of each run the manifest, the summary, all
evaluations and up to 200 of the updates (or as many as a third word says), evenly spaced,
and translation.json (how BLEU was measured) where it is there; no checkpoints. What comes
out is a study's folder itself: `legw report results/mnist-lstm` draws it. A folder `runs` of runs
that `legw train` made has neither table.json nor study.json.
"""

import json
import re
import shutil
import sys
from pathlib import Path

MAX_UPDATES = 200


def collect(study: Path, place: Path, most_updates: int = MAX_UPDATES) -> None:
    """Copy a study's small files, with up to so many updates of each run."""
    place.mkdir(parents=True, exist_ok=True)
    if (study / "study.json").exists():
        shutil.copyfile(study / "table.json", place / "table.json")
        described = json.loads((study / "study.json").read_text())
        # Where the runs lay on the machine that made them is nobody's business.
        described["command"] = re.sub(r" --out \S+", "", described["command"])
        (place / "study.json").write_text(json.dumps(described, indent=2) + "\n")
    for run in sorted((study / "runs").iterdir()):
        summary = run / "summary.json"
        if not summary.exists() or json.loads(summary.read_text()).get("status") == "interrupted":
            print(f"{run.name}: has not ended; left out")
            continue
        into = place / "runs" / run.name
        into.mkdir(parents=True, exist_ok=True)
        for name in ("manifest.json", "summary.json"):
            shutil.copyfile(run / name, into / name)
        if (run / "translation.json").exists():
            shutil.copyfile(run / "translation.json", into / "translation.json")
        metrics = (run / "metrics.jsonl").read_text()
        (into / "metrics.jsonl").write_text(thinned(metrics, most_updates))


def thinned(metrics: str, most_updates: int = MAX_UPDATES) -> str:
    """Return every evaluation and up to so many updates, the first and the last among them."""
    rows = [(line, json.loads(line)) for line in metrics.splitlines()]
    updates = [row["update"] for _, row in rows if row["kind"] == "update"]
    step = max(1, -(-len(updates) // most_updates))
    kept = {*updates[::step], *updates[-1:]}
    lines = [line for line, row in rows if row["kind"] != "update" or row["update"] in kept]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
