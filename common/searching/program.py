"""The experiment that a search runs: found, and asked what it makes of options before the first trial starts."""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path

from common.searching.spaces import Parameter
from common.system.errors import BadInput

SCRIPTS = Path(__file__).resolve().parents[2]
# What the search says itself, and what is no training.
RESERVED = ("output_dir", "test", "resume", "explore", "throughput", "help", "override")


class Experiment:
    """A script of this kit, used for nothing but its `parse_options`.

    `name` is that of its file, as it is or in the folder of the experiments; what is none raises BadInput.
    """

    def __init__(self, name: str):
        places = (Path(name), SCRIPTS / Path(name).name)
        self.path = next((path.resolve() for path in places if path.is_file()), None)
        if self.path is None:
            raise BadInput(f"there is no program {name}; name one with --program, such as --program trainA.py")
        sys.path.insert(0, str(self.path.parent))  # as it is when a script runs
        try:
            spec = importlib.util.spec_from_file_location(self.path.stem, self.path)
            self._module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self._module)
        except Exception as error:  # whatever the file holds
            raise BadInput(f"{name} cannot be imported ({type(error).__name__}: {error})") from error
        finally:
            sys.path.pop(0)
        if not hasattr(self._module, "parse_options") or not hasattr(self._module, "build_model"):
            raise BadInput(f"{name} is no experiment of this kit: it has no parse_options and build_model")

    def options(self, words: list[str]) -> dict:
        """Return all options by name for the `words` of a command line, or raise BadInput if it refuses them."""
        with contextlib.redirect_stdout(io.StringIO()):  # its notes are for the trials' logs
            return vars(self._module.parse_options(words))

    def check(self, parameters: dict[str, Parameter], words: Callable[[dict], list[str]]) -> None:
        """Raise BadInput unless the script takes all values of the `parameters`, which `words` turns into options."""
        is_one_run = not {"dataset", "data"} & parameters.keys()
        self._trial_options(words({}), "the options after --", is_one_run)
        for name, parameter in parameters.items():
            place = f"parameters.{name}"
            if name in RESERVED:
                raise BadInput(f"{place}: this option is the search's own, or no training")
            results = [self._trial_options(words({name: value}), place) for value in parameter.examples()]
            if len(results) > 1 and all(result == results[0] for result in results):
                raise BadInput(f"{place}: all values come to the same; is it fixed in the command, or after -- ?")

    def _trial_options(self, words: list[str], place: str, is_one_run: bool = True) -> dict:
        try:
            options = self.options(words)
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from error
        if is_one_run and len(options["dataset"]) > 1:
            names = " and ".join(options["dataset"])
            raise BadInput(f"{place}: a trial is one run, not one on {names} each; fix one: -- --dataset digits")
        return options

    def changed_options(self, words: list[str]) -> dict:
        """Return the options that `words` make differ from the script's defaults, as a file for --config holds them."""
        default, options = self.options([]), self.options(words)
        changed = [name for name, value in options.items() if value not in (default[name], None)]
        return {name: options[name] for name in changed if name not in RESERVED}
