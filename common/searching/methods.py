"""How a search proposes trials and stops poor ones: W&B's methods, by Optuna's samplers and a pruner of ours."""

import os
import platform
import zlib

import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from common.searching.storage import Storage, sign_of


class Bands(optuna.pruners.BasePruner):
    """Hyperband's successive halving as W&B does it (Li et al., 2018): of those at a band all but the best 1 / eta end.

    The threshold is taken from the values at the band of all trials that have got there, and is compared, after
    every epoch, with the best value of a trial so far, or if `is_strict` with its value at the band.
    """

    def __init__(self, bands: list[int], eta: float, is_strict: bool = False):  # bands: increasing epochs
        self.bands, self.eta, self.is_strict = bands, eta, is_strict

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether `trial` is worse than the threshold of the last band that it has reached."""
        mine, sign = trial.intermediate_values, sign_of(study)
        reached = [band for band in self.bands if band in mine]
        if not reached:
            return False
        states = (TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        others = [other.intermediate_values for other in study.get_trials(deepcopy=False, states=states)]
        values = sorted(sign * values[reached[-1]] for values in others if reached[-1] in values)
        value = sign * mine[reached[-1]] if self.is_strict else min(sign * value for value in mine.values())
        return value > values[int(len(values) / self.eta)]


def sampler_for(method: str, bayes: str, seed: int, storage: Storage) -> BaseSampler:
    """Return what proposes trials, going on from an earlier start; `bayes` is "tpe" (Bergstra et al., 2011) or "gp"."""
    key = f"{seed} {len(storage.study.get_trials(deepcopy=False))}"
    if storage.is_shared:
        key += f" {platform.node()} {os.getpid()}"  # machines that begin together must not propose the same
    sampler = RandomSampler if method != "bayes" else GPSampler if bayes == "gp" else TPESampler
    return sampler(seed=zlib.crc32(key.encode()))
