"""Export of a policy as one ONNX model with encoder, generator, chooser and units.

The inputs are the raw entries of an observation and the policy's noise, so that the model is deterministic:
`noise/start`, (candidates, horizon, action_dim), standard normal; `noise/steps`, one such array for each
step, if the sampler draws at every step; and `noise/choice`, (candidates,), standard Gumbel, if there is a
chooser. The output `actions` holds the actions to execute, (execute, action_dim), in the environment's own
units.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from otpr.diffusion.sampling import Noise
from otpr.errors import OtprError
from otpr.policies.convert.exported import Exported
from otpr.policies.generators import NoiseDriven
from otpr.policies.policy import Policy

OPSET = 21
"""The ONNX operator set of the model; onnxruntime 1.20 and later run it."""

TOLERANCE = 1e-4
"""The largest difference between the model's and the policy's actions, in units of [-1, 1]."""

_START, _STEPS, _CHOICE = "noise/start", "noise/steps", "noise/choice"
_LARGEST = float(np.finfo(np.float32).max)

Inputs = dict[str, jax.ShapeDtypeStruct]


def export_onnx(policy: Policy) -> Exported:
    """The files of an export: `policy.onnx`, `spec.json`, and `act.py`, which runs without otpr and JAX.

    The function runs the model and compares it with the policy before it returns.

    Raises:
        OtprError: the extra is not installed; the policy is external, or needs something that ONNX or the
            converter lacks; or the model's actions differ from the policy's.
    """
    generator = policy.generator
    if not isinstance(generator, NoiseDriven):
        raise OtprError(
            f"The policy's plans are made in another process ({generator.kind!r}), and cannot be put into a "
            "model. Export the policy that makes them."
        )
    jax2onnx = _library("jax2onnx")
    inputs = _inputs(policy, generator)
    # as primitives: jax2onnx replaces Equinox's layers by its own, some with other shapes
    traced = jax.make_jaxpr(_function(policy, generator, list(inputs)))(*inputs.values())
    try:
        model = jax2onnx.to_onnx(
            jax.extend.core.jaxpr_as_fun(traced),
            list(inputs.values()),
            model_name="otpr",
            opset=OPSET,
            input_names=list(inputs),
            output_names=["actions"],
        )
        _without_shapes(model.graph)
        _take_float64(model, policy)
        content = model.SerializeToString()
    except (NotImplementedError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise OtprError(
            f"The policy cannot be exported to ONNX: {type(error).__name__} in the conversion: {error}"
        ) from error
    _compare(policy, generator, inputs, content)
    return Exported(
        {
            "policy.onnx": content,
            "spec.json": (json.dumps(_described(policy, inputs), indent=2) + "\n").encode(),
            "act.py": Path(__file__).with_name("onnx_act.py").read_bytes(),
        },
        [],
    )


def _library(name: str) -> Any:
    """Import a library of the extra."""
    if missing := [x for x in ("jax2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(x) is None]:
        raise OtprError(
            f"Exporting to ONNX needs {missing[0]}, of an extra: pip install 'otpr[onnx]'. Running an "
            "exported policy needs numpy and onnxruntime alone."
        )
    return importlib.import_module(name)


def _inputs(policy: Policy, generator: NoiseDriven) -> Inputs:
    """The function's inputs by name: observations as from `Encoder.on_device`, then the noise."""
    spec = policy.spec
    zeros = {
        name: np.zeros((spec.history, *entry.shape), entry.dtype) for name, entry in spec.observation.items()
    }
    seen = {name: np.asarray(x) for name, x in policy.encoder.on_device(zeros).items()}
    inputs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in seen.items()}
    plans = (policy.drawn, spec.horizon, spec.action_dim)
    inputs[_START] = jax.ShapeDtypeStruct(plans, jnp.float32)
    if generator.noise_steps:
        inputs[_STEPS] = jax.ShapeDtypeStruct((generator.noise_steps, *plans), jnp.float32)
    if policy.chooser is not None:
        inputs[_CHOICE] = jax.ShapeDtypeStruct((policy.candidates,), jnp.float32)
    return inputs


def _function(policy: Policy, generator: NoiseDriven, names: list[str]) -> Any:
    """The function that the model computes, of its inputs in order."""
    low, high = (np.asarray(end, np.float32) for end in (policy.spec.action_low, policy.spec.action_high))
    own = (low == -1) & (high == 1)

    def act(*inputs: Array) -> Float[Array, "e a"]:
        given = dict(zip(names, inputs, strict=True))
        noise = Noise(given[_START], given.get(_STEPS))
        state = policy.state({name: given[name] for name in policy.spec.observation})
        plans = generator.from_noise(state, noise)
        plan = plans[0]
        if policy.chooser is not None:
            scores = policy.chooser.scores(state, policy.chunks(plans))
            index, _ = policy.chooser.pick_by(scores, given[_CHOICE])
            plan = plans[index]
        unit = plan[policy.spec.executed]
        mapped = jnp.clip(low + (unit + 1) / 2 * (high - low), low, high)
        return jnp.where(own, unit, mapped)

    return act


