"""L2-regularised, masked optimal transport, independent of reinforcement learning.

`dual` has the objective, the compatibility and the marginal error. `discrete` computes the exact optimum on
two weighted samples with the solver in `newton`; `feasibility` explains why a problem has no solution, and
`transform` extends potentials to new points. `keypoints` has the mask and the guiding cost. `potentials` has
neural potentials and their training steps, and `neural` trains them until they meet a tolerance. All
functions take plain arrays.
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
