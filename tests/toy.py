"""An experiment for tests of the search: it trains nothing, and writes what a run would, in no time."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def parse_options(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--kind", default="good")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.0)  # of an epoch
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--switch", default="False")
    parser.add_argument("--dataset", nargs="+", default=["digits"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output_dir")
    parser.add_argument("--test", default="True")
    parser.add_argument("--resume")
    return parser.parse_args(argv)


def build_model():
    """Experiments have one."""


def main():
    options = parse_options()
    folder = Path(options.resume or f"{options.output_dir}/toy/digits/now")
    folder.mkdir(parents=True, exist_ok=True)
    config = {"words": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS")}
    if options.resume:
        config = json.loads((folder / "config.json").read_text()) | {"resumed": True}
        options = parse_options([*config["words"], *sys.argv[1:]])  # as stored, unless typed anew
    (folder / "config.json").write_text(json.dumps(config))
    if options.kind == "refused" or (options.kind == "crashes once" and not config.get("resumed")):
        print("error: --kind: this is refused" if options.kind == "refused" else "KeyError: 'x'")
        sys.exit(2 if options.kind == "refused" else 1)
    if options.kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if options.kind == "out of memory":
        print("error: out of memory; lower --batch_size")
        sys.exit(4)
    records = []
    if (folder / "train.json").exists():
        records = json.loads((folder / "train.json").read_text())["epochs"]
    for epoch in range(len(records) + 1, options.epochs + 1):
        time.sleep(options.seconds)
        luck = 0.5 * (options.kind == "lucky" and options.seed == 1 and options.lr < 0.15)
        value = options.lr + epoch / 100 + luck
        records.append({"epoch": epoch, "val_accuracy": value, "val_loss": options.lr + epoch})
        _write(folder / "train.json", {"status": "running", "best_epoch": epoch, "train_time": 1.5, "epochs": records})
        (folder / "last.pth").write_bytes(b"state")
        if options.kind == "diverges":
            print("error: the loss is not finite any more")
            sys.exit(3)
    if options.test != "False":
        _write(folder / "test.json", {"accuracy": 0.5, "account": os.environ["TEST_LOOKS"]})
        (folder / "log.txt").write_text("test accuracy 0.5\n")


def _write(path, content):
    path.with_suffix(".partial").write_text(json.dumps(content))
    path.with_suffix(".partial").replace(path)


if __name__ == "__main__":
    main()
