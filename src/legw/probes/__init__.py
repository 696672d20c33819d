"""Probes: measurements during a run that never steer it, and runs made for them. Needs torch."""

from __future__ import annotations

from legw.probes.assumptions import check_assumptions
from legw.probes.batch_plan import BatchPlan, plan_batch_size
from legw.probes.branch_plan import Branching, plan_branches
from legw.probes.branches import measure_critical
from legw.probes.curvature import CurvatureProbe
from legw.probes.headroom import Headroom, measure_headroom
from legw.probes.ladder import measure_curvature, measure_noise
from legw.probes.noise import NoiseProbe
from legw.probes.own_loop import Branches, NoiseScale
from legw.probes.tuning import TunedBase, Tuning, plan_tuning, tune_base

__all__ = [
    "BatchPlan", "Branches", "Branching", "CurvatureProbe", "Headroom", "NoiseProbe",
    "NoiseScale", "TunedBase", "Tuning", "check_assumptions", "measure_critical",
    "measure_curvature", "measure_headroom", "measure_noise", "plan_batch_size", "plan_branches",
    "plan_tuning", "tune_base",
]  # fmt: skip
