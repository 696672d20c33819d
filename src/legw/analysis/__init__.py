"""Analysis: results computed from finished runs and measurements, without torch."""
