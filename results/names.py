"""What the scripts beside this file share about the studies."""

STUDIES = {"gnmt-small": "translation"}
"""Folders of studies that are not called like their application."""

UNTIMED = {"gnmt-small", "gpt-small", "gpt-small-muon"}
"""Applications whose seconds are no comparison: their runs are from before and after their code
became faster, or had other work beside them."""
