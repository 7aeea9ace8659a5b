"""The README in a policy's folder: how to use the policy, and its observations and actions in words."""

from __future__ import annotations

from typing import Any

from otpr.spec import Spec

FILE = "README.md"
"""The file's name. The file has no checksum, so that it may be edited."""


def readme(task: str, document: dict[str, Any]) -> str:
    """The README's text, in Markdown.

    Args:
        task: the task of the policy; "" if it names none.
        document: the policy's document, as `otpr.policies.files` writes it.
    """
    spec, chooser = Spec.from_json(document["spec"]), document["chooser"]
    kind = f"A policy of kind `{document['generator']['kind']}`, written by otpr."
    if chooser is not None:
        kind += f"\nIt chooses among {document['candidates']} plans by `{chooser['kind']}`."
    lines = "\n".join(spec.lines())
    return f"""# Policy for {task or "a task that it does not name"}

{kind} To use it (`pip install otpr`):

```python
import otpr
from otpr.policies.units import in_units

policy = otpr.load_policy("this/folder")
actions = policy.act(observation, seed=0)  # (execute, action_dim), entries in [-1, 1]
commands = in_units(actions, policy.spec)  # in the environment's own units
```

{_observation(spec)} Another seed draws other actions.

What it takes and gives:

```
{lines}
```

`otpr policy inspect this/folder` tells more, `otpr serve this/folder` answers a robot's requests, and
`otpr policy export` takes it to LeRobot or to ONNX. `sha256sum -c SHA256SUMS` finds damage.
"""


def _observation(spec: Spec) -> str:
    """A description of `observation` in one or two sentences."""
    name = spec.only_vector
    if name is not None:
        shape = spec.observation[name].shape
        shown = shape if spec.history == 1 else (spec.history, *shape)
        what = f"`observation` is an array of shape {shown}, `{name}`."
    else:
        names = ", ".join(f"`{entry}`" for entry in spec.observation)
        what = f"`observation` is a dictionary of arrays: {names}."
    if spec.history > 1:
        what += f" It has the last {spec.history} observations, oldest first."
    return what
