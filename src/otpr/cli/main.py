"""The command line: parses arguments, calls a command's `run`, and prints errors as plain messages."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import tyro

from otpr.cli.overview import overview
from otpr.cli.plugins import plugins
from otpr.errors import OtprError, unknown_name

COMMANDS = ("quickstart", "collect", "pretrain", "finetune", "evaluate", "serve", "data", "policy", "info")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: the arguments without the program's name; None: those of the process.

    Returns:
        The exit status: 0 for success, or a stop by a signal with everything saved; 1 if the output was
        closed; 2 for an error that the user can fix; 130 for an immediate stop by Ctrl-C.

    Raises:
        SystemExit: with status 143, if SIGTERM stopped a command that cannot be resumed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if sys.platform == "win32":
            raise OtprError("otpr does not run on Windows itself; install it in WSL 2, or on Linux or macOS.")
        return _run(arguments)
    except OtprError as error:
        print(f"otpr: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader closed the pipe, as in `otpr info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:  # before a command has started
        print("\notpr: interrupted.", file=sys.stderr)
        return 130


def entry() -> NoReturn:
    """The program `otpr`: run `main` and end the process."""
    from otpr.training.stopping import exit_process

    exit_process(main())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(plugins()), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        command = parsed(arguments)
    except SystemExit as exit:  # after --help, or after an error message of tyro
        return exit.code if isinstance(exit.code, int) else 2 * (exit.code is not None)
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.stopping import Stopped

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


def parsed(arguments: Sequence[str]) -> Any:
    """Parse the arguments into a command, without running it.

    Raises:
        OtprError: the command, or an option or setting of it, is unknown or refused.
        SystemExit: after `--help`, or if a value cannot be parsed, which is reported on standard error.
    """
    names = {*COMMANDS, *plugins()}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        raise unknown_name("command", arguments[0], names)
    commands, groups = command_classes()
    more: dict[str, Any] = {
        "config": (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        "registry": _TYPES,
    }
    try:
        if not arguments or arguments[0] not in commands:  # e.g. --tyro-write-completion
            return tyro.extras.subcommand_cli_from_dict(commands, prog="otpr", args=list(arguments), **more)
        name, *rest = arguments
        if name == "finetune":
            from otpr.cli.finetune import tailored

            more["default"], rest = tailored(rest)
            more["description"] = more["default"].about
        _check_names(name, rest, more.get("default", commands[name]), groups)
        # tyro omits positional arguments that are given from its help
        second = [word for word in rest[:1] if name == "finetune" and word[:1] != "-"]
        return tyro.cli(commands[name], prog=" ".join(["otpr", name, *second]), args=rest, **more)
    except ValueError as error:  # a setting refuses its value
        raise OtprError(str(error)) from error


def command_classes() -> tuple[dict[str, Any], dict[str, Mapping[str, type]]]:
    """Each command's class by name, and for commands with subcommands, the classes of these."""
    # JAX takes seconds to import, which a misspelt command should not wait for
    from otpr.cli import data, policy
    from otpr.cli.collect import Collect
    from otpr.cli.evaluate import Evaluate
    from otpr.cli.finetune import Finetune
    from otpr.cli.info import Info
    from otpr.cli.pretrain import Pretrain
    from otpr.cli.quickstart import Quickstart
    from otpr.cli.serve import Serve

    groups_and_info = (data.Data, policy.Policy, Info)
    classes = (Quickstart, Collect, Pretrain, Finetune, Evaluate, Serve, *groups_and_info)
    commands: dict[str, Any] = dict(zip(COMMANDS, classes, strict=True))
    commands |= {name: point.load() for name, point in plugins().items()}
    return commands, {"data": data.SUBCOMMANDS, "policy": policy.SUBCOMMANDS}


_TYPES = tyro.constructors.ConstructorRegistry()
"""Parsers of values whose form differs from tyro's."""


@_TYPES.primitive_rule
def _truth(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[bool] | None:
    """Parse booleans of options that are not flags, as in `--return-bound false`."""
    if info.type is not bool:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=lambda words: words[0] == "true",
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
        choices=("true", "false"),
    )


def _check_names(
    name: str, arguments: list[str], command: Any, groups: Mapping[str, Mapping[str, type]]
) -> None:
    """Check names of subcommands and options; tyro suggests names only if there is no other error.

    Args:
        name: the command's name.
        arguments: the arguments after it.
        command: its class, or an instance with its defaults.
        groups: for commands with subcommands, the subcommands by name.

    Raises:
        OtprError: a subcommand or an option is unknown.
    """
    if arguments and not arguments[0].startswith("-") and name in (*groups, "finetune"):
        second = arguments[0]
        if name in groups and second not in groups[name]:
            raise unknown_name(f"command after `otpr {name}`:", second, groups[name])
        command = groups[name][second] if name in groups else command
        name = f"{name} {second}"
    known = {"--help", *option_names(command)}
    for argument in arguments:
        option = argument.split("=", 1)[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            raise unknown_name(f"option of `otpr {name}`:", argument.split("=", 1)[0], known)


def option_names(command: Any) -> list[str]:
    """The options of a command as typed, from its class or an instance with its defaults."""
    return [f"--{field.replace('_', '-')}" for field in _fields(command)]


def _fields(settings: Any) -> Iterator[str]:
    """The options of a dataclass: its fields, and those of nested dataclasses.

    Args:
        settings: the class, or an instance, whose fields may have subclasses of the declared types.
    """
    types = get_type_hints(settings if isinstance(settings, type) else type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        inner, *marks = get_args(types[field.name]) if _marked(types[field.name]) else (types[field.name],)
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner if isinstance(settings, type) else getattr(settings, field.name))
        else:
            names = [
                mark.name for mark in marks if getattr(mark, "name", None)
            ]  # as in tyro.conf.arg(name=...)
            yield names[0] if names else field.name


def _marked(kind: Any) -> bool:
    return get_origin(kind) is Annotated


def _again(arguments: list[str]) -> str:
    """The command line that resumes a run, with the program's path if it is not on PATH."""
    program = "otpr"
    called = Path(sys.argv[0])
    if called.name == program and shutil.which(program) != str(called):
        program = sys.argv[0]
    again = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    return shlex.join([program, *again, "--resume"])
