"""The data that a run learns from: demonstrations and its own episodes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from jax.sharding import Mesh

from otpr.agents.parts.agent import AgentConfig
from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.data.frames import DecisionObservations, spooled
from otpr.data.spool import Spool
from otpr.policies.encoder import Encoder, encode
from otpr.policies.policy import Policy


class Gathered:
    """A growing `Experience` and, for a trainable encoder, the observations of its states.

    Args:
        base: the pre-trained policy, whose encoder the states are computed with at first.
        sets: the demonstrations: data sets of episodes, already validated.
        weights: relative frequency of each set; see `Mixture.of`.
        agent: the algorithm's settings.
        keeps_frames: whether to keep observations, for a trainable encoder.
        room: number of environment steps that will be added; more are possible but cause a recompilation.
        mesh: the devices among which the experience is divided.

    Attributes:
        experience: the agent's experience.
        frames: the observations of its states, if they are kept; otherwise None.

    Raises:
        OtprError: the weights are not positive, or there is not one for each set.
    """

    def __init__(
        self,
        base: Policy,
        sets: Sequence[Sequence[Episode]],
        weights: Sequence[float],
        *,
        agent: AgentConfig,
        keeps_frames: bool,
        room: int,
        mesh: Mesh | None = None,
    ):
        by_base = functools.partial(encode, base.encoder)
        spec = agent.acting_spec(base.spec)
        self.experience = Experience.of(
            sets, weights, by_base, spec=spec, gamma=agent.gamma, room=room, mesh=mesh
        )
        self.frames: DecisionObservations | None = None
        if keeps_frames:
            demonstrated = (episode for part in sets for episode in part)
            self.frames, self._spool = DecisionObservations(demonstrated, base.spec), Spool()

    def add(self, episodes: Iterable[Collected]) -> None:
        """Add encoded episodes of the agent."""
        for collected in episodes:
            if self.frames is not None:
                self.frames.add(spooled(collected.episode, self._spool))
            self.experience = self.experience.add(collected)

    def restore(self, episodes: Iterable[Episode], encoder: Encoder) -> None:
        """Restore the episodes and the encoder of a checkpoint. Call this once, before adding anything."""
        by_encoder = functools.partial(encode, encoder)
        if self.frames is not None:  # the demonstrations, which the pre-trained encoder has encoded
            self.experience = self.experience.encoded(self.frames.episodes, by_encoder)
        self.add(Collected.of(episode, by_encoder) for episode in episodes)
