"""The command line: it parses, calls `run` of a command, and turns errors into plain words."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import tyro

from otpr.errors import OtprError, unknown_name

COMMANDS = ("quickstart", "collect", "pretrain", "finetune", "evaluate", "info")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: without the program's name; None takes the process's.

    Returns:
        The exit status: 0 done, 2 something the user can mend, 130 stopped by a signal (the state is saved).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise unknown_name("command", arguments[0], COMMANDS)
        return _run(arguments)
    except OtprError as error:
        print(f"otpr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\notpr: interrupted.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    # JAX takes seconds to import; a misspelt command need not wait for it
    from otpr.commands import Collect, Evaluate, Finetune, Info, Pretrain
    from otpr.quickstart import Quickstart
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.stopping import Stopped

    command = tyro.extras.subcommand_cli_from_dict(
        dict(zip(COMMANDS, (Quickstart, Collect, Pretrain, Finetune, Evaluate, Info), strict=True)),
        prog="otpr",
        description="Fine-tune a diffusion policy by reinforcement learning with optimal transport.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    use_compilation_cache()
    try:
        command.run()
    except Stopped as stopped:
        again = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
        print(f"otpr: {stopped}. Go on with:\n  otpr {shlex.join([*again, '--resume'])}")
        return 130
    return 0
