from __future__ import annotations

import pytest

from otpr.data.seeds import demonstration_seed, evaluation_seed, training_seed


def test_documented_values() -> None:
    assert [evaluation_seed(i) for i in (0, 1, 99)] == [0, 1, 99]
    assert demonstration_seed(0, 0) == 2**29
    assert demonstration_seed(3, 5) == 2**29 + 3 * 2**16 + 5
    assert training_seed(0, 7) == 2**30 + 7
    assert training_seed(3, 5) == 2**30 + 3 * 2**18 + 5


def test_streams_stay_in_their_ranges_at_the_extremes() -> None:
    runs = (0, 1, 2**12, 2**13 - 1, 2**31, 10**12)
    for seed in runs:
        for i in (0, 2**16 - 1):
            assert 2**29 <= demonstration_seed(seed, i) < 2**30
        for i in (0, 2**18 - 1):
            assert 2**30 <= training_seed(seed, i) < 2**31
    assert evaluation_seed(2**29 - 1) == 2**29 - 1


def test_runs_share_no_seed() -> None:
    for stream in (demonstration_seed, training_seed):
        seeds = {stream(run, i) for run in range(20) for i in range(500)}
        assert len(seeds) == 20 * 500
    # neighbours do not overlap at the ends of their ranges either
    assert demonstration_seed(0, 2**16 - 1) + 1 == demonstration_seed(1, 0)
    assert training_seed(0, 2**18 - 1) + 1 == training_seed(1, 0)


def test_the_same_again_only_where_documented() -> None:
    assert demonstration_seed(2**13 + 4, 9) == demonstration_seed(4, 9)
    assert training_seed(2**12 + 4, 9) == training_seed(4, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: demonstration_seed(-1, 0), "must not be negative, given -1"),
        (lambda: training_seed(0, -1), "given -1"),
        (lambda: demonstration_seed(0, 2**16), r"\[0, 65536\), given 65536"),
        (lambda: training_seed(0, 2**18), "given 262144"),
        (lambda: evaluation_seed(2**29), "given 536870912"),
    ],
)
def test_out_of_range(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
