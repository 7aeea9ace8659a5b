"""How large what is measured is."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a full run; `TINY` has those of a trial."""

    # of the environment, as in Meta-World
    observation_dim: int = 39
    action_dim: int = 4
    # all networks of the learner's comparisons: hidden layers; actions in a chunk; transitions
    width: int = 512
    depth: int = 3
    chunk_length: int = 8
    batch: int = 256
    replay: int = 100_000
    # gradient steps in a timed block, and in a round: 8 episodes of 200 steps, half an update each
    block: int = 20
    round_updates: int = 800
    # steps of the release's fit of the potentials in a round, how many are timed, and their rows and columns
    release_steps: int = 1000
    release_timed: int = 10
    release_batch: int = 128
    # networks, and gradient steps of the critic, with which the release's potentials are trained to the end
    error_width: int = 128
    error_depth: int = 2
    error_updates: int = 1000
    error_block: int = 1024
    # side of the matrix product whose rate is the yardstick
    product: int = 2048
    # states and actions of the pairwise cost; rows timed of more; of these, rows at once on the naive side
    pairs: tuple[int, ...] = (128, 512, 2048)
    pair_rows: int = 512
    naive_rows: int = 128
    pair_width: int = 256
    pair_depth: int = 2
    pair_chunk: int = 16
    memory_pairs: int = 8192
    memory_width: int = 64
    # acting: noise levels, steps, candidates, calls timed
    levels: int = 20
    denoising_steps: tuple[int, ...] = (5, 10, 20)
    candidates: tuple[int, ...] = (1, 16)
    acts: int = 200
    # observations that are decided for in one call
    crowd: int = 1024
    # default networks of the policy, of acting and growth
    policy_width: int = 256
    policy_depth: int = 3
    default_chunk: int = 4
    # environments of a rollout
    num_envs: int = 8
    # what grows
    growth_replay: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    growth_candidates: tuple[int, ...] = (1, 4, 16, 64)
    growth_chunk: tuple[int, ...] = (1, 4, 16)
    growth_block: int = 20
    growth_acts: int = 50
    # images and their sides, and plans with the channels of a U-Net's levels; gradients in a timed loop
    vision_batch: int = 128
    vision_side: int = 64
    resnet_batch: int = 8
    resnet_side: int = 84
    plan: tuple[int, int] = (16, 4)
    plan_channels: tuple[int, ...] = (64, 128, 256)
    gradients: int = 2
    # training steps of a U-Net: plans, channels of its levels, turns
    unet_batch: int = 64
    unet_dims: tuple[int, ...] = (128, 256, 512)
    unet_turns: int = 9
    # episodes of a data set that is read
    load_episodes: int = 5000
    # frames of a camera
    frames: int = 3
    # frames that are encoded in one go, by the small network and by ResNet-18
    encoded: int = 256
    encoded_resnet: int = 32
    # gradient steps of a policy that sees, while its encoder is trained too
    seeing_updates: int = 10
    # frames that lie in files, and how many a batch has; batches that are read of them
    kept_frames: int = 100_000
    kept_batch: int = 256
    kept_batches: int = 50
    # turns in which two sides are timed
    turns: int = 3
    rollout_turns: int = 5


FULL = Sizes()

# Says nothing of speed; shows that everything runs.
TINY = Sizes(
    width=16,
    depth=1,
    chunk_length=2,
    batch=32,
    replay=300,
    block=2,
    round_updates=4,
    release_steps=4,
    release_timed=2,
    release_batch=8,
    error_width=16,
    error_depth=1,
    error_updates=3,
    error_block=64,
    product=64,
    pairs=(8, 24),
    pair_rows=16,
    naive_rows=8,
    pair_width=16,
    memory_pairs=64,
    memory_width=16,
    levels=4,
    denoising_steps=(2, 4),
    candidates=(1, 3),
    acts=3,
    crowd=6,
    policy_width=16,
    policy_depth=1,
    num_envs=2,
    growth_replay=(100, 300),
    growth_candidates=(1, 2),
    growth_chunk=(1, 2),
    growth_block=2,
    growth_acts=2,
    vision_batch=2,
    vision_side=32,
    resnet_batch=1,
    resnet_side=32,
    plan=(4, 2),
    plan_channels=(4, 8),
    unet_batch=2,
    unet_dims=(8, 16),
    unet_turns=1,
    load_episodes=4,
    frames=2,
    encoded=3,
    encoded_resnet=1,
    seeing_updates=2,
    kept_frames=300,
    kept_batch=4,
    kept_batches=2,
    turns=1,
    rollout_turns=1,
)
