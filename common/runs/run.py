"""One run of an experiment: its folder is made at once and whole, locked while in use, and readable at every moment."""

from common.system.start import undisturbed

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from common.data.batches import Batches, make_batches
from common.data.load import Data, tell_of_images
from common.models.cost import summarize
from common.models.placement import place
from common.models.precision import choose_precision
from common.models.weights import load_matching
from common.optim.optimizers import Schedule
from common.optim.recipe import Recipe
from common.runs import code, images
from common.runs.config import describe, device_line
from common.runs.folder import lock, make_folder, read_config, read_train_json, write_config
from common.runs.reopening import reopen
from common.runs.saving import RunFolder, question_of
from common.runs.tracking import Trackers
from common.system.clock import TimeShare
from common.system.device import Machine
from common.system.distributed import Processes
from common.system.errors import BadInput
from common.system.files import pictures_also_as, remove_partial_files
from common.system.log import info, log_to, stop_log
from common.system.threads import Behind

# Options that processes on several machines may have of their own.
OF_A_MACHINE = ("data", "workers", "output_dir", "weights", "resume")
DRAWING_SHARE = 0.05  # of the time of a run, for its pictures while it trains


class Run(RunFolder):
    """One run: on one data set, with one value of each option, in a folder of its own.

    Nothing is written until `open`; the end of its block records how the run ended.

    Args:
        script: `__file__` of the experiment.
        options: every option by name, for config.json.
        weights: file to start from; None for random weights.
        fit: how photographs became squares, see `Source.read`.

    Attributes:
        data, num_classes: the images. machine: device, precision, processes. recipe: the training options. Those of a
            `RunFolder` are there once the run is open.
    """

    def __init__(
        self, script: str, options: dict, data: Data, machine: Machine, weights: str | None = None, fit: str = "crop"
    ):
        self.script, self.options, self.data, self.machine = Path(script).resolve(), options, data, machine
        self.processes, self.num_classes = machine.processes, len(data.classes)
        self.recipe, self.weights, self.fit = Recipe.of(options), images.without_leaks(weights, data), fit
        self._behind, self._drawing, self._question = Behind(), TimeShare(DRAWING_SHARE), question_of(self.script)

    def batches(self, train_transform, eval_transform) -> tuple[Batches, Batches, Batches]:
        """Return the batches of the training, validation and test images."""
        size, *order = (self.options[name] for name in ("batch_size", "seed", "batch_schedule"))
        _, self._val, _ = batches = make_batches(self.data, train_transform, eval_transform, size, self.machine, *order)
        return batches

    def prepare(self, model: nn.Module, head: str | None = None) -> nn.Module:
        """Return `model` on the device, with the weights that the run starts from.

        Args:
            head: name of the part that tells classes apart. With it, what fits of the weights is loaded; without it
                they must be those of this very network.
        """
        if self.weights:
            key, is_trained = self.options["weights_key"], self.options["epochs"] > 0
            load_matching(model, self.weights, self.data.classes, head, key, is_trained)
        return place(model, self.machine, self._val.first_images(2))

    def optimizer(self, parameters: Iterable, train: Batches) -> tuple[torch.optim.Optimizer, Schedule]:
        """Return the optimizer of `parameters`, or of groups of them, and its schedule over the batches `train`."""
        return self.recipe.build(parameters, train)

    @contextlib.contextmanager
    def open(self, model: nn.Module, train: Batches) -> Iterator[None]:
        """Make the folder outputs/<script>/<data set>/<time>/, or open the one to be resumed, for this block.

        BadInput is raised if it cannot be made, is in use, or belongs to other data or another script.
        """
        resume = self.options["resume"]
        self.is_resumed = bool(resume)
        why = self._choose_precision(model, train.input_shape)
        # In all processes: synchronized batch norms wait for each other.
        config = describe(self.script.stem, self.options, self.data, model, train, self.machine)
        config |= {"fit": self.data.reading.fit or self.fit, "precision_because": why}
        options = {name: value for name, value in self.options.items() if name not in OF_A_MACHINE}
        facts = {"images": config["split_sha256"], "code": config["code_sha256"], "options": options}
        _check_equal(self.processes, facts | {"--resume": self.is_resumed})
        summary = summarize(model, train.input_shape, config)
        _check_memory(config, self.options["batch_schedule"], self.machine)
        self.folder, self.config = reopen(resume, config, self.processes) if resume else self._made(config)
        if not self.processes.is_main:
            yield
            return
        with lock(self.folder), pictures_also_as(self.options["figures"]):
            self._train_json, self._saved_at = read_train_json(self.folder), time.monotonic()
            self._trackers = Trackers.of(self.options)
            remove_partial_files(self.folder)
            log_to(self.folder / "log.txt")
            info(f"{'resuming' if resume else 'run folder:'} {self.folder}", device_line(config, train.place))
            tell_of_images(self.data, train.transform, self.options)
            info(f"precision: {self.machine.precision} ({config['precision_because']})")
            try:
                if self.is_resumed:
                    write_config(self.folder, self.config)
                self.write_text("summary.txt", summary)
                self.once(f"{code.FOLDER}/{code.PROJECT}", lambda: code.write_code(self.folder, self.script))
                yield
            except BaseException as error:
                with undisturbed():
                    self._end_badly(error)
                self._trackers.close(self._train_json["status"])
                raise  # the log stays open for the line that says what happened
            self._trackers.close(self._train_json["status"])
            stop_log()

    def _choose_precision(self, model: nn.Module, shape: tuple[int, ...]) -> str:
        """Settle the number format of the run, and return why it is that."""
        before = read_config(self.options["resume"]).get("machine", {}) if self.is_resumed else {}
        self.machine, why = choose_precision(self.machine, model, shape, self.options, before.get("precision"))
        return why

    def _made(self, config: dict) -> tuple[Path, dict]:
        """Make the folder of a new run; for class folders and HDF5 its path has the last part of theirs."""
        name, question = self.data.name, self.options.get("question")
        if name in ("folder", "hdf5"):
            name = Path(self.options["data"]).resolve().name
        config["name"] = f"{self.script.stem}/{name}" + (f", question {question}" if question else "")
        parent = Path(self.options["output_dir"]) / self.script.stem / name
        return self.processes.broadcast(lambda: make_folder(parent, config)), config


def _check_equal(processes: Processes, facts: dict[str, object]) -> None:
    """Raise BadInput, in all processes, if some of the `facts` are not the same in all of them."""
    first, *others = processes.gather(facts)
    for rank, other in enumerate(others, start=1):
        if differing := [name for name in facts if other[name] != first[name]]:
            raise BadInput(
                f"process {rank} has other {' and '.join(differing)} than the first one: each machine needs the same "
                "code, images and command, and where a run is resumed its folder"
            )


def _check_memory(config: dict, batch_schedule: list, machine: Machine) -> None:
    """Refuse batches that are to come later and would not fit: better now than after hours."""
    for _, size in batch_schedule:
        needed = 4e6 * config["parameter_mb"] + 1e6 * config["activation_mb"] * size / machine.processes.world_size
        free = machine.free_memory()
        if needed > free:
            raise BadInput(
                f"--batch_schedule: a batch of {size:,} images needs about {needed / 1e9:,.1f} GB, and "
                f"{free / 1e9:,.1f} GB are free; lower it"
            )
