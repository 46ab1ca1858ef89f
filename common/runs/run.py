"""The run folder: made at once and whole, locked while a process works in it, readable at every moment."""

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from common.data.batches import Batches
from common.data.load import Data
from common.runs.config import describe
from common.runs.folder import lock, make_folder, read_config, read_test_json, read_train_json
from common.runs.history import best_record
from common.runs.tracking import Trackers
from common.system.checkpoints import Damaged, load_checkpoint, save_checkpoint
from common.system.device import Machine
from common.system.distributed import Processes
from common.system.errors import BadInput, Diverged
from common.system.files import remove_partial_files, write_bytes, write_json
from common.system.log import complain, log_to, say, stop_log


def _by_first(method: Callable) -> Callable:
    """Let a method do nothing in all processes of a run but the first, which alone writes and speaks."""

    @functools.wraps(method)
    def wrapper(self: "Run", *arguments, **settings):
        if self.processes.is_first:
            return method(self, *arguments, **settings)

    return wrapper


class Run:
    """One run folder, used as `with open_run(…) as run:`; leaving the block records how it ended.

    `config` is the content of config.json. `last.pth` holds all that an exact resume needs, and `previous.pth` the
    epoch before, in case `last.pth` is damaged.
    """

    def __init__(
        self, folder: Path, script: Path, config: dict, resumed: bool, processes: Processes, trackers: Trackers
    ):
        self.folder, self.script, self.config, self.resumed = folder, script, config, resumed
        self.processes, self._trackers = processes, trackers
        self._lock = lock(folder) if processes.is_first else None
        self._train_json = read_train_json(folder)

    def __enter__(self) -> "Run":
        if not self.processes.is_first:
            return self
        remove_partial_files(self.folder)
        log_to(self.folder / "log.txt")
        say(f"{'resuming' if self.resumed else 'run folder:'} {self.folder}")
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if not self.processes.is_first:
            return
        try:
            if error is not None:
                self._end_badly(error)
            self._trackers.close(self._train_json["status"])
            if error is None:  # else the log stays open for the line that says what happened
                stop_log()
        finally:
            self._lock.close()

    @_by_first
    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run folder."""
        write_bytes(self.folder / name, text.encode("utf-8", errors="backslashreplace"))

    @_by_first
    def write_json(self, name: str, content: dict) -> None:
        """Write a JSON file of the run folder."""
        write_json(self.folder / name, content)

    @_by_first
    def once(self, name: str, write: Callable[[], None]) -> None:
        """Call `write()`, which writes the file `name` at last, unless it is there: a resumed run has it already."""
        if not (self.folder / name).exists():
            write()

    @_by_first
    def set_status(self, status: str) -> None:
        """Write the status to train.json."""
        self._train_json["status"] = status
        self.write_json("train.json", self._train_json)

    @_by_first
    def save_epoch(self, history: list[dict], saved: dict, judged: nn.Module, keep: bool) -> None:
        """Save the end of an epoch. Killed between any two of these writes, a resume repeats the epoch and ends alike.

        Args:
            history: the records of all epochs so far.
            saved: name -> model, optimizer, schedule, scaler: everything with a state.
            judged: the network that was validated.
            keep: keep the state as `epoch-<n>.pth` too.
        """
        record = history[-1]
        if best_record(history) is record:
            self._save_best(judged, record["epoch"], record["val_accuracy"])
        state = {name: part.state_dict() for name, part in saved.items()} | {"history": history}
        if keep:
            save_checkpoint(self.folder / f"epoch-{record['epoch']}.pth", state)
        save_checkpoint(self.folder / "last.pth", state, keep_old_as=self.folder / "previous.pth")
        self._write_train_json(history)
        self._track_epoch(history)

    @_by_first
    def save_untrained(self, model: nn.Module, accuracy: float) -> None:
        """Save the weights of a run of no epochs, which are its best."""
        self._save_best(model, 0, accuracy)
        self._train_json |= {"best_epoch": 0, "best_val_accuracy": accuracy}
        self.write_json("train.json", self._train_json)
        self._trackers.epoch({"epoch": 0}, {"best_val_accuracy": accuracy, "best_epoch": 0})

    def restore(self, saved: dict) -> list[dict]:
        """Put everything with a state back to the newest intact one, and return the records of the epochs so far."""
        state = self.processes.from_first(lambda: _newest_state(self.folder)) if self.resumed else None
        history = state["history"] if state else []
        if self.resumed and not state:
            say("no saved epoch can be used: starting from the first, which ends with the same weights")
        if state:
            for name, part in saved.items():
                part.load_state_dict(state[name])
            say(f"going on after epoch {len(history)}")
        if self.processes.is_first:
            self._write_train_json(history)
            self._trackers.start(self.folder, self.config)
            for epochs in range(1, len(history) + 1):  # a tracker may have missed some, or be new to this run
                self._track_epoch(history[:epochs])
        return history

    def best_weights(self) -> dict:
        """Return the state dict of the best epoch."""
        return self.processes.from_first(lambda: load_checkpoint(self.folder / "best.pth", {"model"})["model"])

    @_by_first
    def draw_epoch(self, history: list[dict], train: Batches) -> None:
        """Draw the curves, and once the training images as the network sees them."""
        from common.runs import plots  # imports matplotlib, which the first epoch need not wait for

        plots.draw_history(self.folder, history)
        plots.draw_resources(self.folder / "resources.png", history)
        if not (self.folder / "samples.png").exists():
            plots.draw_samples(self.folder / "samples.png", train, self.config["classes"])

    @_by_first
    def finish(self) -> None:
        """Record that everything is done."""
        self.set_status("finished")
        self._trackers.finish(read_test_json(self.folder), sorted(self.folder.glob("*.png")))
        say(f"finished: {self.folder}")

    def _save_best(self, model: nn.Module, epoch: int, accuracy: float) -> None:
        content = {"model": model.state_dict(), "epoch": epoch, "val_accuracy": accuracy, "config": self.config}
        save_checkpoint(self.folder / "best.pth", content)

    def _write_train_json(self, history: list[dict]) -> None:
        best = best_record(history) or {"val_accuracy": None, "epoch": None}
        self._train_json = {
            "status": "running",
            "best_val_accuracy": best["val_accuracy"],
            "best_epoch": best["epoch"],
            "train_time": sum(record["seconds"] for record in history),
            "epochs": history,
        }
        self.write_json("train.json", self._train_json)

    def _track_epoch(self, history: list[dict]) -> None:
        best = best_record(history)
        self._trackers.epoch(history[-1], {"best_val_accuracy": best["val_accuracy"], "best_epoch": best["epoch"]})

    def _end_badly(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk: what was written before is whole, and stays
            self.set_status("diverged" if isinstance(error, Diverged) else "interrupted")
        if isinstance(error, Diverged):
            has_weights = (self.folder / "best.pth").exists()
            say(f"{'the best' if has_weights else 'no'} weights so far are kept in {self.folder}")
        else:
            done = len(self._train_json["epochs"])
            say(f"{done} epoch(s) are saved; to go on: {self.resume_command()}")

    def resume_command(self) -> str:
        """Return the shell command that continues this run."""
        count = self.processes.count
        start = ["torchrun", f"--nproc_per_node={count}"] if count > 1 else [Path(sys.executable).name]
        return shlex.join([*start, _short(self.script), "--resume", str(self.folder)])


def open_run(script: str, options: dict, data: Data, model: nn.Module, train: Batches, machine: Machine) -> Run:
    """Make the folder outputs/<script>/<dataset>/<time>/ with its config.json, or open the one to be resumed.

    Args:
        script: `__file__` of the experiment.
        options: every option by name.
        data: its name is part of the folder's path; for class folders and HDF5 it is the last part of theirs.

    Raises:
        BadInput: the folder cannot be made, is in use, or belongs to other data or another script.
    """
    script_path = Path(script).resolve()
    config = describe(script_path.stem, options, data, model, train, machine)
    _check_memory(config, options["batch_schedule"], machine)
    trackers = Trackers.of(options if machine.processes.is_first else {})
    if options["resume"]:
        return _reopen(options["resume"], script_path, config, machine.processes, trackers)
    name = Path(options["data"]).resolve().name if data.name in ("folder", "hdf5") else data.name
    question = options.get("question")
    config["name"] = f"{script_path.stem}/{name}" + (f", question {question}" if question else "")
    parent = Path(options["output_dir"]) / script_path.stem / name
    folder = machine.processes.from_first(lambda: make_folder(parent, config))
    return Run(folder, script_path, config, resumed=False, processes=machine.processes, trackers=trackers)


def _check_memory(config: dict, batch_schedule: list, machine: Machine) -> None:
    """Refuse batches that are to come later and would not fit: better now than after hours."""
    for _, size in batch_schedule:
        needed = 4e6 * config["parameter_mb"] + 1e6 * config["activation_mb"] * size / machine.processes.count
        free = machine.free_memory()
        if needed > free:
            raise BadInput(
                f"--batch_schedule: a batch of {size:,} images needs about {needed / 1e9:,.1f} GB, and "
                f"{free / 1e9:,.1f} GB are free; lower it"
            )


def is_finished(folder: Path | None, epochs: int, test: bool) -> bool:
    """Tell, and say, whether the run to be resumed has nothing left to do; `test` is whether to test it."""
    if folder is None or read_config(folder)["options"]["epochs"] != epochs:
        return False
    if read_train_json(folder)["status"] != "finished" or (test and not _is_tested(folder)):
        return False
    say(f"{folder} is finished: nothing to do (to train it further, add --epochs with a larger number)")
    return True


def _is_tested(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("test.json", "submission.csv"))


def is_under_way(folder: Path | None) -> bool:
    """Tell whether the run to be resumed has a saved epoch to go on from, so that it needs no first weights."""
    return folder is not None and _newest_state(folder) is not None


def _reopen(folder: Path, script: Path, wanted: dict, processes: Processes, trackers: Trackers) -> Run:
    """Open the run in `folder`; `wanted` is the config that it would have if it began now."""
    config, status = processes.from_first(lambda: (read_config(folder), read_train_json(folder)["status"]))
    if (config["split_sha256"], config["classes"]) != (wanted["split_sha256"], wanted["classes"]):
        raise BadInput(f"--resume {folder}: the images are not those that the run began with; give them with --data")
    if status == "diverged":
        raise BadInput(f"--resume {folder}: this run diverged and would do so again; start one with a lower --lr")
    run = Run(folder, script, config, resumed=True, processes=processes, trackers=trackers)
    if status == "finished":  # and asked for more epochs, or for the test that was left out
        run.set_status("running")
        config["earlier_test_evaluations"] += _is_tested(folder)
    epochs, before = wanted["options"]["epochs"], config["options"]["epochs"]
    if epochs > before:
        say(
            f"{epochs} epochs instead of {before}: the run will end as if it had begun with so many, because its "
            "schedule does not depend on their number; the test images are looked at once more"
        )
    config["options"] |= {"epochs": epochs, "test": wanted["options"]["test"]}
    run.write_json("config.json", config)
    return run


def _newest_state(folder: Path) -> dict | None:
    """Return what the newest intact epoch of a run has saved; None if there is none."""
    kept = sorted(folder.glob("epoch-[0-9]*.pth"), key=lambda path: -int(path.stem.removeprefix("epoch-")))
    states = [path for path in (folder / "last.pth", folder / "previous.pth", *kept) if path.exists()]
    for path in states if states and _best_is_intact(folder) else []:
        try:
            return load_checkpoint(path, {"model", "optimizer", "schedule", "scaler", "history"})
        except Damaged as error:
            complain(f"warning: {error}; using the one before it")
    return None


def _best_is_intact(folder: Path) -> bool:
    """Without the weights of the best epoch so far no later state is of use: they are in no other file."""
    try:
        load_checkpoint(folder / "best.pth", {"model"})
    except Damaged as error:
        complain(f"warning: {error}")
        return False
    return True


def _short(path: Path) -> str:
    """Return `path` relative to the current folder if it lies below, so that the command is as it was typed."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
