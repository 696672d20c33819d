"""Micro-batch size: its candidates, the fastest of them by measurement, and what was measured."""
