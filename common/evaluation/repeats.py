"""What runs of one recipe come to together."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.05  # two-sided: intervals are of 95 %


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean of normal values (Student, 1908), None of less than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    margin = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - margin), float(np.mean(values) + margin)
