"""Analysis: what finished runs and measurements say. Needs no torch."""
