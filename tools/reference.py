"""The generated pages of the reference: modules, commands, settings of algorithms, metrics."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from otpr.agents import agent_config, algorithm_names, preset_names
from otpr.agents.parts.agent import AgentConfig
from otpr.cli.finetune import Finetune
from otpr.cli.main import command_classes
from otpr.cli.overview import SUMMARIES

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "otpr": "otpr: policies, specs, errors, files",
    "otpr.ot": "otpr.ot: optimal transport",
    "otpr.policies": "otpr.policies",
    "otpr.policies.convert": "otpr.policies.convert: other projects' policies",
    "otpr.diffusion": "otpr.diffusion",
    "otpr.networks": "otpr.networks",
    "otpr.data": "otpr.data",
    "otpr.data.convert": "otpr.data.convert: other projects' data",
    "otpr.envs": "otpr.envs",
    "otpr.envs.shifts": "otpr.envs.shifts",
    "otpr.agents": "otpr.agents: the algorithms",
    "otpr.agents.otpr": "otpr.agents.otpr",
    "otpr.agents.dppo": "otpr.agents.dppo",
    "otpr.agents.parts": "otpr.agents.parts: what algorithms share",
    "otpr.training": "otpr.training",
    "otpr.serving": "otpr.serving",
    "otpr_bench": "otpr_bench: benchmarks",
}
"""Each package that has a page, with the page's title."""


class Option(NamedTuple):
    """An option of a command, or a setting of an algorithm."""

    name: str
    value: str
    default: str
    meaning: str


# --------------------------------------------------------------------------------------------- modules


def modules(package: str) -> list[str]:
    """The modules of a package that have something public, the package itself among them."""
    folder = ROOT / "src" / Path(*package.split("."))
    public = re.compile(r"^(class|def) [^_]", re.MULTILINE)
    found = [package] if public.search((folder / "__init__.py").read_text()) else []
    for file in sorted(folder.glob("*.py")):
        if not file.stem.startswith("_") and public.search(file.read_text()):
            found.append(f"{package}.{file.stem}")
    return found


def module_page(package: str) -> str:
    """A page of mkdocstrings' directives."""
    lines = [f"# {PACKAGES[package]}", ""]
    if package == "otpr":
        lines += [
            "`otpr.load_policy` and `otpr.Spec` are the names below; importing `otpr` imports no JAX.",
            "",
        ]
        lines += ["::: otpr.policies.loading.load_policy", ""]
    if package not in (within := modules(package)):  # what the package says of itself
        lines += [f"::: {package}", "    options:", "      members: false", ""]
    for module in within:
        lines += [f"::: {module}", ""]
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------- commands


def commands_page() -> str:
    """Every command with its options, their values, defaults and meanings."""
    commands, groups = command_classes()
    lines = [
        "# Commands",
        "",
        "This page is generated from the code. `otpr COMMAND --help` prints the same. Options may be written",
        "with `-` or `_`. Values in capitals are of that type; several values are separated by blanks.",
        "",
    ]
    for name in dict.fromkeys([*SUMMARIES, *commands]):
        if name in groups:
            for second, cls in groups[name].items():
                lines += _command(f"otpr {name} {second}", cls, cls)
        else:
            lines += _command(f"otpr {name}", commands[name], commands[name])
            if name == "finetune":
                lines += ["The settings of each algorithm: [settings](settings.md).", ""]
    return "\n".join(lines)


def _command(title: str, cls: Any, defaults: Any) -> list[str]:
    options = [option for option in options_of(defaults) if option.name]
    head = [f"## {title}", "", *inspect.cleandoc(cls.__doc__ or "").splitlines(), ""]
    return [*head, *option_table(options), ""]


