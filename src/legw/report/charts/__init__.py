"""Charts, one function each: schedules, comparisons, costs to a target, probes."""
