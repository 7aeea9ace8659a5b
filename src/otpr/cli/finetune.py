"""`otpr finetune`: learning by interaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from otpr.agents import agent_class, agent_config, algorithm_names, check_only_chooses, preset_names
from otpr.agents.parts.agent import AgentConfig, OffPolicyAgent
from otpr.agents.parts.seeing import EncoderConfig, check_encoder
from otpr.agents.parts.settings import changed
from otpr.cli.asked import TIMEOUT, asked_policy, asked_setup, is_asked, open_offer
from otpr.data.agreement import Side, agree, of_task
from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.data.meaning import Meaning
from otpr.data.seeds import evaluation_seed
from otpr.devices import check_devices
from otpr.envs import Setup, check_filming, task_spec
from otpr.envs.shifts import parse_all
from otpr.errors import OtprError, check_at_least, check_seed
from otpr.policies.loading import load_policy, policy_meaning, policy_task, policy_view
from otpr.policies.policy import Policy
from otpr.policies.renormalized import is_foreign, is_renormalized, renormalized
from otpr.storage import check_writable
from otpr.training.curve import learning_curve
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.imitation import vectors_of
from otpr.training.placement import Placement
from otpr.training.run_directory import RunDirectory
from otpr.training.sinks import DEFAULT
from otpr.training.video import record


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Improve a policy by interaction, with OTPR or one of its peers."""

    # otpr, or a peer by the name of its page in docs/algorithms
    algorithm: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGORITHM")] = "otpr"
    # folder of the pre-trained policy: a policy, or the run directory of `otpr pretrain`. Or a policy that
    # only answers, and among whose plans is chosen: ws://HOST:PORT of its server, or module:factory of an
    # object with propose(observations, n, seed) (docs/serving.md)
    policy: str = "runs/pretrain"
    # actions of each plan that are executed before the next; left out, as the policy says
    execute: int | None = None
    # seconds that a policy which only answers may take for an answer
    policy_timeout: float = TIMEOUT
    # the demonstrations
    demonstrations: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataConfig
    )
    # where everything about this run goes
    run_dir: Path = Path("runs/finetune")
    # the loop of interaction and learning
    config: Annotated[LoopConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=LoopConfig)
    # whether the encoder of images goes on learning
    seeing: Annotated[EncoderConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=EncoderConfig
    )
    # where the episodes run
    placement: Annotated[Placement, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Placement)
    # devices that learn as one: each has a share of the replay and of every batch (docs/scale.md). A run may
    # be resumed with another number
    devices: int = 1
    # where the algorithm's settings start from; OTPR has default, paper and release, see docs/fidelity.md
    preset: str = "default"
    # the algorithm's settings, those of the preset where not given
    agent: Annotated[AgentConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = dataclasses.field(
        default_factory=lambda: agent_config("otpr")
    )
    # short form of these settings, as field=value, e.g. --set epsilon=0.1 candidates=32
    set: tuple[str, ...] = ()
    # do not film two episodes before and after
    no_video: bool = False
    # task to interact with; where left out, the policy's
    task: str | None = None
    # steps after which an episode is truncated; left out, the task's own limit
    episode_limit: int | None = None
    # what is different from the task, NAME:LEVEL, or random; docs/shifts.md
    shift: tuple[str, ...] = ()
    # every random number of the run derives from it
    seed: int = 0
    # loggers beside metrics.jsonl: tensorboard, wandb, trackio, or none; several may be named
    log: tuple[str, ...] = DEFAULT
    # go on with the run in the directory, exactly
    resume: bool = False
    # delete the run in the directory first
    overwrite: bool = False

    @property
    def about(self) -> str:
        """The first lines of the help."""
        peers = ", ".join(name for name in algorithm_names() if name != self.algorithm)
        return (
            f"Improve a policy by interaction, here with {self.algorithm}; the last options are its settings "
            f"(presets: {', '.join(preset_names(self.algorithm))}).\n"
            f"`otpr finetune NAME --help` lists those of {peers}."
        )

    def __post_init__(self) -> None:
        """Check that the settings belong to the named algorithm."""
        if self.agent.algorithm != self.algorithm:
            raise ValueError(f"The settings are of {self.agent.algorithm}, not of {self.algorithm}.")

    def settings(self) -> AgentConfig:
        """The algorithm's settings: the preset's, changed by options or by `--set`.

        Raises:
            OtprError: a field is changed by both, unknown (the message suggests the nearest), or out of
                range.
        """
        settings, preset = changed(self.agent, self.set), agent_config(self.algorithm, self.preset)
        for name in (change.partition("=")[0] for change in self.set):
            if getattr(self.agent, name) != getattr(preset, name):
                raise OtprError(f"{name} is given by --{name.replace('_', '-')} and by --set. Give it once.")
        return settings

    def run(self) -> None:
        """Fine-tune, evaluate, save the policy and draw the learning curve."""
        check_seed(self.seed)
        check_writable(self.run_dir, "--run-dir", folder=True)
        agent = self.settings()
        draws = issubclass(agent_class(self.algorithm), OffPolicyAgent)
        check_devices(self.devices, self.algorithm, agent.batch_parts if draws else ())
        check_at_least(0.1, self, "policy_timeout")
        base, setup, sets, checksum = self._asked() if is_asked(self.policy) else self._loaded()
        setup = dataclasses.replace(setup, shifts=parse_all(self.shift))  # the data have no shifts
        task_spec(setup).required_limit()
        check_encoder(base, self.algorithm, self.seeing)
        config = {
            "policy": self.policy,
            # nothing where they are not, as in runs that began before they could be
            **({"renormalized": True} if is_renormalized(base) else {}),
            **({} if checksum is None else {"policy_checksum": checksum}),
            **({} if self.execute is None else {"execute": self.execute}),
            **self.demonstrations.record(sets),
            "task": setup.task,
            "spec": agent.acting_spec(base.spec).to_json(),
            "episode_limit": self.episode_limit,
            # left out without shifts, as in runs of versions that have none
            **({"shifts": [str(shift) for shift in setup.shifts]} if setup.shifts else {}),
            "algorithm": self.algorithm,
            "preset": self.preset,
            "seed": self.seed,
            "agent": dataclasses.asdict(agent),
            "loop": self.config.record(),
            # left out for a frozen encoder, as in runs of versions that cannot train it
            **({"encoder": dataclasses.asdict(self.seeing)} if self.seeing.trains else {}),
        }
        with RunDirectory.open(
            self.run_dir,
            command="finetune",
            config=config,
            resume=self.resume,
            overwrite=self.overwrite,
            log=self.log,
        ) as run:
            fine_tune(
                run,
                base,
                sets,
                weights=self.demonstrations.weights,
                setup=setup,
                preset=self.preset,
                seed=self.seed,
                agent=agent,
                encoder=self.seeing,
                loop=self.config,
                placement=self.placement,
                devices=self.devices,
                resume=self.resume,
                video=not self.no_video,
            )

    def _loaded(self) -> tuple[Policy, Setup, list[list[Episode]], str | None]:
        """Load the base from its folder, the task and the demonstrations."""
        path = Path(self.policy)
        base, own = load_policy(path), policy_task(path)
        setup = policy_setup(path, self.task, self.episode_limit)
        sets, _ = self.demonstrations.read(setup)
        if setup.task != own:
            before = f"was trained on {own}" if own else "does not name its task"
            print(f"The policy in {path} {before}; it is fine-tuned on {setup.task}.")
        check_fits(base, path, setup, self.demonstrations.accept)
        if is_foreign(base) and base.chooser is None:
            rows = vectors_of([episode for part in sets for episode in part], base.spec)
            base = renormalized(base, rows, task_spec(setup).resolution)
            print("States are normalised by the demonstrations; the policy acts as before (docs/lerobot.md).")
        return base if self.execute is None else base.executing(self.execute), setup, sets, None

    def _asked(self) -> tuple[Policy, Setup, list[list[Episode]], str | None]:
        """Like `_loaded` for an external base; also returns the checksum from its server."""
        check_only_chooses(self.algorithm)
        offer = open_offer(self.policy, self.policy_timeout)
        setup = asked_setup(offer, self.task, self.episode_limit)
        sets, _ = self.demonstrations.read(setup)
        setup = dataclasses.replace(setup, shifts=parse_all(self.shift))
        episodes = [episode for part in sets for episode in part]
        return asked_policy(offer, setup, episodes, self.execute), setup, sets, offer.checksum


def tailored(arguments: Sequence[str]) -> tuple[Finetune, list[str]]:
    """The command with the settings of the algorithm and preset named in its arguments.

    Args:
        arguments: the arguments after `otpr finetune`. The algorithm is the first one, unless that is an
            option, or follows `--algorithm`; by default it is otpr.

    Returns:
        The command, whose settings are the options and their defaults; the arguments, with the algorithm
        first.

    Raises:
        OtprError: the algorithm or the preset is unknown, or several algorithms are named.
    """
    rest = list(arguments)
    names = [] if not rest or rest[0].startswith("-") else [rest.pop(0)]
    more, rest = _taken(rest, "--algorithm")
    names = sorted({*names, *more}) or ["otpr"]
    if len(names) > 1:
        raise OtprError(f"Give one algorithm; given {' and '.join(names)}.")
    presets, _ = _taken(rest, "--preset")
    settings = agent_config(names[0], presets[-1] if presets else "default")
    return Finetune(algorithm=names[0], agent=settings), [names[0], *rest]


def _taken(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The values of an option, and the arguments without it."""
    values: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
        elif value := value if equals else next(words, ""):
            values.append(value)
        else:
            raise OtprError(f"{option} needs a name after it.")
    return values, rest


def fine_tune(
    run: RunDirectory,
    base: Policy,
    sets: list[list[Episode]],
    *,
    weights: tuple[float, ...] = (),
    setup: Setup,
    preset: str,
    seed: int,
    agent: AgentConfig,
    encoder: EncoderConfig = EncoderConfig(),
    loop: LoopConfig,
    placement: Placement,
    devices: int = 1,
    resume: bool,
    video: bool,
) -> dict[str, Any]:
    """Fine-tune in an open run directory, draw the learning curve and return the summary.

    If the task cannot be filmed, a message is printed at the start and the run continues without videos.
    """
    if video:
        try:
            check_filming(setup)
        except OtprError as error:
            print(f"No videos will be made: {error}")
            video = False
    with placement.workers(setup, agent.acting_spec(base.spec), loop, base) as workers:
        job = FineTuning(
            base,
            sets,
            weights=weights,
            preset=preset,
            seed=seed,
            agent=agent,
            encoder=encoder,
            loop=loop,
            run=run,
            workers=workers,
            devices=devices,
        )
        if resume:
            job.restore()
        summary = job.run_to_end()
    curve = run.path / "learning_curve.png"
    learning_curve(
        run.rows(),
        curve,
        title=f"{setup.task}, {agent.algorithm} ({preset}), seed {seed}",
        base_success=summary["base_success"],
    )
    print(f"Policy: {run.path / 'policy'}   Learning curve: {curve}")
    if video:
        after = load_policy(run.path)
        if after.asks:
            after = after.with_generator(base.generator)
        for name, policy in (("before", base), ("after", after)):
            film = run.videos / f"{name}.mp4"
            print(record(setup, policy.act, FILMED, film, history=policy.spec.history))
    return summary


FILMED = (evaluation_seed(0), evaluation_seed(1))
"""The filmed initial conditions: the first two of the evaluation."""


def policy_setup(path: Path, task: str | None = None, episode_limit: int | None = None) -> Setup:
    """The setup of the task that a policy acts in, with the policy's view.

    Args:
        path: the policy's folder.
        task: the name of a task that replaces its own.
        episode_limit: see `Setup`.

    Raises:
        OtprError: no task is named, or the policy's view cannot be read.
    """
    if not (name := task or policy_task(path)):
        raise OtprError(f"The policy in {path} does not name its task. Give it with --task.")
    setup, view = Setup(name, episode_limit), policy_view(path)
    try:
        return setup.viewing(view)
    except ValueError as error:
        raise OtprError(f"{path}: {error}. Copy or save the policy again.") from error


def check_fits(policy: Policy, path: Path, setup: Setup, accept: tuple[str, ...] | None = None) -> None:
    """Check that a policy can act in a task.

    Args:
        policy: the policy.
        path: the policy's path.
        setup: the task's setup.
        accept: see `agree`.

    Raises:
        OtprError: the two differ, and the message lists the differences; or the task is unknown.
    """
    meaning = Meaning.from_metadata({"meaning": policy_meaning(path)}, policy.spec)
    hint = "Give the policy's own task with --task, or another policy."
    side = Side(f"the policy in {path}", policy.spec.of_task(), meaning=meaning, advice=hint)
    for line in agree(side, of_task(task_spec(setup)), accept):
        print(line)
