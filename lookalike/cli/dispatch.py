"""The command-line dispatcher: finds a command by its words, runs it, and maps its errors to an exit status."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import InvalidRequest, LookalikeError, OperatorError

# A command takes the words after its name and the environment, and returns its exit status (None: 0).
Main = Callable[[Sequence[str], Mapping[str, str]], int | None]

_HELP = ("-h", "--help")
_ROOT = Path(__file__).resolve().parents[2]  # A clone, the files of an image, or the site-packages of a client.


def _file_of(module: str) -> Path:
    return _ROOT.joinpath(*module.split(".")).with_suffix(".py")


@dataclass(frozen=True, slots=True)
class Command:
    target: str  # "module:function", imported only when the command is run, so that `--help` is quick.
    help: str

    @property
    def installed(self) -> bool:
        """Whether the command's code is installed: `pip install` brings only the client and its commands."""
        module = self.target.partition(":")[0]
        in_client = module.startswith("lookalike.")
        # Next to an installed client, a package `server` or `index` is not of this project.
        return _file_of(module).is_file() and (in_client or _file_of("lookalike.runtime.edge").is_file())

    def load(self) -> Main:
        """Import the command's function. Raises OperatorError if its code is not installed."""
        if not self.installed:
            raise OperatorError(
                "only the client is installed here, and this command runs another part of the system: run it from a "
                "clone of the repository (`make demo` sets one up) or from its role's container image"
            )
        module, _, function = self.target.partition(":")
        main: Main = getattr(importlib.import_module(module), function)
        return main


def dispatch(prog: str, commands: Mapping[str, Command], argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command that the first one or two words of `argv` name; without one, or with --help, list commands."""
    for words in (2, 1):
        if (command := commands.get(" ".join(argv[:words]))) is not None and len(argv) >= words:
            return run(lambda: command.load()(argv[words:], environ))  # noqa: B023  # runs before the loop goes on
    groups = {name.split()[0] for name in commands}
    wants_help = not argv or argv[0] in _HELP or (argv[0] in groups and " ".join(argv[1:2]) in _HELP)
    print(_overview(prog, commands, argv), file=sys.stdout if wants_help else sys.stderr)
    return 0 if wants_help else 2


def run(main: Callable[[], int | None]) -> int:
    """Run a command. Exit status: what `main` returns; for an error 2 if an argument or a setting is wrong, else 1.

    Ctrl-C gives 130.
    """
    try:
        return main() or 0
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OperatorError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


def _overview(prog: str, commands: Mapping[str, Command], argv: Sequence[str]) -> str:
    group = {name: command for name, command in commands.items() if argv and name.split()[0] == argv[0]}
    listed = group or commands
    installed = {name: command for name, command in listed.items() if command.installed}
    missing = {name: command for name, command in listed.items() if name not in installed}
    lines = [f"usage: {prog} COMMAND [OPTION ...]      {prog} COMMAND --help says more", ""]
    if argv and not group and not argv[0].startswith("-"):
        lines.insert(0, f"error: no such command: {' '.join(argv[:2])}")
    lines += _table(installed)
    if missing:
        lines += [*([""] if installed else []), "only in a clone or a container image:", *_table(missing)]
    return "\n".join(lines)


def _table(commands: Mapping[str, Command]) -> list[str]:
    width = max(map(len, commands), default=0)
    return [f"  {name:<{width}}  {command.help}" for name, command in commands.items()]
