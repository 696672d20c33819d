"""Rate of a branch: it rises again at its start, and may cool down to 0 at its end.

A branch goes on from another run's weights at another batch size and so at another rate. The rise
is a warmup. The cooldown compares branches fairly: a rate that stays high keeps a part of the loss
that only its noise makes, which is smaller at a larger batch, whatever the progress was.
"""

from __future__ import annotations

import math

COOLDOWN = 0.5
"""Default share of a branch's updates over which its rate falls to 0."""

MAX_COOLDOWN = 0.9
"""Largest such share: a branch also trains at its whole rate."""


def share_of_rate(
    update: int, updates: int, *, warmup_updates: int = 0, cooldown: float = 0.0
) -> float:
    """Return the factor of a branch's rate in an update, in (0, 1].

    Args:
        update: number of the update in the branch, from 0 on.
        updates: of the whole branch, at least 1.
        warmup_updates: updates in which the rate rises, at least 0.
        cooldown: share of the updates over which it falls linearly to 0, in [0, 1].

    >>> [share_of_rate(update, 8, warmup_updates=2, cooldown=0.5) for update in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    risen = min((update + 1) / max(warmup_updates, 1), 1.0)
    falling = cooldown * updates
    return risen * (min((updates - update) / falling, 1.0) if falling else 1.0)


def compared_from(updates: int, cooldown: float = 0.0) -> int:
    """Return the first update in which a branch's loss is compared with another's.

    It is the middle of the branch, or of its cooldown where it has one.

    >>> compared_from(40), compared_from(40, cooldown=0.5)
    (20, 30)
    """
    return updates - math.ceil(updates * (cooldown or 1.0) / 2)
