"""The parser of the command line: what cannot be parsed is an `OptionError` that says what was perhaps meant."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from modeconn.errors import OptionError, did_you_mean, unknown


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are exceptions, and whose options may be written with `_` for `-`.

    Args:
        **how: as `argparse.ArgumentParser` takes it; options cannot be abbreviated.

    >>> parser = Parser(prog="modeconn")
    >>> _ = parser.add_argument("--task.learning-rate", type=float)
    >>> vars(parser.parse_args(["--task.learning_rate", "0.1"]))
    {'task.learning_rate': 0.1}
    >>> parser.parse_args(["--task.learning", "0.1"])
    Traceback (most recent call last):
    modeconn.errors.OptionError: unknown option --task.learning; did you mean --task.learning-rate? See modeconn --help
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**how, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, after writing options as they are declared.

        Raises:
            OptionError: something that is neither an option nor what one takes.
        """
        found, left = super().parse_known_args(None if args is None else self._as_declared(args), namespace)
        if left:
            self._refuse(left[0].partition("=")[0])
        return found, left

    def _as_declared(self, arguments: Sequence[str]) -> list[str]:
        written, options = [], True
        for argument in arguments:
            options = options and argument != "--"
            name, equals, value = argument.partition("=")
            declared = name.replace("_", "-")
            known = options and name not in self._option_string_actions and declared in self._option_string_actions
            written.append(f"{declared}{equals}{value}" if known else argument)
        return written

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            raise OptionError(f"nothing is taken here for {word!r}; see {self.prog} --help")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = did_you_mean(word.replace("_", "-"), known, str, likeness=0.75)
        raise OptionError(f"unknown option {word}{(near and f'{near} See') or '; see'} {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown((action.metavar or action.dest).lower(), str(value), map(str, action.choices))  # type: ignore[union-attr]
