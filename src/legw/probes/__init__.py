"""Probes: what they measure, and never steer. Needs torch."""

from __future__ import annotations

from legw.probes.curvature import CurvatureProbe
from legw.probes.noise import NoiseProbe

__all__ = ["CurvatureProbe", "NoiseProbe"]
