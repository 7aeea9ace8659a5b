"""The text of `otpr --help`: the main workflow and every command, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

SUMMARIES = {
    "quickstart": "demonstrations, imitation, fine-tuning and evaluation of one task",
    "collect": "record demonstrations of a scripted expert",
    "pretrain": "imitate demonstrations with a diffusion policy",
    "finetune": "improve a policy by interaction, with OTPR or one of nine peers",
    "evaluate": "success of policies on held-out initial conditions, with films",
    "serve": "answer requests for actions over a WebSocket",
    "data": "inspect data sets, and convert those of other projects",
    "policy": "inspect policies, import those of other projects, export",
    "info": "versions, devices, tasks; --report for a bug report",
    "bench": "run algorithms on suites of tasks",
    "report": "one HTML page of a run or of a benchmark",
}

_HEAD = """usage: otpr COMMAND [OPTIONS]

Fine-tune a diffusion policy by reinforcement learning with optimal transport.

The whole job on a simulated robot, about 6 minutes on two cores:
  otpr quickstart

The same, step by step:
  otpr collect metaworld/peg-insert-side-v3 --episodes 10 --noise 0.7 --out runs/demonstrations
  otpr pretrain --data runs/demonstrations --run-dir runs/base
  otpr finetune otpr --policy runs/base --data runs/demonstrations --run-dir runs/otpr
  otpr evaluate runs/base runs/otpr
  otpr report runs/otpr

Commands:"""

_TAIL = """
`otpr COMMAND --help` lists a command's options, `otpr finetune NAME --help` every setting of an algorithm.
Your own environment, data or policy: docs/bring-your-own.md, docs/data.md, docs/other-policies.md.
Completion for bash, zsh, fish and tcsh: docs/quickstart.md#shell-completion"""


def overview(plugins: Mapping[str, metadata.EntryPoint]) -> str:
    """The text of the overview.

    Args:
        plugins: commands of other packages by name. Unknown ones are listed with their package.
    """
    rows: list[str] = []
    for name in dict.fromkeys([*SUMMARIES, *plugins]):
        if name in ("bench", "report") and name not in plugins:
            continue
        summary = SUMMARIES.get(name)
        if summary is None:
            dist = plugins[name].dist
            summary = "of another package" if dist is None else f"of the package {dist.name}"
        rows.append(f"  {name:11} {summary}")
    return "\n".join([_HEAD, *rows, _TAIL])
