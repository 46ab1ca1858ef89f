"""What a run writes into its folder. `resuming.py` reads it again.

`last.pth` holds all that a resume needs, `previous.pth` the state before in case that is damaged, `epoch-<n>.pth` older
ones if they were asked for. `best.pth` holds the weights of the best epoch so far, and no training state. Each says
which run it is of.
"""

import ast
import contextlib
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from common.data.batches import Batches
from common.data.load import Data
from common.optim.recipe import Recipe
from common.runs import images
from common.runs.config import title_of
from common.runs.folder import read_run_json
from common.runs.history import best_record
from common.runs.report import write_report
from common.runs.resuming import load_best, newest_state
from common.runs.state import TrainState
from common.runs.tracking import Trackers
from common.system.checkpoints import pack, save_checkpoint
from common.system.clock import TimeShare
from common.system.device import Machine
from common.system.distributed import Processes, processes_here, started_by_torchrun
from common.system.errors import BadInput, Diverged
from common.system.files import write_bytes, write_json
from common.system.log import info
from common.system.text import shell_line
from common.system.threads import Behind

AGREED_EVERY = 10  # steps after which several processes ask the first whether it is time to save


def _main_only(method: Callable) -> Callable:
    """Let a method do nothing in all processes of a run but the first, which alone writes and prints."""

    @functools.wraps(method)
    def wrapper(self: "RunFolder", *arguments, **settings):
        if self.processes.is_main:
            return method(self, *arguments, **settings)

    return wrapper


