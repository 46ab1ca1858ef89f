"""What a run says of itself, in config.json and in best.pth, checked before it is believed."""

from common.system.errors import BadInput
from common.system.text import printable

LARGEST_SIDE = 3 * 4096  # pixels; 4096 is the most that --image_size takes, and some experiments store a margin
KINDS = {
    "script": str, "dataset": str, "split_sha256": str, "name": str, "classes": list, "options": dict,
    "earlier_test_evaluations": int, "stored_size": int, "checks_sha256": dict, "versions": dict, "machine": dict,
    "resumed": list, "brightness": dict,
}  # fmt: skip


def check_config(config: dict, source: str) -> None:
    """Raise BadInput, in a text that begins with `source`, if an entry cannot be what a run has written.

    The values of its options are left to the readers of the command line.
    """
    for name, value in config.items():
        is_fine = type(value) is KINDS.get(name, type(value))
        if name == "classes":
            is_fine = are_classes(value)
        elif name in KINDS and type(value) is int:
            is_fine = is_fine and (1 if name == "stored_size" else 0) <= value <= LARGEST_SIDE
        if not is_fine:
            raise BadInput(f"{source}: {name} cannot be {printable(repr(value), 60)}")


def are_classes(value: object) -> bool:
    """Tell whether `value` can be the names of the classes of a run."""
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and len(value) == len(set(value)) >= 2
