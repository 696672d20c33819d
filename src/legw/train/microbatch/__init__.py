"""Micro-batch size: its candidates, their timing, and a cache of the results."""