class RunFolder:
    """The open folder of a run."""

    script: Path  # of the experiment
    folder: Path
    config: dict  # the content of config.json
    data: Data
    recipe: Recipe
    processes: Processes  # of which the first alone writes
    is_resumed: bool  # whether the run began earlier
    state: TrainState | None = None  # the network in training, once `fit` has begun
    machine: Machine
    _train_json: dict
    _behind: Behind
    _trackers: Trackers
    _saved_at: float = 0.0
    _drawing: TimeShare
    _draw: Callable[[], None] | None = None  # what is newer than the pictures
    _question: str  # that the experiment asks, as it was when it began
    _has_finished: bool = False

    @_main_only
    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run folder."""
        write_bytes(self.folder / name, text.encode("utf-8", errors="backslashreplace"))

    @_main_only
    def write_json(self, name: str, content: dict) -> None:
        """Write a JSON file of the run folder."""
        write_json(self.folder / name, content)

    @_main_only
    def once(self, name: str, write: Callable[[], None]) -> None:
        """Call `write()`, which writes the file `name` at last, unless it is there: a resumed run has it already."""
        if not (self.folder / name).exists():
            write()

    @_main_only
    def save_epoch(self, history: list[dict]) -> None:
        """Save the end of an epoch, in a thread. Killed before or between these writes, a resume ends alike.

        Args:
            history: the records of all epochs so far.
        """
        record, every = history[-1], self.recipe.save_every
        keep = bool(every) and record["epoch"] % every == 0
        state, best = pack(self._state_of_run(history)), None
        if best_record(history) is record:
            best = pack(self._content_of_best(self.state.eval_model.state_dict(), record))

        def write() -> None:
            self.once(images.NAME, self._write_images)  # before the first weights
            if keep:
                save_checkpoint(self.folder / f"epoch-{record['epoch']}.pth", state)
            self._save_last(state)
            if best is not None:  # after the state, from which a resume can take the weights
                save_checkpoint(self.folder / "best.pth", best)
            self._write_train_json(history)
            self._track_epoch(history)

        self._behind.do(write)

    def wait_for_files(self) -> None:
        """Wait until what is being saved lies on the disk."""
        self._behind.wait()

    @_main_only
    def save_untrained(self, model: nn.Module, accuracy: float) -> None:
        """Save the weights of a run of no epochs, which are its best."""
        self.once(images.NAME, self._write_images)
        self._save_best(model.state_dict(), {"epoch": 0, "val_accuracy": accuracy})
        self._train_json |= {"best_epoch": 0, "best_val_accuracy": accuracy}
        self.write_json("train.json", self._train_json)
        self._trackers.epoch({"epoch": 0}, {"best_val_accuracy": accuracy, "best_epoch": 0})

    def save_step(self, history: list[dict], lr: float, step: int, counted: Callable[[], dict]) -> None:
        """Save the state within an epoch, if --save_minutes have gone since a state was saved.

        Args:
            lr: learning rate that the epoch began with.
            step: so many steps of the epoch are done; `counted()` returns what its meter has come to.
        """
        if self.processes.world_size > 1 and step % AGREED_EVERY:
            return
        if not self.processes.broadcast(lambda: time.monotonic() - self._saved_at > 60 * self.recipe.save_minutes):
            return
        own = {"random": self.machine.random_state(), "statistics": self.state.running_statistics()}
        of_all = self.processes.gather(own)
        if self.processes.is_main:
            under_way = {"lr": lr, "step": step, "meter": counted(), "processes": of_all}
            state = pack(self._state_of_run(history) | {"under_way": under_way})
            self._behind.do(lambda: self._save_last(state))
        self._saved_at = time.monotonic()

    def restore(self) -> list[dict]:
        """Put the state of a resumed run back to the newest intact one; return the records of the epochs so far."""
        saved = self.processes.broadcast(self._newest_state) if self.is_resumed else None
        history = saved["history"] if saved else []
        if self.is_resumed and not saved:
            info("no saved epoch can be used: starting from the first, which ends with the same weights")
        if saved:
            try:
                self.state.load_state_dict(saved)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise BadInput(f"the saved state in {self.folder} does not fit this network and its options") from error
            within = f", step {self.state.under_way['step']} of the next" if self.state.under_way else ""
            info(f"going on after epoch {len(history)}{within}")
        if self.processes.is_main:
            self._write_train_json(history)
            self._trackers.start(self.folder, self.config)
            for epochs in range(1, len(history) + 1):  # a tracker may have missed some, or be new to this run
                self._track_epoch(history[:epochs])
        return history

    def _newest_state(self) -> dict | None:
        """Return what `newest_state` does, with best.pth as it should be beside it."""
        state, best = newest_state(self.folder)
        if best is not None:
            record = best_record(state["history"])
            self._save_best(best, record)
            info(f"the weights of the best epoch, {record['epoch']}, are in another file: best.pth is written anew")
        return state

    def best_weights(self) -> dict:
        """Return the state dict of the best epoch; BadInput is raised if best.pth has come to hold something else."""

        def load() -> dict:
            history = self._train_json["epochs"]
            record = best_record(history) or {"epoch": 0, "val_accuracy": self._train_json["best_val_accuracy"]}
            return load_best(self.folder, self.config.get("run_id"), record)

        return self.processes.broadcast(load)

    @_main_only
    def draw_epoch(self, history: list[dict], train: Batches) -> None:
        """Draw the curves, and once the training images as the network sees them.

        Epochs may be so short that this would take longer than they do: then some are left out, but `draw_now`.
        """

        def draw() -> None:
            from common.runs import plots  # imports matplotlib, which the first epoch need not wait for

            plots.draw_history(self.folder, history, title_of(self.config), len(self.config["classes"]))
            plots.draw_resources(self.folder / "resources.png", history)
            if not (self.folder / "samples.png").exists():
                plots.draw_samples(self.folder / "samples.png", train, self.config["classes"])

        self._draw = draw
        if self._drawing.is_left():
            self.draw_now()

    @_main_only
    def draw_now(self) -> None:
        """Draw the last epoch, if it has been left out."""
        if self._draw is not None:
            with self._drawing.spending():
                self._draw()
            self._draw = None

    @_main_only
    def finish(self, told: dict | None = None) -> None:
        """Record that everything is done; of the options the page has those that are `told`, and the usual ones."""
        if self.data.test.checks and "test" not in self.config.get("checks_sha256", {}):  # they were read only now
            self._write_images()
        self._set_status("finished")
        self._has_finished = True
        try:
            write_report(self.folder, self._question, told or {})
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # of an old or an edited config.json
            info(f"note: no report.html: the records of this run lack something ({type(error).__name__})")
        self._trackers.finish(read_run_json(self.folder / "test.json"), sorted(self.folder.glob("*.png")))
        info(f"finished: {self.folder}")

    def epochs_trained(self) -> int:
        """Return the number of epochs so far."""
        return len(self._train_json["epochs"])

    def training_seconds(self) -> float:
        """Return what all epochs took together, with their validation."""
        return self._train_json["train_time"]

    def resume_command(self) -> str:
        """Return the shell command that continues this run."""
        count = self.processes.world_size
        here = processes_here() if started_by_torchrun() else count
        nodes = [f"--nnodes={count // here}"] if count > here else []
        start = ["torchrun", *nodes, f"--nproc_per_node={here}"] if count > 1 else [Path(sys.executable).name]
        script = self.script
        with contextlib.suppress(ValueError):  # below the current folder, the command is as it was typed
            script = script.relative_to(Path.cwd())
        return shell_line([*start, str(script), "--resume", str(self.folder)])

    def _write_images(self) -> None:
        images.write_images(self.folder, self.data, self.config)

    def _set_status(self, status: str) -> None:
        self._train_json["status"] = status
        self.write_json("train.json", self._train_json)

    def _state_of_run(self, history: list[dict]) -> dict:
        self._saved_at = time.monotonic()
        return self.state.state_dict() | {"history": history, "run_id": self.config.get("run_id")}

    def _save_last(self, state: bytes) -> None:
        save_checkpoint(self.folder / "last.pth", state, keep_old_as=self.folder / "previous.pth")

    def _save_best(self, weights: dict, record: dict) -> None:
        save_checkpoint(self.folder / "best.pth", self._content_of_best(weights, record))

    def _content_of_best(self, weights: dict, record: dict) -> dict:
        return {"model": weights, "config": self.config} | {name: record[name] for name in ("epoch", "val_accuracy")}

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
        if self._has_finished:  # all that counts is written
            return
        with contextlib.suppress(Exception):
            self.wait_for_files()
        with contextlib.suppress(OSError):  # a full disk: what was written before is whole, and stays
            self._set_status("diverged" if isinstance(error, Diverged) else "interrupted")
        if isinstance(error, Diverged):
            has_weights = (self.folder / "best.pth").exists()
            info(f"{'the best' if has_weights else 'no'} weights so far are kept in {self.folder}")
        else:
            done = len(self._train_json["epochs"])
            how = f"to go on: {self.resume_command()}"
            info(f"{done} epoch(s) are saved; {how}")
            error.add_note(how)  # for whoever has more to say of what ended early
        with contextlib.suppress(Exception):  # a picture must not hide what ended the run
            self.draw_now()


def question_of(script: Path) -> str:
    """Return what an experiment asks: the first line of its docstring."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem
    return text.splitlines()[0]
