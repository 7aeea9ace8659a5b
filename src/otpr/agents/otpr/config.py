"""Settings of OTPR and its presets. docs/fidelity.md gives the source of each."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from otpr.agents.otpr.compatibility import Rule
from otpr.agents.otpr.keypoint_strategies import KeypointStrategy
from otpr.agents.parts.actor_critic import ActorConfig, CriticsConfig
from otpr.agents.parts.settings import at_least_zero, count, positive, rate, share
from otpr.ot.neural import Method


@dataclasses.dataclass(frozen=True)
class OTPRConfig(CriticsConfig, ActorConfig):
    """Settings of the algorithm; `PRESETS` has named ones."""

    algorithm: ClassVar[str] = "otpr"
    only_chooses: ClassVar[bool] = True

    # gradient steps for each environment step, and transitions of each: twice the steps on half the batch
    # learn more for the same time
    update_ratio: float = at_least_zero(0.5)
    batch_size: int = count(128)

    # --- critics

    # of the value function's regression on Q (IQL); above 0.5 it leans to the better actions
    expectile: float = rate(0.7)

    # --- policy

    # which pairs the score matching trains on: "occurring" draws those of the target measure by H(s_i, a_i);
    # "product" draws for s_i a partner a_j of any other state by H(s_i, a_j) (the paper's eq. 10);
    # "imitation" takes pairs of the target measure as they come
    pairing: Literal["occurring", "product", "imitation"] = "occurring"
    # pairs that are drawn so before each block of gradient steps, whose batches come from them; of "product",
    # whose H costs their square, `ot_block`
    pairs: int = count(8192)
    # how the deployed policy picks a sampled chunk: "draw" draws one by H, "highest" takes the one of the
    # highest H, "central" the most central one of the half with the highest H
    rule: Rule = "central"
    # sampled chunks among which H chooses when acting
    candidates: int = count(16)

    # --- transport

    # the action marginal q: every replayed chunk, or those of demonstrations and successful episodes alone
    target_measure: Literal["replay", "successes"] = "successes"
    # strength of the L2 regularisation, in standard deviations of Q
    epsilon: float = positive(0.1)
    # lambda, how freely the plan may leave the action marginal: 0 keeps it, a large number lets every state
    # choose for itself; in units of 1 / the standard deviation of Q
    column_relaxation: float = at_least_zero(1000.0)
    # share alpha of the guiding cost in the cost that potentials are trained on and training pairs drawn by;
    # and in the one that candidates are chosen by
    guiding_share: float = share(0.0)
    acting_guiding_share: float = share(0.0)
    # temperature of the relations to the keypoints
    guiding_temperature: float = positive(0.1)
    # which expert pairs may be keypoints: docs/keypoints.md
    keypoint_strategy: KeypointStrategy = "all"
    # expert pairs that the guiding cost refers to, spread evenly over those; and how many "diverse" chooses
    keypoints: int = count(64)
    # share of a block's pairs that are masked expert keypoints
    keypoint_share: float = share(0.0)
    # width and number of the hidden layers of u and v
    potentials_width: int = count(256)
    potentials_depth: int = count(2)
    # Adam's, of u and v
    potentials_learning_rate: float = positive(1e-3)
    # each round goes on from the last round's potentials
    warm_start: bool = True
    # how the potentials are trained: "regression" onto exact solutions of blocks, or "ascent" of the dual
    potentials_method: Method = "regression"
    # a round ends when the errors of rows and of columns on held-out pairs are both within the tolerance, or
    # after so many passes
    potentials_tolerance: float = positive(0.1)
    potentials_passes: int = count(1)
    # states and actions of a block, whose pairwise cost is computed once; blocks of fresh samples a pass
    ot_block: int = count(64)
    ot_blocks: int = count(24)
    # states and actions of a step, and steps a pass
    ot_batch: int = count(256)
    potentials_steps: int = count(150)

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        if self.potentials_method == "ascent" and self.ot_batch > self.ot_block:
            raise ValueError(
                f"With potentials_method=ascent, ot_batch ({self.ot_batch}) must not exceed ot_block "
                f"({self.ot_block})."
            )
        if self.potentials_method == "ascent" and self.potentials_steps < self.ot_blocks:
            raise ValueError(
                f"With potentials_method=ascent, potentials_steps ({self.potentials_steps}) must be at least "
                f"ot_blocks ({self.ot_blocks})."
            )

    @property
    def demonstrations_in_batch(self) -> int:
        """Number of a batch's transitions that come from demonstrations."""
        return round(self.batch_size * self.demonstration_share)

    @property
    def batch_parts(self) -> tuple[int, ...]:
        """See `AgentConfig.batch_parts`; replayed and demonstrated transitions."""
        return (self.batch_size - self.demonstrations_in_batch, self.demonstrations_in_batch)


PRESETS: dict[str, OTPRConfig] = {
    # the settings with the best measured results
    "default": OTPRConfig(),
    # the method of the paper: score matching over the product measure, masked keypoints, every replayed chunk
    # in the action marginal
    "paper": OTPRConfig(
        expectile=0.8,
        return_bound=False,
        pairing="product",
        target_measure="replay",
        epsilon=0.15,
        column_relaxation=0.0,
        guiding_share=0.5,
        acting_guiding_share=0.5,
        keypoint_share=0.1,
        rule="draw",
        candidates=10,
        potentials_method="ascent",
        potentials_passes=1,
        potentials_steps=300,
        ot_block=256,
        ot_blocks=6,
    ),
    # what the authors' code is meant to do; it does not run
    "release": OTPRConfig(
        expectile=0.8,
        target_rate=0.001,
        return_bound=False,
        demonstration_share=0.0,
        pairing="imitation",
        target_measure="replay",
        rule="draw",
        candidates=10,
        epsilon=0.15,
        column_relaxation=0.0,
        guiding_share=1.0,
        acting_guiding_share=0.0,
        keypoint_share=0.5,
        warm_start=False,
        potentials_method="ascent",
        potentials_passes=1,
        ot_block=512,
        ot_blocks=1,
        ot_batch=128,
        potentials_learning_rate=1e-5,
        potentials_steps=1000,
    ),
}
