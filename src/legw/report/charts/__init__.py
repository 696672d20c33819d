"""Charts, one function each, in one style: schedules, comparisons, costs to a target, probes."""
