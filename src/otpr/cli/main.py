"""The command line: it parses, calls `run` of a command, and turns errors into plain words."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import tyro

from otpr.cli.plugins import plugins
from otpr.errors import OtprError, unknown_name

COMMANDS = ("quickstart", "collect", "pretrain", "finetune", "evaluate", "data", "info")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: without the program's name; None takes the process's.

    Returns:
        The exit status: 0 done, or stopped by a signal with everything saved; 1 the output was cut off; 2
        something the user can mend; 130 stopped by a signal at once.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except OtprError as error:
        print(f"otpr: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output wants no more, as in `otpr info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:  # before a command has begun
        print("\notpr: interrupted.", file=sys.stderr)
        return 130


def entry() -> NoReturn:
    """The program `otpr`: `main`, and the end of the process."""
    from otpr.training.stopping import exit_process

    exit_process(main())


def _run(arguments: list[str]) -> int:
    others = plugins()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in {*COMMANDS, *others}:
        raise unknown_name("command", arguments[0], {*COMMANDS, *others})
    # JAX takes seconds to import; a misspelt command need not wait for it
    from otpr.cli.collect import Collect
    from otpr.cli.data import SUBCOMMANDS, Data
    from otpr.cli.evaluate import Evaluate
    from otpr.cli.finetune import Finetune
    from otpr.cli.info import Info
    from otpr.cli.pretrain import Pretrain
    from otpr.cli.quickstart import Quickstart
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.stopping import Stopped

    classes = (Quickstart, Collect, Pretrain, Finetune, Evaluate, Data, Info)
    commands: dict[str, Any] = dict(zip(COMMANDS, classes, strict=True))
    commands |= {name: point.load() for name, point in others.items()}
    if arguments[:1] == ["data"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        if arguments[1] not in SUBCOMMANDS:
            raise unknown_name("command after `otpr data`:", arguments[1], SUBCOMMANDS)
        _check_options(f"data {arguments[1]}", SUBCOMMANDS[arguments[1]], arguments[2:])
    elif arguments and arguments[0] in commands:
        _check_options(arguments[0], commands[arguments[0]], arguments[1:])
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="otpr",
            description="Fine-tune a diffusion policy by reinforcement learning with optimal transport.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except SystemExit as exit:  # after --help, or after tyro has said what is wrong
        return exit.code if isinstance(exit.code, int) else 2
    use_compilation_cache()
    try:
        command.run()
    except Stopped as stopped:
        print(f"otpr: {stopped}. Go on with:\n  {_again(arguments)}")
        return 0
    except KeyboardInterrupt:
        print("\notpr: interrupted.", file=sys.stderr)
        run_dir = getattr(command, "run_dir", None)
        if run_dir is not None and (run_dir / "config.json").is_file():
            print(f"Go on from what was saved last with:\n  {_again(arguments)}")
        return 130
    return 0


def _check_options(name: str, command: type, arguments: list[str]) -> None:
    """Refuse a misspelt option: tyro names the nearest right one only where nothing else is wrong."""
    known = {"--help", *(f"--{field.replace('_', '-')}" for field in _fields(command))}
    for argument in arguments:
        option = argument.split("=", 1)[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            raise unknown_name(f"option of `otpr {name}`:", argument.split("=", 1)[0], known)


def _fields(settings: Any) -> Iterator[str]:
    """The options a dataclass makes: its fields, and those of the dataclasses among them."""
    types = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(types[field.name]):
            yield from _fields(types[field.name])
        else:
            yield field.name


def _again(arguments: list[str]) -> str:
    """The command line that resumes, with the program as it was called where it is not on the path."""
    program = "otpr"
    called = Path(sys.argv[0])
    if called.name == program and shutil.which(program) != str(called):
        program = sys.argv[0]
    again = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    return shlex.join([program, *again, "--resume"])