def _without_shapes(graph: Any) -> None:
    """Remove the shapes of intermediate results.

    The converter states some of them wrongly, and onnxruntime refuses inconsistent models.
    """
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the body of a loop
                _without_shapes(attribute.g)


# ------------------------------------------------------------------------------------------------ the float64


def _wide(policy: Policy) -> list[str]:
    return [name for name, entry in policy.spec.observation.items() if entry.dtype == "float64"]


def _take_float64(model: Any, policy: Policy) -> None:
    """Let the model take float64 entries and split them as `VectorEncoder.on_device` does."""
    onnx = _library("onnx")
    graph = model.graph
    nodes: list[Any] = []
    for name in _wide(policy):
        (entry,) = [x for x in graph.input if x.name == name]
        pair = f"{name}/pair"
        for node in graph.node:
            node.input[:] = [pair if x == name else x for x in node.input]
        shape = (policy.spec.history, *policy.spec.observation[name].shape)
        entry.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape))
        constants = {"least": -_LARGEST, "largest": _LARGEST}
        graph.initializer.extend(
            onnx.helper.make_tensor(f"{name}/{key}", onnx.TensorProto.DOUBLE, (), [value])
            for key, value in constants.items()
        )
        graph.initializer.append(onnx.helper.make_tensor(f"{name}/axis", onnx.TensorProto.INT64, (1,), [-1]))

        def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
            names = [f"{name}/{x}" if x else name for x in inputs]  # noqa: B023 - used in this round
            made = onnx.helper.make_node(kind, names, [f"{name}/{output}"], **attributes)  # noqa: B023
            nodes.append(made)
            return output

        clipped = add("Clip", ["", "least", "largest"], "clipped")
        high = add("Cast", [clipped], "high", to=onnx.TensorProto.FLOAT)
        back = add("Cast", [high], "back", to=onnx.TensorProto.DOUBLE)
        rest = add("Sub", [clipped, back], "rest")
        low = add("Cast", [rest], "low", to=onnx.TensorProto.FLOAT)
        parts = [add("Unsqueeze", [x, "axis"], f"{x}_part") for x in (high, low)]
        add("Concat", parts, "pair", axis=-1)
    if nodes:
        later = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *later])


# --------------------------------------------------------------------------------------------- the comparison


def _compare(policy: Policy, generator: NoiseDriven, inputs: Inputs, content: bytes) -> None:
    """Check the model's actions against the policy's for a few observations and draws."""
    onnxruntime = _library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    expected = eqx.filter_jit(_function(policy, generator, list(inputs)))
    spec = policy.spec
    width = np.asarray(spec.action_high) - np.asarray(spec.action_low)
    random = np.random.default_rng(0)
    for _ in range(3):
        given = _drawn(policy, inputs, random)
        seen = policy.encoder.on_device({name: given[name] for name in spec.observation})
        ours = np.asarray(expected(*({**given, **seen}[name] for name in inputs)))
        theirs = session.run(["actions"], given)[0]
        if not (np.abs(ours - theirs) / width * 2 <= TOLERANCE).all():
            raise OtprError(
                f"The exported model's actions differ from the policy's by {np.abs(ours - theirs).max():g}, "
                "so that nothing is written: the converter has computed something otherwise."
            )


def _drawn(policy: Policy, inputs: Inputs, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Random observations and noise."""
    given: dict[str, NDArray[Any]] = {}
    for name, entry in policy.spec.observation.items():
        shape = (policy.spec.history, *entry.shape)
        image = entry.kind == "image"
        numbers = random.integers(0, 256, shape) if image else random.normal(size=shape)
        given[name] = numbers.astype(entry.dtype)
    for name in inputs.keys() - given.keys():
        draw = random.gumbel if name == _CHOICE else random.normal
        given[name] = draw(size=inputs[name].shape).astype(np.float32)
    return given


def _described(policy: Policy, inputs: Inputs) -> dict[str, Any]:
    """The content of `spec.json`: the policy's spec, and the model's inputs by name."""
    wide = _wide(policy)
    return {
        "otpr": importlib.metadata.version("otpr"),
        "spec": policy.spec.to_json(),
        "inputs": {
            name: {"shape": list(x.shape[:-1]), "dtype": "float64"}
            if name in wide
            else {"shape": list(x.shape), "dtype": np.dtype(x.dtype).name}
            for name, x in inputs.items()
        },
    }
