"""What the value of an option may be: each reader turns the typed text into a value, or says what is wrong with it."""

import argparse
import contextlib
import difflib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from common.models.pretrained import RESNETS, TIMM

LEAST_ALPHA = 0.01  # the variance of 20,000 draws is right here, 24 % too small at 0.001, and 0 below 1e-8


def switch(text: str) -> bool:
    """Return the truth value that people mean by `text`: true, yes, on, 1 and their opposites, in any case."""
    values = {"true": True, "t": True, "yes": True, "y": True, "on": True, "1": True}
    values |= {"false": False, "f": False, "no": False, "n": False, "off": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


SWITCH = {"type": switch, "nargs": "?", "const": True, "metavar": "BOOL"}  # `-bn` alone is true


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a reader of integers from `low` to `high`."""
    return _number(int, "an integer", lambda value: low <= value <= high, f"from {low} to {high}")


def number(low: float = -math.inf, below: float = 1e30, above: float = -math.inf) -> Callable[[str], float]:
    """Return a reader of numbers x with low <= x, above < x < below."""
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds.append(f"below {below:g}")
    return _number(float, "a number", lambda x: low <= x < below and above < x, " and ".join(bounds))


def _number(kind: type, what: str, is_allowed: Callable[[float], bool], bounds: str) -> Callable:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            has_comma = kind is float and text.replace(",", "", 1).isdigit()
            hint = f"; use a point: {text.replace(',', '.')}" if has_comma else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}{hint}") from None
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(f"{text} must be {bounds}")
        return value

    return read


def mixing(text: str) -> float:
    """Return 0, or an alpha of Beta(alpha, alpha) that PyTorch draws from as it should: below, nearly all are 1/2."""
    return number(0)(text) and number(LEAST_ALPHA)(text)


def one_or_more_seeds(text: str) -> int | list[int]:
    """Return a seed, or different ones from `0,1,2`."""
    seeds = [integer(0)(word.strip()) for word in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} has one seed twice")
    return seeds if len(seeds) > 1 else seeds[0]


def folds(text: str) -> str:
    """Return `5`, or `2/5`: the second of them alone."""
    number, slash, count = text.rpartition("/")
    count = integer(2, 1000)(count)
    return f"{integer(1, count)(number)}/{count}" if slash else str(count)


def integers(text: str) -> list[int]:
    """Return increasing positive integers from `30,40`."""
    values = [integer(1)(word) for word in text.split(",") if word.strip()]
    if values != sorted(set(values)):
        raise argparse.ArgumentTypeError(f"{text} must increase")
    return values


def batch_schedule(text: str) -> list[list[int]]:
    """Return [[60, 256], [120, 512]] from `60:256,120:512`: from those epochs on, batches of those sizes."""
    try:
        pairs = [[integer(1)(number) for number in word.split(":")] for word in text.split(",")] if text else []
    except argparse.ArgumentTypeError:
        pairs = [[]]
    epochs = [pair[0] for pair in pairs if len(pair) == 2]
    if len(epochs) < len(pairs) or epochs != sorted(set(epochs)):
        wanted = "pairs of an epoch and a batch size, with increasing epochs, such as 60:256,120:512"
        raise argparse.ArgumentTypeError(f"{text!r} must be {wanted}")
    return pairs


def one_or_several(count: int) -> Callable[[str], list[int]]:
    """Return a reader of one positive integer, or of `count` of them separated by commas."""

    def read(text: str) -> list[int]:
        values = [integer(1)(word.strip()) for word in text.split(",")]
        if len(values) not in (1, count):
            raise argparse.ArgumentTypeError(f"{text!r} must be one number or {count}, separated by commas")
        return values

    return read


def activation(text: str) -> str:
    """Return the name of an activation of `torch.nn` that takes no argument, as it is spelled there."""
    return one_of(_activations())(text)


def _activations() -> list[str]:
    from torch.nn.modules import activation as activations

    # No functions of single values: softmaxes need to know along what, GLU halves the channels, the last two need more.
    others = {"Softmax", "LogSoftmax", "Softmin", "Softmax2d", "GLU", "MultiheadAttention", "Threshold"}
    return sorted(set(activations.__all__) - others)


def network_name(text: str) -> str:
    """Return the name of a classification network of torchvision, or of timm with "timm:" before it."""
    if text.startswith(TIMM):
        if importlib.util.find_spec("timm") is None:
            raise argparse.ArgumentTypeError(f"{text} needs timm, which is not installed: pip install timm")
        return text
    if text.lower() in RESNETS:
        return text.lower()
    from torchvision import models  # which takes a second

    names = models.list_models(module=models)
    if text.lower() not in names:
        raise argparse.ArgumentTypeError(f"{text!r} is no classification network of torchvision{nearest(text, names)}")
    return text.lower()


def absolute_path(text: str) -> str:
    """Return the absolute path that `text` means, so that it means the same from every folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    try:
        path = Path(text).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # unlike `exists` tells of a zero byte, and of letters that no name can have
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no path ({reason})") from None
    return str(path)


def one_of_or_path(names: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of one of `names`, in any case, or else of a path as `absolute_path` reads it."""
    return lambda text: text.lower() if text.lower() in names else absolute_path(text)


def path(text: str) -> str:
    """Return the path that `text` means, relative if it is typed so."""
    absolute_path(text)
    return str(Path(text).expanduser())


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of one of `names`, typed in any case."""
    spelled = {name.lower(): name for name in names}

    def read(text: str) -> str:
        if text.lower() not in spelled:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}{nearest(text, names)}")
        return spelled[text.lower()]

    return read


def one_or_more_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a reader of one or more of `names`, separated by commas."""
    return lambda text: [one_of(names)(word.strip()) for word in text.split(",")]


def nearest(word: str, names: Sequence[str]) -> str:
    """Return a hint at the one of `names` that `word` resembles, or nothing; dashes before them are no resemblance."""
    spelled = {name.lower().lstrip("-"): name for name in sorted(names, reverse=True)}  # "--lr" goes before "-lr"
    close = difflib.get_close_matches(word.lower().lstrip("-"), spelled, n=1)
    return f"; did you mean {spelled[close[0]]}?" if close else ""
