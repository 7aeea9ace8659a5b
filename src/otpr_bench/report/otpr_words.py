"""What a page says about OTPR in particular. Other algorithms' own metrics have charts, but no words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BOUND = 0.15
"""The row or column error up to which potentials count as solved."""

BOUNDED = frozenset({"otpr/row_error", "otpr/column_error"})
"""The metrics in whose charts the bound is drawn."""

REMARK = (
    "Row and column error are measured on pairs that the potentials were not trained on. The row error says "
    "how far the mean of H over all actions is from 1, on average over states; the column error says the "
    "same of actions or, where columns are relaxed, how far their relaxed condition is from being met."
)

_OLD = {
    **{f"ot/{name}": f"otpr/{name}" for name in ("marginal_error", "row_error", "column_error", "passes")},
    **{f"ot/{name}": f"otpr/{name}" for name in ("unsolved", "scale", "round")},
    "ot/support": "otpr/plan_support",
    "policy/support": "otpr/support",
    "policy/effective_share": "otpr/effective_share",
    "eval/zero_compatibility": "otpr/zero_compatibility/eval",
    "rollout/zero_compatibility": "otpr/zero_compatibility/rollout",
}
"""Names of metrics in runs of earlier versions, and the names they have now."""


def with_present_names(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics whose old names of OTPR's metrics are replaced by the present ones.

    Runs of other algorithms logged some of the old names too. They are recognised by having no metric under
    `ot/`: of their rows the decisions without a compatible candidate, which mean nothing there, are dropped.
    """
    if any(name.startswith("ot/") for row in rows for name in row):
        return [{_OLD.get(name, name): value for name, value in row.items()} for row in rows]
    return [
        {name: value for name, value in row.items() if not name.endswith("/zero_compatibility")}
        for row in rows
    ]


def transport_health(last: Mapping[str, float], config: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on whether the potentials of a run can be trusted; none for a run that has no potentials.

    The rows are always judged. The columns are judged only where they are kept, that is with a
    `column_relaxation` of 0; the mean of both errors would hide half of the rows' where columns are relaxed.

    Args:
        last: the last value of each metric of the run.
        config: configuration of the run's command.
    """
    settings = config.get("agent")
    relaxed = isinstance(settings, dict) and bool(settings.get("column_relaxation"))
    judged = {"row": "states"} if relaxed else {"row": "states", "column": "actions"}
    errors = {name: error for name in judged if (error := last.get(f"otpr/{name}_error")) is not None}
    if errors:
        numbers = " and ".join(f"{name} error {error:.3f}" for name, error in errors.items())
        aside = "; the columns are relaxed" if relaxed else ""
        yield f"Potentials of the last round: {numbers} (bound {BOUND}{aside})."
        beyond = [f"{judged[name]} {error:.0%}" for name, error in errors.items() if error > BOUND]
        yield (
            "The potentials cannot be trusted: on average they weight "
            f"{' and '.join(beyond)} too much or too little."
            if beyond
            else "The potentials can be trusted."
        )
    if zero := last.get("otpr/zero_compatibility/eval"):
        yield (
            f"At {zero:.0%} of the decisions of the last evaluation no candidate was compatible, and "
            "the one nearest to it was taken."
        )
