"""What a resume goes on from: the newest intact state of this very run, beside the weights of its best epoch."""

from collections.abc import Iterator
from pathlib import Path

from common.runs.folder import read_config
from common.runs.history import best_record
from common.runs.state import weights_sha256
from common.system.checkpoints import Damaged, load_checkpoint
from common.system.log import warn

STATE_KEYS = {"model", "optimizer", "schedule", "scaler", "history"}


def newest_state(folder: Path) -> tuple[dict | None, dict | None]:
    """Return the newest saved state of a run that can be used, and the weights that best.pth should hold and does not.

    Each is None if there is none. A state is of use if the weights of the best epoch so far are there too: in best.pth,
    or in a state that was saved at the end of that epoch.
    """
    run_id = read_config(folder).get("run_id")
    fault = None
    for state in _own_states(folder, run_id):
        record = best_record(state["history"])
        try:
            if record is not None:
                load_best(folder, run_id, record, ahead=len(state["history"]))
            return state, None
        except Damaged as error:
            if fault is None:
                warn(fault := f"warning: {error}")
        for other in _own_states(folder, run_id, silently=True):
            if other["history"][-1:] == [record] and "under_way" not in other:
                return state, validated_weights(other)
    return None, None


def has_checkpoint(folder: Path | None) -> bool:
    """Tell whether the run to be resumed has a saved state to go on from, so that it needs no first weights."""
    return folder is not None and newest_state(folder)[0] is not None


def load_best(folder: Path, run_id: str | None, record: dict, ahead: int | None = None) -> dict:
    """Return the weights in best.pth.

    Args:
        record: of the epoch that they must be of.
        ahead: epochs of the history; weights of a later one, which is repeated then, are right too.

    Raises:
        Damaged: the file is missing, damaged, of another run or of another epoch.
    """
    path = folder / "best.pth"
    best = load_checkpoint(path, {"model", "config", "epoch", "val_accuracy"})
    if best["config"].get("run_id") != run_id:
        raise Damaged(f"{path} belongs to another run")
    if ahead is not None and best["epoch"] > ahead:
        return best["model"]
    found, wanted = ([one[name] for name in ("epoch", "val_accuracy")] for one in (best, record))
    if found != wanted:
        raise Damaged(f"{path} is of epoch {found[0]} (accuracy {found[1]}), and the best is {wanted[0]} ({wanted[1]})")
    if record.get("weights_sha256") not in (None, weights_sha256(best["model"])):
        raise Damaged(f"{path} does not hold the weights that epoch {record['epoch']} ended with")
    return best["model"]


def _own_states(folder: Path, run_id: str | None, silently: bool = False) -> Iterator[dict]:
    """Yield the intact states of the run, newest first; what is damaged or of another run is named."""
    kept = sorted(folder.glob("epoch-[0-9]*.pth"), key=lambda path: -int(path.stem.removeprefix("epoch-")))
    for path in (folder / "last.pth", folder / "previous.pth", *kept):
        try:
            if path.exists():
                state = load_checkpoint(path, STATE_KEYS)
                if state.get("run_id") != run_id:
                    raise Damaged(f"{path} belongs to another run")
                yield state
        except Damaged as error:
            if not silently:
                warn(f"warning: {error}; using the one before it")


def validated_weights(state: dict) -> dict:
    """Return the weights that were validated at the end of the epoch: the running average, if there is one."""
    average = state.get("average", {})
    return {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")} or (
        state["model"]
    )
