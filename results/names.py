"""What the scripts beside this file share about the studies."""

STUDIES = {"gnmt-small": "translation"}
"""Folders of studies that are not called like their application."""

UNTIMED = {"gnmt-small"}
"""Applications whose runs are from before and after their code became faster, some in part:
their seconds are no comparison."""
