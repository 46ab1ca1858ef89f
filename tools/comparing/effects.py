"""What each option does by itself, over all settings of the others: for `--by` with several options."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tools.comparing.contrasts import Effect, Family
from tools.comparing.estimates import Arm, difference
from tools.comparing.groups import Group


def find_effects(
    groups: Sequence[Group], options: Sequence[str], baseline: Sequence[Group] = (), margin: float | None = None
) -> list[Effect]:
    """Return what each value of each of the `options` adds to its first value, or to the baseline's.

    Groups that differ in the option alone are compared, by seed, and the mean is over all such pairs; whether one
    option helps another is not asked. All effects of a data set are corrected together.
    """
    effects, has_several = [], len({group.dataset for group in groups}) > 1
    for dataset in dict.fromkeys(group.dataset for group in groups):
        known = [group for group in groups if group.dataset == dataset and group.values]
        named = next((group for group in baseline if group in known), None)
        found = [one for option in options for one in _of_option(known, option, named)]
        estimates = [difference(*arms) for *_, arms in found]
        family = Family(sum(one.has_test for one in estimates), is_chosen=False)
        corrected = family.corrected_p_values(estimates, margin)
        for (title, sides, _), estimate, (p, p_equivalent) in zip(found, estimates, corrected, strict=True):
            where = f", {dataset}" if has_several else ""
            title, sides = title + where, (sides[0] + where, sides[1])
            effects.append(Effect(title, sides, estimate, family, p, margin, p_equivalent))
    return effects


def _of_option(
    groups: Sequence[Group], option: str, named: Group | None
) -> list[tuple[str, tuple[str, str], tuple[Arm, Arm]]]:
    """Return of each effect of an option the title, the two sides in words, and their two arms."""
    value_of = {group: group.settings[option] for group in groups}
    order = sorted(set(value_of.values()), key=_in_order)
    first = value_of[named] if named else next(iter(order), None)
    cells = defaultdict(dict)  # the settings of all else -> value of the option -> group
    for group in groups:
        cells[tuple(item for item in group.settings.items() if item[0] != option)][value_of[group]] = group
    effects = []
    for value in order:
        pairs = [(cell[value], cell[first]) for cell in cells.values() if value in cell and first in cell]
        arms = _mean_arms(pairs)
        if value != first and arms[0].values:
            over = f", mean over {len(pairs)} settings of the rest" if len(pairs) > 1 else ""
            effects.append((f"{option} {value} against {first}{over}", (f"{option} {value}", first), arms))
    return effects


def _mean_arms(pairs: Sequence[tuple[Group, Group]]) -> tuple[Arm, Arm]:
    """Return two arms: of each seed the means over those pairs of groups that both have it."""
    arms = [(one.arm, other.arm) for one, other in pairs]
    shared = {seed: [pair for pair in arms if all(seed in arm.values for arm in pair)]
              for pair in arms for seed in pair[0].values}  # fmt: skip
    return tuple(_mean_arm({seed: [pair[side] for pair in some] for seed, some in shared.items() if some})
                 for side in (0, 1))  # fmt: skip


def _mean_arm(arms: dict[str, list[Arm]]) -> Arm:
    """Return the mean of some arms for each seed."""
    values = {seed: float(np.mean([arm.values[seed] for arm in some])) for seed, some in arms.items()}
    moves = {seed: np.mean([arm.moves[seed] for arm in some], axis=0)
             for seed, some in arms.items() if all(seed in (arm.moves or ()) for arm in some)}  # fmt: skip
    every = [arm for some in arms.values() for arm in some]
    epochs, luck = max((arm.epochs for arm in every), default=1), float(np.mean([arm.luck for arm in every] or [0.0]))
    return Arm(values, moves, epochs, luck, max((arm.overlap for arm in every), default=0.0))


def _in_order(value: str) -> tuple[int, float, str]:
    """Return a key by which numbers come before names."""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value
