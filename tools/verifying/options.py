"""Which options leave the weights of an epoch as they are: one list, for training again and for finding copies."""

from common.options.parser import TRACKERS, WORKS_ONLY_WITH
from tools.verifying.folder import Folder

# What is shown, kept and tested, and where: training again leaves it out.
BESIDE_TRAINING = (
    *TRACKERS, "device", "workers", "output_dir", "resume", "explore", "figures", "watch", "print_every", "save_every",
    "save_minutes", "test", "tta", "submission_labels", "question", "shown_classes",
)  # fmt: skip
# Two runs may differ in these, too, and have the same best epoch; of the images config.json has a digest.
EQUAL_WEIGHTS = (
    *BESIDE_TRAINING, "epochs", "patience", "data", "limit", "split_seed", "skip_unreadable", "weights", "weights_key",
    "precision", "compile", "deterministic", "sync_bn",
)  # fmt: skip


def what_makes_weights(folder: Folder) -> dict[str, object]:
    """Return what a run claims of all that can change its weights, by name, without what is not known of it."""
    options = folder.known("config.json", "options") or {}
    made = {name: folder.known("config.json", name) for name in ("script", "split_sha256")}
    for name, value in options.items():
        owner, values = WORKS_ONLY_WITH.get(name, (None, ()))
        if name not in EQUAL_WEIGHTS and (owner is None or options.get(owner) in values):
            made[f"--{name}"] = value
    return {name: value for name, value in made.items() if value is not None}
