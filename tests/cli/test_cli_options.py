"""The settings of algorithms as options of `otpr finetune`, without running it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from otpr.agents import agent_config, algorithm_names, preset_names
from otpr.cli.finetune import Finetune
from otpr.cli.main import COMMANDS, main
from otpr.cli.plugins import plugins

EVERY = [(algorithm, preset) for algorithm in algorithm_names() for preset in preset_names(algorithm)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Finetune]:
    """The commands that would have been run."""
    commands: list[Finetune] = []
    monkeypatch.setattr(Finetune, "run", lambda command: commands.append(command))
    return commands


def helped(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """What the help says of each option: its words, and its default."""
    assert main([*arguments, "--help"]) == 0
    lines = [line.strip("│╭╰─╮╯ ") for line in capsys.readouterr().out.split("\n")]  # in a box, or not
    options: dict[str, tuple[str, str]] = {}
    for part in re.split(r"\n(?=--[a-z]|-h,)", "\n".join(lines))[1:]:
        value = r"(?:(?:\{\S+\}|\[.*?\]\]|[A-Z]+)(?:\|[A-Z]+)?)"
        found = re.match(
            rf"(?:-h, )?--([a-z-]+) ?{value}? ?(.*?)(?:\((?:default: (.*)|required)\))?$",
            " ".join(part.split()),
        )
        assert found is not None, part
        options[found[1]] = (found[2].strip(), found[3])
    return options


POLICY = ("policy inspect", "policy import", "policy export")


@pytest.mark.parametrize("command", [*COMMANDS, "data inspect", "data convert", *POLICY])
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]):
    options = helped(command.split(), capsys)
    assert options.pop("help")[0].startswith("show this help message and exit")
    assert [name for name, (text, _) in options.items() if len(text) <= 10] == []
    assert options or command in ("data", "policy")


@pytest.mark.parametrize(("algorithm", "preset"), EVERY)
def test_help_lists_every_setting_with_its_comment_and_the_presets_value(
    algorithm: str, preset: str, capsys: pytest.CaptureFixture[str]
):
    settings = agent_config(algorithm, preset)
    options = helped(["finetune", algorithm, "--preset", preset], capsys)
    for field in dataclasses.fields(settings):
        _, default = options[field.name.replace("_", "-")]
        value = getattr(settings, field.name)
        assert default == (str(value).lower() if isinstance(value, bool) else str(value))
    unexplained = [name for name, (text, _) in options.items() if len(text) <= 10]
    assert unexplained == []


def test_comments_of_settings_are_their_help(capsys: pytest.CaptureFixture[str]):
    options = helped(["finetune", "otpr"], capsys)
    assert options["epsilon"][0] == "strength of the L2 regularisation, in standard deviations of Q"
    assert options["gamma"][0] == "discount of one environment step"  # of the class that all inherit from
    assert options["env-steps"][0].startswith("environment steps in all;")
    assert options["only-successes"][0] == "use only episodes that succeeded"


def test_help_without_an_algorithm_is_that_of_otpr(capsys: pytest.CaptureFixture[str]):
    assert helped(["finetune"], capsys) == helped(["finetune", "otpr"], capsys)
    assert helped(["finetune", "--algorithm", "fql"], capsys) == helped(["finetune", "fql"], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fql", "--alpha", "5", "--return-bound", "false", "--batch-size=8"],
        ["--batch-size", "8", "--algorithm", "fql", "--alpha=5", "--return-bound", "false"],
        ["--algorithm=fql", "--set", "alpha=5", "return_bound=false", "batch_size=8"],
        ["fql", "--set", "alpha=5", "return_bound=false", "--batch_size", "8", "--algorithm", "fql"],
    ],
)
def test_settings_are_changed_by_options_and_by_set(
    arguments: list[str], parsed: list[Finetune], monkeypatch: pytest.MonkeyPatch
):
    assert main(["finetune", *arguments]) == 0
    [command] = parsed
    wanted = dataclasses.replace(agent_config("fql"), alpha=5.0, return_bound=False, batch_size=8)
    assert command.algorithm == "fql"
    assert command.settings() == wanted


def test_options_change_the_preset(parsed: list[Finetune]):
    assert (
        main(
            ["finetune", "--epsilon", "0.3", "--preset", "paper", "--rule", "highest", "--env-steps", "9000"]
        )
        == 0
    )
    [command] = parsed
    assert command.settings() == dataclasses.replace(
        agent_config("otpr", "paper"), epsilon=0.3, rule="highest"
    )
    assert (command.algorithm, command.preset, command.config.env_steps) == ("otpr", "paper", 9000)


def test_an_option_with_a_name_of_its_own_is_known(parsed: list[Finetune]):
    assert main(["finetune", "--async", "--most-rounds-late", "2"]) == 0
    assert parsed[0].config.asynchronous


def test_without_arguments_it_is_otpr_as_it_is_preset(parsed: list[Finetune]):
    assert main(["finetune"]) == 0
    assert parsed == [Finetune()]
    assert parsed[0].settings() == agent_config("otpr")


REFUSED = [
    (["fqll"], "Unknown algorithm 'fqll'. Did you mean 'fql'"),
    (["--algorithm", "fqll"], "Unknown algorithm 'fqll'. Did you mean 'fql'"),
    (["fql", "--algorithm", "dql"], "Give one algorithm; given dql and fql."),
    (["--algorithm"], "--algorithm needs a name after it."),
    (["--preset", "papr"], "Unknown preset of otpr 'papr'. Did you mean 'paper'?"),
    (["--epsilonn", "3"], "Unknown option of `otpr finetune otpr`: '--epsilonn'. Did you mean '--epsilon'"),
    (["fql", "--apha=3"], "Unknown option of `otpr finetune fql`: '--apha'. Did you mean '--alpha'"),
    (["--epsilon", "-1"], "epsilon must be a positive number, got -1.0."),
    (
        ["--set", "epsilon=0.2", "--epsilon", "0.3"],
        "epsilon is given by --epsilon and by --set. Give it once.",
    ),
    (["--set", "gama=0.2"], "Unknown field 'gama'. Did you mean 'gamma'?"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_makes_no_settings_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"otpr: {message}")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--return-bound", "maybe"], "'true'"),
        (["--epsilon", "small"], "--epsilon"),
        (["--pairing", "x"], "product"),
    ],
)
def test_value_of_another_type_is_refused_by_the_options_name(
    arguments: list[str], said: str, parsed: list[Finetune], capsys: pytest.CaptureFixture[str]
):
    assert main(["finetune", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert parsed == []


def test_settings_of_another_algorithm_are_refused():
    with pytest.raises(ValueError, match="The settings are of otpr, not of fql"):
        Finetune(algorithm="fql")


def test_the_list_of_commands_fits_on_one_screen(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 24 <= len(lines) <= 40
    assert max(map(len, lines)) <= 115
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line.startswith("  ")]
    assert set(listed) == {*COMMANDS, *plugins()}


def test_without_a_command_the_list_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "otpr quickstart" in said.err


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str]):
    assert main(["--tyro-write-completion", "bash", "-"]) == 0
    script = capsys.readouterr().out
    assert "finetune" in script
    assert "--run-dir" in script