def option_table(options: list[Option]) -> list[str]:
    """The options as a table."""
    rows = ["| option | value | default | meaning |", "|---|---|---|---|"]
    for option in options:
        cells = [f"`{option.name}`", option.value, option.default, option.meaning]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def options_of(command: Any) -> Iterator[Option]:
    """The options that a dataclass makes, those of dataclasses within it among them.

    Args:
        command: the class, or an instance: its settings may be of subclasses of their types.
    """
    cls: type = command if isinstance(command, type) else type(command)
    types = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        kind, marks = _unwrapped(types[field.name])
        default = _default(field) if isinstance(command, type) else getattr(command, field.name)
        if dataclasses.is_dataclass(kind):
            if kind is not AgentConfig:  # its subclasses have a page of their own
                yield from options_of(kind if default is dataclasses.MISSING else default)
            continue
        positional = tyro.conf.Positional in marks
        metavars = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
        names = [mark.name for mark in marks if getattr(mark, "name", None)]
        name = f"--{(names or [field.name])[0].replace('_', '-')}"
        if positional:
            name = metavars[0] if metavars else field.name.upper()
        yield Option(name, _value(kind), _shown(default), comment_of(cls, field.name))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _unwrapped(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(kind) is typing.Annotated:
        inner, *marks = typing.get_args(kind)
        return inner, tuple(marks)
    return kind, ()


def _value(kind: Any) -> str:
    """The values of a type, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if kind is bool:
        return "flag"
    if origin is tuple:
        shown = [_value(each) for each in inner if each is not Ellipsis]
        return f"{shown[0]} ..." if Ellipsis in inner else " ".join(shown)
    if inner:  # a union
        return " or ".join(_value(each) for each in inner if each is not type(None))
    return getattr(kind, "__name__", str(kind)).upper()


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`" + " ".join(map(str, typing.cast("tuple[Any, ...]", value))) + "`"
    return f"`{value}`"


def comment_of(cls: type, name: str) -> str:
    """The comment above a field, which is its help; a class that only gives another default has none."""
    for owner in cls.__mro__:
        if name in inspect.get_annotations(owner):
            lines = inspect.getsource(owner).splitlines()
            at = next(i for i, line in enumerate(lines) if re.match(rf"\s+{name}\s*:", line))
            while re.match(r"\s+\w+\s*:", lines[at - 1]):  # fields in a row share a comment
                at -= 1
            comment: list[str] = []
            while lines[at - 1].lstrip().startswith("#"):
                at -= 1
                comment.insert(0, lines[at].strip("# ").strip())
            if comment:
                return " ".join(comment)
    return ""


def settings_page() -> str:
    """Every setting of every algorithm, with its value in each preset."""
    lines = [
        "# Settings of the algorithms",
        "",
        "This page is generated from the code. A setting `name` is the option `--name` of",
        "`otpr finetune ALGORITHM`, or `--set name=value`; `--preset` selects where the settings start from.",
        "",
    ]
    for algorithm in algorithm_names():
        presets = {name: agent_config(algorithm, name) for name in sorted(preset_names(algorithm))}
        presets = {"default": presets.pop("default"), **presets}
        options = {option.name: option for option in options_of(presets["default"])}
        lines += [
            f"## {algorithm}",
            "",
            f"[What it is and where they come from](../algorithms/{algorithm}.md)",
            "",
        ]
        lines += ["| setting | " + " | ".join(f"`{name}`" for name in presets) + " | meaning |"]
        lines += ["|" + "---|" * (len(presets) + 2)]
        for field in dataclasses.fields(presets["default"]):
            option = options[f"--{field.name.replace('_', '-')}"]
            values = [_shown(getattr(preset, field.name)) for preset in presets.values()]
            meaning = option.meaning.replace("|", "\\|")
            lines.append(f"| `{field.name}` | {' | '.join(values)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def finetune_options(algorithm: str) -> set[str]:
    """The names of the options of `otpr finetune ALGORITHM`."""
    command = Finetune(algorithm=algorithm, agent=agent_config(algorithm))
    return {option.name for option in options_of(command)}


# --------------------------------------------------------------------------------------------- metrics


def metrics_page(docs: Path) -> str:
    """Every metric, from the tables of docs/run-directory.md and docs/algorithms."""
    pages = {"run-directory": docs / "run-directory.md"}
    pages |= {f"algorithms/{file.stem}": file for file in sorted((docs / "algorithms").glob("*.md"))}
    lines = [
        "# Metrics",
        "",
        "This page collects the metrics of [runs](../run-directory.md#metrics) and of the algorithms' pages.",
        "",
        "| metric | of | meaning |",
        "|---|---|---|",
    ]
    rows: list[tuple[str, str]] = []
    for name, file in pages.items():
        for line in file.read_text().splitlines():
            if found := re.match(r"^\| (`[a-z]+/[a-z_/]+`(?:, `[a-z]+/[a-z_/]+`)*) \| (.*) \|$", line):
                of = "all, OTPR" if name == "run-directory" else name.removeprefix("algorithms/")
                for metric in found[1].split(", "):
                    row = f"| {metric} | [{of}](../{name}.md#metrics) | {relinked(found[2])} |"
                    rows.append((metric, row))
    return "\n".join([*lines, *(row for _, row in sorted(rows))]) + "\n"


def relinked(text: str) -> str:
    """Links of a page in docs/ as they are one folder further down."""
    return re.sub(r"\]\((?!http|\.\./)([^)]+)\)", r"](../\1)", text)
