"""What convolutions a traced program has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax


def convolutions(jaxpr: Any) -> Iterator[Any]:
    """Every convolution, also within loops and calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from convolutions(getattr(inner, "jaxpr", inner))


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def assert_fast(program: Any) -> int:
    """Each convolution is of the form for which XLA's CPU backend has fast code. Returns how many there are.

    Args:
        program: what `jax.make_jaxpr` gives.
    """
    count = 0
    for equation in convolutions(program.jaxpr):
        x, kernel = (variable.aval.shape for variable in equation.invars)
        axes = range(len(x) - 2)
        numbers = equation.params["dimension_numbers"]
        assert numbers.lhs_spec == numbers.out_spec == (0, len(x) - 1, *(i + 1 for i in axes))
        assert numbers.rhs_spec == (len(x) - 1, len(x) - 2, *axes)
        assert all(kernel[i] <= x[i + 1] for i in axes)
        assert set(equation.params["lhs_dilation"]) == {1}
        assert equation.params["feature_group_count"] == equation.params["batch_group_count"] == 1
        count += 1
    return count
