"""What a run says of itself, in config.json and in best.pth, checked before it is believed."""

from common.system.errors import BadInput
from common.system.text import printable

LARGEST_SIDE = 3 * 4096  # pixels; 4096 is the most that --image_size takes, and some experiments store a margin
LARGEST_COUNT = 2**31 - 1


def check_config(config: object, source: str) -> None:
    """Make sure that what a run has written of itself, as far as it is there, can be used.

    The values of its options are left to the readers of the command line.

    Args:
        source: of `config`, for errors.

    Raises:
        BadInput: an entry cannot be what a run has written; the text names it.
    """
    checks = {
        "script": (_is_text, "a text"),
        "dataset": (_is_text, "a text"),
        "split_sha256": (_is_text, "a text"),
        "name": (_is_text, "a text"),
        "classes": (are_classes, "a list of at least two different texts"),
        "options": (lambda value: isinstance(value, dict), "an object"),
        "earlier_test_evaluations": (lambda value: _is_whole(value, 0, LARGEST_COUNT), "a whole number"),
        "stored_size": (lambda value: _is_whole(value, 1, LARGEST_SIDE), f"a whole number up to {LARGEST_SIDE:,}"),
        "fit": (lambda value: value is None or _is_text(value), "a text"),
    }
    if not isinstance(config, dict):
        raise BadInput(f"{source}: config is not an object")
    for name, (is_fine, wanted) in checks.items():
        if name in config and not is_fine(config[name]):
            raise BadInput(f"{source}: {name} is not {wanted}, but {printable(repr(config[name]), 60)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def are_classes(value: object) -> bool:
    """Tell whether `value` can be the names of the classes of a run."""
    return isinstance(value, list) and all(map(_is_text, value)) and len(value) == len(set(value)) >= 2
