"""Floating-point operations of the matrix products in a program, counted from their shapes.

A product of (m, k) and (k, n) counts 2 m k n. Element-wise work counts nothing, so the share of the machine's
rate of matrix products that such a count gives is a lower bound on how busy the machine is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matrix_flops(function: Callable[..., Any], *args: Any, turns: int = 1) -> int:
    """Operations of all matrix products when `function(*args)` runs once; loops count every turn.

    Where the program alone does not say how much is done, the least counts: the cheapest branch, and one turn
    of a loop of unknown length.

    Args:
        function: what runs.
        args: of the function.
        turns: that a loop of unknown length took; one within another still counts one of each of these.
    """
    jaxpr, _, _ = eqx.filter_make_jaxpr(function)(*args)
    return _count(jaxpr.jaxpr, turns)


def _count(jaxpr: Jaxpr, turns: int) -> int:
    return sum(_of_equation(equation, turns) for equation in jaxpr.eqns)


def _of_equation(equation: Any, turns: int) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    parts = [
        leaf for leaf in jax.tree.leaves(list(parameters.values()), is_leaf=_is_program) if _is_program(leaf)
    ]
    within = 1 if name == "while" else turns
    counts = [_count(part.jaxpr if isinstance(part, ClosedJaxpr) else part, within) for part in parts]
    if name == "cond":
        return min(counts)
    return sum(counts) * {"scan": parameters.get("length"), "while": turns}.get(name, 1)


def _is_program(leaf: Any) -> bool:
    return isinstance(leaf, (Jaxpr, ClosedJaxpr))
