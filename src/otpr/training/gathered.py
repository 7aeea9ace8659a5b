"""What a run learns from: the demonstrations and its own episodes."""

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
    """An `Experience` that grows, and what its states are made of where an encoder goes on learning.

    Args:
        base: the pre-trained policy, whose encoder the states are computed with at first.
        sets: the demonstrations: data sets of episodes, already validated.
        weights: how often each set is drawn; see `Mixture.of`.
        agent: the algorithm's settings.
        keeps_frames: whether what the observations show is kept, for an encoder that goes on learning.
        room: environment steps that will be added; more may be, at the price of compiling anew.
        mesh: the devices that the experience is spread over.

    Attributes:
        experience: what the agent learns from.
        frames: what its states are made of, where that is kept; else None.

    Raises:
        OtprError: the weights are not positive, or not one a set.
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
        """Add episodes of the agent's own, encoded as all others are."""
        for collected in episodes:
            if self.frames is not None:
                self.frames.add(spooled(collected.episode, self._spool))
            self.experience = self.experience.add(collected)

    def restore(self, episodes: Iterable[Episode], encoder: Encoder) -> None:
        """Go back to a checkpoint, its episodes and its encoder; once, before anything is added."""
        by_encoder = functools.partial(encode, encoder)
        if self.frames is not None:  # the demonstrations, which the pre-trained encoder has encoded
            self.experience = self.experience.encoded(self.frames.episodes, by_encoder)
        self.add(Collected.of(episode, by_encoder) for episode in episodes)
