"""Texts of a report about OTPR's metrics. Metrics of other algorithms only have charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BOUND = 0.15
"""The row or column error up to which potentials count as solved."""

BOUNDED = frozenset({"otpr/row_error", "otpr/column_error"})
"""The metrics whose charts show the bound."""

REMARK = (
    "Row and column error are measured on pairs that the potentials were not trained on. The row error says "
    "how far the mean of H over all actions is from 1, on average over states; the column error says the "
    "same of actions or, where columns are relaxed, how far their relaxed condition is from being met."
)


def transport_health(last: Mapping[str, float], config: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on whether the potentials of a run can be trusted, from the last value of each metric.

    The rows are always judged. The columns are judged only where they are kept, that is with a
    `column_relaxation` of 0; the mean of both errors would hide half of the rows' where columns are relaxed.
    A run that has no potentials has no sentence.
    """
    settings = config.get("agent")
    relaxed = isinstance(settings, dict) and bool(settings.get("column_relaxation"))
    judged = {"row": "states"} if relaxed else {"row": "states", "column": "actions"}
    errors = {name: error for name in judged if (error := last.get(f"otpr/{name}_error")) is not None}
    if errors:
        numbers = " and ".join(f"{name} error {error:.3f}" for name, error in errors.items())
        aside = "; the columns are relaxed" if relaxed else ""
        yield f"Potentials of the last round: {numbers} (bound {BOUND}{aside})."
        beyond = " and ".join(
            f"{judged[name]} {error:.0%}" for name, error in errors.items() if error > BOUND
        )
        wrong = f"cannot be trusted: on average they weight {beyond} too much or too little."
        yield f"The potentials {wrong if beyond else 'can be trusted.'}"
    if zero := last.get("otpr/zero_compatibility/eval"):
        yield (
            f"At {zero:.0%} of the decisions of the last evaluation no candidate was compatible, and "
            "the choice went by how near each was to it."
        )
