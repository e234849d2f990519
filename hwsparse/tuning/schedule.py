"""How zeros grow while a module is trained: fast at first, while many weights do little, and ever slower.

Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", ICLR 2018 workshop,
equation 1, from a dense network on: s(t) = s_f + (0 - s_f) (1 - t / T)^3.
"""

from __future__ import annotations

from hwsparse.pattern import NM
from hwsparse.plan import Choice


def growing(choice: Choice, progress: float) -> Choice:
    """What a layer is on its way to `choice`; `progress` is t / T, from 0 on.

    N:M keeps M and comes down from M:M, one input at a time, so that every step is a pattern.
    """
    left = (1 - min(max(progress, 0.0), 1.0)) ** 3
    if choice.is_dense or left == 1:
        return Choice()
    ratio = choice.ratio * (1 - left)
    if isinstance(choice.pattern, NM):
        n, m, shared = choice.pattern.n, choice.pattern.m, choice.pattern.shared
        kept = max(n, m - int(m * ratio + 1e-9))
        return Choice() if kept == m else Choice(NM(kept, m, shared), 1 - kept / m, choice.dtype)
    return Choice(choice.pattern, ratio, choice.dtype)
