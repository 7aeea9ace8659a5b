"""Online fine-tuning as a resumable loop of rollouts, learning and evaluation.

The run is a state machine. Its whole state is `Progression` (a few numbers), the agent and its experience,
and each step depends only on this state. A run that is stopped between any two steps and resumed therefore
continues exactly as it would have without the stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax

from otpr.agents import check_only_chooses
from otpr.agents.parts.agent import AgentConfig, OffPolicyAgent, OnPolicyAgent, Round
from otpr.agents.parts.seeing import EncoderConfig, Seeing, new_agent
from otpr.data.agreement import of_task
from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.data.experience_files import ExperienceWriter
from otpr.devices import mesh_of, on_each, on_first
from otpr.envs import BrokenEnvironmentError, task_spec
from otpr.errors import OtprError
from otpr.policies.asked import BrokenSourceError
from otpr.policies.encoder import Encoder, encode
from otpr.policies.policy import Policy
from otpr.training import checkpoints
from otpr.training.evaluate import evaluate_both
from otpr.training.faults import (
    DivergedError,
    NotFiniteError,
    bad_update,
    check_converges,
    check_finite,
    not_finite,
)
from otpr.training.gathered import Gathered
from otpr.training.learning import encode_anew, end_round, learn_round, take_block
from otpr.training.loop import LoopConfig, Progression, next_block, next_step
from otpr.training.metric_rows import mean, of_collection, of_evaluation
from otpr.training.progress import Progress
from otpr.training.rollout import acts_alike
from otpr.training.rounds import Rounds, arms, check_rounds
from otpr.training.run_directory import RunDirectory
from otpr.training.safeguard import NAMES, Arm
from otpr.training.stopping import Abandoned, StopRequest
from otpr.training.versions import code_version
from otpr.training.workers import Workers

RECENT = 40
"""Number of training episodes in the rolling success rate."""


class FineTuning:
    """A fine-tuning run, executed by `run_to_end`.

    Args:
        base: the pre-trained policy.
        sets: the demonstrations: data sets of episodes, already validated.
        weights: relative frequency of each set; see `Mixture.of`.
        preset: name of the preset of the agent's configuration, for the summary.
        encoder: the settings of the image encoder's training.
        seed: every random number of the run derives from it.
        agent: the algorithm's settings, which name it.
        loop: the loop's settings.
        run: the directory of metrics, experience, checkpoints and the policy.
        workers: run the episodes, with as many actions at a time as the algorithm's policy executes.
        devices: number of devices to train on (`otpr.devices`).

    Raises:
        OtprError: the algorithm does not support the policy or the demonstrations.
    """

    def __init__(
        self,
        base: Policy,
        sets: Sequence[Sequence[Episode]],
        *,
        weights: Sequence[float] = (),
        preset: str,
        seed: int,
        agent: AgentConfig,
        encoder: EncoderConfig = EncoderConfig(),
        loop: LoopConfig,
        run: RunDirectory,
        workers: Workers,
        devices: int = 1,
    ):
        if base.asks:
            check_only_chooses(agent.algorithm)
        self.base, self.preset, self.seed = base, preset, seed
        self.loop, self.run, self.workers = loop, run, workers
        # the last round may overshoot by this much
        longest = workers.episode_limit * loop.num_envs
        mesh, room = mesh_of(devices), loop.env_steps + longest
        self.gathered = Gathered(
            base, sets, weights, agent=agent, keeps_frames=encoder.trains, room=room, mesh=mesh
        )
        self.agent = on_each(new_agent(base, self.experience, agent, encoder, jax.random.key(seed)), mesh)
        if loop.stop_on_divergence and not self._has_q():
            raise OtprError(f"--stop-on-divergence needs critics Q(s, a), and {agent.algorithm} has none.")
        if loop.no_base_evaluation and not self._learns:
            raise OtprError(
                f"--no-base-evaluation: {agent.algorithm} learns nothing, and that evaluation is all it "
                "does. Leave it out."
            )
        # in the policy's types, which may be less precise than the environment's
        seen = dataclasses.replace(workers.spec, observation=base.spec.observation)
        self.files = ExperienceWriter(run.path / "experience", workers.setup, spec=seen)
        self.at = Progression()
        # whether the algorithm's initial policy acts like the pre-trained one
        first = on_first(self.agent.deployed())
        self._from_base = acts_alike(first.single(), base.single(), loop.num_envs)
        check_rounds(loop, self.agent, workers, from_base=self._from_base)
        if loop.no_base_evaluation and self._from_base:
            self.at.evaluated_at = 0
        self._stop = StopRequest()
        self._rounds = Rounds(workers, base, loop, seed, self._stop)

    def _has_q(self) -> bool:
        agent, experience = self.agent, self.experience
        if not isinstance(agent, OffPolicyAgent):
            return False
        return agent.q_values(experience.sample_demonstrations(jax.random.key(0), 1)) is not None

    @property
    def _learns(self) -> bool:
        return isinstance(self.agent, OffPolicyAgent | OnPolicyAgent)

    @property
    def experience(self) -> Experience:
        """The agent's experience."""
        return self.gathered.experience

    @property
    def _encoder(self) -> Encoder:
        """The encoder that computed the states in `experience`."""
        return self.agent.encoder if isinstance(self.agent, Seeing) else self.base.encoder

    # ------------------------------------------------------------------------------------------- the machine

    def run_to_end(self) -> dict[str, Any]:
        """Execute the rest of the run, save the policy and return the summary.

        Raises:
            Stopped: a signal requested a stop; the state is saved. End the process with `exit_process`.
            OtprError: the environment failed for good, a number is not finite, or learning diverged. The
                state before is saved, together with the data to reproduce a non-finite number.
        """
        loop = self.loop
        progress = Progress(
            loop.env_steps, "fine-tuning", "steps", done=min(self.at.env_steps, loop.env_steps)
        )
        with progress, self._stop as stop:
            while (step := self._next()) is not None:
                before, started = self.at.env_steps, time.monotonic()
                with contextlib.suppress(Abandoned), self._kept():
                    step(progress)
                self.at.seconds += time.monotonic() - started
                done = min(self.at.env_steps, loop.env_steps) - min(before, loop.env_steps)
                if done:
                    progress.advance(done, success=mean(self.at.recent))
                if stop.requested or self.at.env_steps - self.at.checkpointed_at >= loop.checkpoint_every:
                    self.save()
                    stop.leave_if_requested(f"fine-tuning stopped at {self.at.env_steps:,} environment steps")
            self.save()
        setup = self.workers.setup
        meaning = of_task(task_spec(setup)).meaning.to_json()
        folder = self.run.path / "policy"
        self._deployed().save(folder, task=setup.task, view=setup.view(), meaning=meaning)
        summary = self.summary()
        self.run.write_summary(summary)
        return summary

    @contextlib.contextmanager
    def _kept(self) -> Generator[None]:
        """Save the state before a step that fails for an external reason."""
        try:
            yield
        # no step changes the state before it has succeeded
        except (BrokenEnvironmentError, BrokenSourceError, NotFiniteError, DivergedError) as error:
            hint = ""
            if isinstance(error, NotFiniteError):
                hint = f" To replay it: {error.save(self.run.path / 'faults')} (docs/run-directory.md)."
            self.save()
            raise OtprError(
                f"{error}{hint} The state before that is saved; --resume goes on from there."
            ) from error

    def _next(self) -> Callable[[Progress], None] | None:
        """The next step according to the state; None at the end."""
        step = next_step(
            self.at,
            self.loop,
            self.agent.config,
            learns=self._learns,
            from_base=self._from_base,
            encodes=self.gathered.frames is not None,
        )
        steps = {"evaluate": self._evaluate, "learn": self._learn, "encode": self._encode}
        steps |= {"end_round": self._end_round, "collect": self._collect}
        return None if step is None else steps[step]

    def _collect(self, progress: Progress) -> None:
        """Collect one round of episodes, which is written to disk before the agent learns from it."""
        at, n, config = self.at, self.loop.num_envs, self.agent.config
        rollout, arm, late = self._rounds.take(at, self.agent)
        by_encoder = functools.partial(encode, self._encoder)
        collected = [Collected.of(episode, by_encoder) for episode in rollout.episodes]
        learnt = {}
        if isinstance(self.agent, OnPolicyAgent):
            learnt = self._learn_round(self.agent, Round(collected, self.seed))
        if rollout.episodes:
            self.files.add(rollout.episodes)
            at.files, at.files_digest = self.files.count, self.files.digest
        self.gathered.add(collected)
        for each in collected:
            at.env_steps += len(each.episode)
            at.updates_due += config.update_ratio * len(each.episode)
            at.round_due = isinstance(self.agent, OffPolicyAgent)
        at.episodes += n
        at.broken_episodes += len(rollout.broken)
        for seed, cause in rollout.broken.items():
            progress.message(f"Episode of seed {seed} dropped. {cause}")
        outcomes = [episode.success for episode in rollout.episodes]
        at.recent = (at.recent + outcomes)[-RECENT:]
        if self.loop.safeguard:
            at.judged(self.loop, self._arms, arm, outcomes)
            learnt |= at.evidence.metrics(self._arms, arm)
        self._rounds.ask_ahead(at, self.agent)  # before learning, so that they run in parallel
        self._log({**of_collection(at, rollout), **late, **learnt})

    def _deployed(self) -> Policy:
        """The policy that is evaluated and saved."""
        arm = self.at.deployed(self.loop)
        if arm == "base":
            return self.base.single()
        deployed = self.agent.deployed()
        return on_first(deployed.single() if arm == "single" else deployed)

    @property
    def _arms(self) -> list[Arm]:
        return arms(self.agent)

    def _learn_round(self, learner: OnPolicyAgent, data: Round) -> dict[str, float]:
        """Let an on-policy algorithm learn from the round's episodes, and return its metrics."""
        agent, updates, plain = self._stop.do(learn_round, learner, data)
        number = self.at.updates + updates
        what = f"Learning diverged in the gradient steps {self.at.updates + 1:,} to {number:,}"
        check_finite(plain, agent, learner, what, f"round-{number}")
        self.agent = agent
        self.at.updates += updates
        return {"updates": self.at.updates, **plain}

    def _learn(self, progress: Progress) -> None:
        """Take a block of gradient steps: offline, of the critics only, or of critics and policy."""
        at = self.at
        assert isinstance(self.agent, OffPolicyAgent)
        phase, n = next_block(at, self.loop, self.agent.config)
        # an external policy is not trained
        update_policy = phase != "warm-up" and not self.base.asks
        frames = self.gathered.frames
        agent, plain = self._stop.do(take_block, self.agent, self.experience, n, update_policy, frames)
        if not_finite(plain, agent):
            raise bad_update(self.agent, self.experience, n, update_policy, at.updates, frames)
        if self.loop.stop_on_divergence:
            check_converges(plain, at.updates + n)
        self.agent = agent
        at.learned(phase, n)
        self._log({"updates": at.updates, **plain})

    def _encode(self, progress: Progress) -> None:
        """Re-encode all states with the trained encoder, which acts from then on."""
        gathered = self.gathered
        assert isinstance(self.agent, Seeing) and gathered.frames is not None
        agent, experience, moved = self._stop.do(
            encode_anew, self.agent, gathered.experience, gathered.frames.episodes
        )
        self.agent, gathered.experience = agent, experience
        self.at.encoded_at = self.at.updates
        self._log({"encoder/updates": self.at.updates, "encoder/moved": moved})

    def _end_round(self, progress: Progress) -> None:
        """The agent's work once per round."""
        assert isinstance(self.agent, OffPolicyAgent)
        number = self.at.rounds + 1
        agent, plain = self._stop.do(end_round, self.agent, self.experience)
        what = f"The end of round {number}, after {self.at.updates:,} updates, went wrong"
        check_finite(plain, agent, self.agent, what, f"end-of-round-{number}")
        self.agent = agent
        self.at.round_due = False
        self.at.rounds = number
        if plain:
            self.at.own = plain
            self._log({f"{self.agent.config.algorithm}/round": number, **plain})

    def _evaluate(self, progress: Progress) -> None:
        """Evaluate the deployed policy and its single-sample version on held-out initial conditions."""
        at, loop = self.at, self.loop
        first, last = at.evaluated_at < 0, at.env_steps >= loop.env_steps
        episodes = loop.final_eval_episodes if first or last else loop.eval_episodes
        started = time.monotonic()
        deployed = self._deployed()
        if first and self._learns:  # the untrained critics cannot choose yet
            deployed = deployed.single()
        both = deployed.chooser is not None and (loop.single == "always" or (loop.single == "end" and last))
        chosen, single = evaluate_both(deployed, self.workers, episodes, single=both, stop=self._stop)
        at.evaluated(chosen, single, first=first)
        self._log({**of_evaluation(at, chosen), "eval/seconds": time.monotonic() - started})
        name = "deployed" if single is None else f"single sample {single.success_rate:.0%}, deployed"
        if first:
            name = "base policy" if self._from_base else "first policy"
        elif self.loop.safeguard and (arm := at.deployed(loop)) != "learnt":
            name = f"{name}: {NAMES[arm]} policy"
        progress.message(f"{at.env_steps:>7,} steps: {name} {chosen}")

    # -------------------------------------------------------------------------------------------- the record

    def _log(self, row: dict[str, Any]) -> None:
        self.at.rows += 1
        self.run.log(
            {"env_steps": self.at.env_steps, "row": self.at.rows, "seconds": round(self.at.seconds, 3), **row}
        )

    def save(self) -> None:
        """Write a checkpoint: the agent and the progression, which counts the files of experience."""
        self.at.checkpointed_at = self.at.env_steps
        # numbered by metric rows: every step of the machine writes one, so the number increases
        checkpoints.save(self.run.checkpoints, self.at.rows, self.agent, dataclasses.asdict(self.at))

    def restore(self) -> None:
        """Go back to the newest checkpoint, or to the start if there is none, and drop later data.

        Raises:
            OtprError: the checkpoint or the experience that it counts is damaged or missing.
        """
        step = checkpoints.latest(self.run.checkpoints)
        if step is not None:
            agent, state = checkpoints.load(self.run.checkpoints, step, self.agent)
            self.agent = on_each(agent, self.experience.store.mesh)  # saved by any number of devices
            self.at = Progression.of(state)
        self.gathered.restore(self.files.back_to(self.at.files, self.at.files_digest), self._encoder)
        self.run.rewind("row", self.at.rows)

    def summary(self) -> dict[str, Any]:
        """The results so far, in the form of summary.json."""
        encoder = "frozen" if self.base.spec.images else "none"
        if isinstance(self.agent, Seeing):
            encoder = "trained"
        return {
            "task": self.workers.task_id,
            "algorithm": self.agent.config.algorithm,
            "preset": self.preset,
            "seed": self.seed,
            "env_steps": self.at.env_steps,
            "episode_limit": self.workers.episode_limit,
            "shifts": [str(shift) for shift in self.workers.setup.shifts],
            "execute": self.experience.store.spec.execute,
            "observation": self.base.spec.to_json()["observation"],
            "encoder": encoder,
            **self.at.outcome(self.loop, self.agent.config.algorithm),
            "code_version": code_version(),
        }
