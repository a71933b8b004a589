"""What every command line shares: one table from words to functions, and an exit status that means something."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import LookalikeError, OperatorError

# A command gets the words after its name and the environment, and returns its exit status (None: 0).
Main = Callable[[Sequence[str], Mapping[str, str]], int | None]


@dataclass(frozen=True, slots=True)
class Command:
    target: str  # "module:function", imported only when the command is run: rooms stay apart, `--help` stays quick.
    help: str

    def load(self) -> Main:
        module, _, function = self.target.partition(":")
        main: Main = getattr(importlib.import_module(module), function)
        return main


HELP = ("-h", "--help")


def dispatch(prog: str, commands: Mapping[str, Command], argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command whose one or two words begin `argv`; without one, or with --help, show all, or a group's."""
    for words in (2, 1):
        if (command := commands.get(" ".join(argv[:words]))) is not None and len(argv) >= words:
            main = command.load()
            return run(lambda: main(argv[words:], environ))  # noqa: B023  # runs before the loop goes on
    groups = {name.split()[0] for name in commands}
    asked = not argv or argv[0] in HELP or (argv[0] in groups and " ".join(argv[1:2]) in HELP)
    print(_overview(prog, commands, argv), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def run(main: Callable[[], int | None]) -> int:
    """The exit status: what `main` returns; 2: the operator can mend it; 1: the service failed; 130: Ctrl-C."""
    try:
        return main() or 0
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OperatorError) else 1
    except KeyboardInterrupt:
        return 130


def _overview(prog: str, commands: Mapping[str, Command], argv: Sequence[str]) -> str:
    group = {name: command for name, command in commands.items() if argv and name.split()[0] == argv[0]}
    shown = group or commands
    width = max(len(name) for name in shown)
    lines = [f"usage: {prog} COMMAND [OPTION ...]      {prog} COMMAND --help says more", ""]
    if argv and not group and not argv[0].startswith("-"):
        lines.insert(0, f"error: no such command: {' '.join(argv[:2])}")
    return "\n".join(lines + [f"  {name:<{width}}  {command.help}" for name, command in shown.items()])
