"""L2-regularised, masked optimal transport: the mathematics, free of reinforcement learning.

`dual` holds the objective, the compatibility and the marginal error; `keypoints` the mask and the guiding
cost; `potentials` the neural potentials and their ascent. Everything works on plain arrays.
"""

from otpr.ot.dual import compatibility, dual_objective, marginal_errors
from otpr.ot.keypoints import NO_KEYPOINT, guiding_cost, keypoint_mask, relation
from otpr.ot.potentials import Potentials, ascend

__all__ = [
    "NO_KEYPOINT",
    "Potentials",
    "ascend",
    "compatibility",
    "dual_objective",
    "guiding_cost",
    "keypoint_mask",
    "marginal_errors",
    "relation",
]
