"""Live trackers: TensorBoard and Weights & Biases show a run while it goes on. The truth is what is in its folder.

Both packages write and send in the background. A tracker that fails says so once and is left out; the run goes on.
Each tracker has a name and the four methods of `Trackers`, which says what they take.
"""

import contextlib
import importlib.util
import math
import secrets
import shutil
import sys
from pathlib import Path

from common.system.errors import BadInput
from common.system.files import write_bytes
from common.system.log import info, warn
from common.system.text import shell_line

PROJECT = "image-classification"  # of W&B, unless an option or WANDB_PROJECT names another
INIT_SECONDS = 30  # to reach W&B's server
FINISH_SECONDS = 60  # to upload what is left; what is not uploaded then stays in the run folder


def check_installed(options: dict) -> None:
    """Raise BadInput if the package of a tracker that `options` ask for is not there, without importing it."""
    for name in ("tensorboard", "wandb"):
        # A mere folder of that name, such as W&B likes to leave beside scripts, has a spec too, but no origin.
        if options.get(name) and not getattr(importlib.util.find_spec(name), "origin", None):
            raise BadInput(f"--{name}: the package {name} is not installed; pip install -r requirements-extras.txt")


class TensorBoard:
    """Writes an event file to the folder `tensorboard/` of the run; the step is the epoch."""

    name = "tensorboard"
    _writer, _epoch = None, 0

    def start(self, folder: Path, config: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        logs = folder / "tensorboard"
        for old in logs.glob("events.out.tfevents.*"):
            with contextlib.suppress(OSError):  # Windows, and somebody is looking: what is purged is not shown either
                old.unlink()
        self._writer = SummaryWriter(str(logs), purge_step=0)
        *begin, self._end = hparams(_facts(config), {"best_val_accuracy": None})
        for summary in begin:  # `add_hparams` would make a folder for what belongs to this run
            self._writer.file_writer.add_summary(summary)

    def epoch(self, record: dict, best: dict) -> None:
        self._epoch = record["epoch"]
        self._add({name: value for name, value in (record | best).items() if name != "epoch"})  # which is the axis
        self._writer.flush()

    def finish(self, scores: dict, pictures: list[Path]) -> None:
        import numpy as np
        from PIL import Image

        self._add(scores)
        for path in pictures:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(path.stem, pixels, self._epoch, dataformats="HWC")
        self._writer.file_writer.add_summary(self._end)

    def close(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, numbers: dict) -> None:
        for name, value in _scalars(numbers).items():
            self._writer.add_scalar(name, value, self._epoch)


class WeightsAndBiases:
    """Sends the run to W&B, or records it in the folder `wandb/` of the run, from where `wandb sync` sends it later.

    Without a key, and where the server cannot be reached, it goes on offline: it never asks.

    Args:
        project, entity: of W&B; None means what the environment says.
    """

    name = "wandb"

    def __init__(self, project: str | None, entity: str | None):
        self._project, self._entity, self._run = project, entity, None

    def start(self, folder: Path, config: dict) -> None:
        hooks = sys.exit, sys.excepthook
        try:
            self._run = self._open(folder, config)
        finally:
            sys.exit, sys.excepthook = hooks  # W&B has put its own there, to guess how the script ends: `close` tells
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._known = self._run.summary.get("epoch") or 0  # what the server has of a run that is resumed

    def epoch(self, record: dict, best: dict) -> None:
        self._epoch = record["epoch"]
        if self._epoch > self._known:
            self._run.log(_scalars(record))
        self._run.summary.update(best)

    def finish(self, scores: dict, pictures: list[Path]) -> None:
        import wandb

        self._run.log({"epoch": self._epoch} | {path.stem: wandb.Image(str(path)) for path in pictures})
        self._run.summary.update(_scalars(scores))

    def close(self, status: str) -> None:
        if self._run is None:
            return
        import wandb

        try:
            self._run.summary["status"] = status
            self._run.finish(exit_code=0 if status == "finished" else 1)
        finally:
            wandb.teardown()  # its process

    def _open(self, folder: Path, config: dict):
        """Return the run of W&B that belongs to `folder`, in the mode that is chosen, or offline if that cannot be."""
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", symlink=False, disable_git=True, allow_val_change=True,
            init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        chosen = wandb.setup(settings).settings
        arguments = {
            "project": self._project or chosen.project or PROJECT,
            "entity": self._entity,
            "name": f"{config['script']}/{folder.parent.name} {folder.name}",
            "group": config["script"],
            "config": _facts(config),
            "settings": settings,
        }
        if chosen.mode == "disabled":
            return wandb.init(mode="disabled", **arguments)
        arguments |= {"dir": str(folder), "id": _stored_id(folder / "wandb" / "id.txt"), "resume": "allow"}
        reason = f"its mode is {chosen.mode}"
        if chosen.mode not in ("offline", "dryrun"):
            try:
                if wandb.login(prompt=False, verify=False):
                    return wandb.init(**arguments)
                reason = "there is no API key"
            except Exception as error:
                reason = " ".join(str(error).split())
            wandb.teardown()
        for old in (folder / "wandb").glob("offline-run-*"):
            shutil.rmtree(old, ignore_errors=True)  # a resumed run is recorded again from its first epoch on
        run = wandb.init(mode="offline", **arguments)
        upload = shell_line(["wandb", "sync", run.settings.sync_dir])
        info(f"note: --wandb records offline ({reason}); to upload that: {upload}")
        return run


class Trackers:
    """All trackers of a run; none of the methods raises an `Exception`."""

    def __init__(self, trackers: list):
        self._trackers = list(trackers)

    @classmethod
    def of(cls, options: dict) -> "Trackers":
        """Return those that `options`, which may be empty, ask for."""
        trackers = [TensorBoard()] if options.get("tensorboard") else []
        if options.get("wandb"):
            trackers.append(WeightsAndBiases(options["wandb_project"], options["wandb_entity"]))
        return cls(trackers)

    def start(self, folder: Path, config: dict) -> None:
        """Begin the record of the run in `folder`, or go on with it; `config` is the content of config.json."""
        self._call("start", folder, config)

    def epoch(self, record: dict, best: dict) -> None:
        """Take in the record of an epoch, and best_val_accuracy and best_epoch so far."""
        self._call("epoch", record, best)

    def finish(self, scores: dict, pictures: list[Path]) -> None:
        """Take in the content of test.json and the pictures in the files `pictures`."""
        self._call("finish", {f"test/{name}": value for name, value in scores.items()}, pictures)

    def close(self, status: str) -> None:
        """End the record, if it has begun, and wait until all is written; `status` is that of train.json."""
        self._call("close", status)

    def _call(self, method: str, *arguments) -> None:
        """Call a method of each tracker. Ctrl-C and SIGTERM go through: they are meant for the run."""
        failures = (Exception, SystemExit)  # W&B ends Python where its own process has crashed
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except failures as error:
                self._trackers.remove(tracker)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                warn(f"warning: --{tracker.name} has failed and is left out: {reason}")
                with contextlib.suppress(*failures):
                    tracker.close("failed")


def _scalars(record: dict) -> dict:
    """Return the entries of a record that are finite numbers."""
    return {name: n for name, n in record.items() if isinstance(n, (int, float)) and math.isfinite(n)}


def _facts(config: dict) -> dict:
    """Return what is known of a run from its beginning, by name: every option, and what they do not tell."""
    facts = {name: config[name] for name in ("script", "parameters", "git_commit")} | config["options"]
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in facts.items()}


def _stored_id(path: Path) -> str:
    """Return the name by which W&B knows a run, which a resumed one finds again in its folder."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, secrets.token_hex(8).encode())
    return path.read_text()
