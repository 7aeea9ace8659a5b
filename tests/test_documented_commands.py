"""Every command and option in the documentation is one that there is: a renamed option breaks this test.

Commands in blocks of code are parsed as they are printed, without being run. Of commands and options within
sentences, which may hold placeholders, the names are looked up.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from otpr.agents import agent_config, algorithm_names
from otpr.cli.finetune import Finetune
from otpr.cli.main import command_classes, option_names, parsed
from otpr.errors import OtprError

ROOT = Path(__file__).resolve().parents[1]
# what was once tried, in docs/devlog, may have been tried with options that are gone
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "devlog" not in page.parts]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def block_commands(text: str) -> list[list[str]]:
    """The commands in the blocks of a page, each as its words."""
    commands: list[list[str]] = []
    for language, body in BLOCK.findall(text):
        if language not in ("", "sh", "console"):
            continue
        for line in body.replace("\\\n", " ").splitlines():
            if language == "console" and not line.startswith("$ "):
                continue
            for part in re.split(r"&&|(?<= )\|(?= )|(?<=\S) > ", line.removeprefix("$ ")):
                if re.match(r" *(\S*/bin/)?(otpr|make|python) ", part + " "):
                    words = shlex.split(part, comments=True)
                    commands.append([word for word in words if word != "..."])
    return commands


def inline_code(text: str) -> list[str]:
    """Code within sentences and tables, with its line breaks taken out."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def check_module(words: list[str]) -> None:
    """`python -m benchmarks.NAME`: the module is there."""
    if words[1:2] == ["-m"] and words[2].startswith("benchmarks"):
        assert importlib.util.find_spec(words[2]) is not None, f"{' '.join(words)}: no such module"


@cache
def check_parsed(words: tuple[str, ...]) -> None:
    if "--tyro-write-completion" in words:  # it would write the file
        return
    try:
        parsed(words[1:])
    except (OtprError, SystemExit) as error:
        pytest.fail(f"{shlex.join(words)}: {error}")


def all_options() -> dict[str, set[str]]:
    """The options of each command, by its words; `otpr finetune` has those of all algorithms."""
    commands, groups = command_classes()
    known = {name: set(option_names(cls)) for name, cls in commands.items() if name not in groups}
    known["finetune"] = {
        option
        for name in algorithm_names()
        for option in option_names(Finetune(algorithm=name, agent=agent_config(name)))
    } | {"--algorithm"}
    for name, within in groups.items():
        known |= {f"{name} {second}": set(option_names(cls)) for second, cls in within.items()}
        known[name] = set().union(*(known[f"{name} {second}"] for second in within))
    return {name: {*options, "--help"} for name, options in known.items()}


OPTIONS = all_options()
ANY = set().union(*OPTIONS.values()) | {"--tyro-write-completion"}
# options of other programs that the pages speak of
OTHERS = {"--no-deps", "--rotate", "--strict"}


def check_names(code: str) -> None:
    """The command of a piece of inline code, and its options, are known."""
    words = code.split()
    command = words[1]
    second = " ".join(words[1:3])
    assert command in OPTIONS or command.isupper(), f"`{code}`: no such command"
    known = OPTIONS.get(second, OPTIONS.get(command, ANY)) | {"--tyro-write-completion"}
    for word in words[2:]:
        if option := re.match(r"--[a-z][a-z-]*", word):
            assert option[0] in known, f"`{code}`: no such option"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_are_there(page: Path) -> None:
    text = page.read_text()
    for words in block_commands(text):
        program = Path(words[0]).name
        if program == "python":
            check_module(words)
        elif program == "make":
            assert words[1] in TARGETS, f"make {words[1]}: no such target"
        else:
            check_parsed(("otpr", *words[1:]))
    for code in inline_code(text):
        words = code.removeprefix(".venv/bin/").split()
        if words[0] == "otpr" and len(words) > 1 and not words[1].startswith(("-", "...")):
            check_names(" ".join(words))
        elif words[0] == "make" and len(words) > 1:
            assert words[1] in TARGETS, f"`{code}`: no such target"
        elif Path(words[0]).name == "python":
            check_module(words)
        elif option := re.match(r"--[a-z][a-z-]*", code):
            assert option[0] in ANY | OTHERS, f"`{code}`: no such option of any command"


def test_blocks_are_read_as_a_shell_reads_them() -> None:
    page = "```\n.venv/bin/otpr info  # all\notpr pretrain --data a \\\n    --seed 3\n```\n"
    page += "```console\n$ otpr info\nmake\n```\n"
    assert block_commands(page) == [
        [".venv/bin/otpr", "info"],
        ["otpr", "pretrain", "--data", "a", "--seed", "3"],
        ["otpr", "info"],
    ]


def test_a_renamed_option_would_be_found() -> None:
    with pytest.raises(AssertionError, match="no such option"):
        check_names("otpr evaluate RUN --episode 3")
    with pytest.raises(pytest.fail.Exception, match="Did you mean '--episodes'"):
        check_parsed(("otpr", "evaluate", "runs/a", "--episode", "3"))


def test_settings_of_algorithms_are_among_the_options() -> None:
    for name in algorithm_names():
        fields = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(agent_config(name))}
        assert fields <= OPTIONS["finetune"]
