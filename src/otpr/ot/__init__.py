"""L2-regularised, masked optimal transport: the mathematics, free of reinforcement learning.

`dual` holds the objective, the compatibility and the marginal error; `discrete` the exact optimum on two
weighted samples (by `newton`; `feasibility` says why there is none) and `transform` its extension to new
points; `keypoints` the mask and the guiding cost; `potentials` neural potentials and how they are trained,
`neural` when to stop. Everything works on plain arrays.
"""

from otpr.ot.discrete import DiscreteSolution, solve_discrete
from otpr.ot.dual import compatibility, dual_objective, marginal_errors, relaxed_marginal_errors
from otpr.ot.keypoints import NO_KEYPOINT, guiding_cost, keypoint_mask, relation
from otpr.ot.neural import NeuralSolution, fit
from otpr.ot.potentials import Potentials, TransportProblem, ascend
from otpr.ot.transform import c_transform

__all__ = [
    "NO_KEYPOINT",
    "DiscreteSolution",
    "NeuralSolution",
    "Potentials",
    "TransportProblem",
    "ascend",
    "c_transform",
    "compatibility",
    "dual_objective",
    "fit",
    "guiding_cost",
    "keypoint_mask",
    "marginal_errors",
    "relation",
    "relaxed_marginal_errors",
    "solve_discrete",
]
