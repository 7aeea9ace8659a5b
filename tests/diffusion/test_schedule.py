from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.diffusion import NoiseSchedule


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_identities(steps: int) -> None:
    schedule = NoiseSchedule.cosine(steps)
    k = jnp.arange(steps)
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    assert schedule.steps == steps == len(alpha_bar)
    assert np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] > 0 and alpha_bar[0] < 1
    np.testing.assert_allclose(schedule.signal(k) ** 2 + schedule.sigma(k) ** 2, 1, atol=1e-6)
    np.testing.assert_allclose(schedule.signal(k) ** 2, alpha_bar, rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_closed_form(steps: int) -> None:
    # Nichol and Dhariwal, eq. 17: alpha_bar(t) = f(t) / f(0); their cap of beta touches the last level only
    t = np.arange(1, steps + 1) / steps
    closed = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    alpha_bar = np.asarray(NoiseSchedule.cosine(steps).alpha_bar, np.float64)
    np.testing.assert_allclose(alpha_bar[:-1], closed[:-1], rtol=1e-6)
    assert closed[-1] < 1e-12
    assert alpha_bar[-1] == pytest.approx(1e-3 * closed[-2], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_beta_is_capped(steps: int) -> None:
    alpha_bar = np.append(1.0, np.asarray(NoiseSchedule.cosine(steps).alpha_bar, np.float64))
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert beta.max() == beta[-1] == pytest.approx(0.999, abs=1e-6)
    assert beta.min() > 0


def test_levels_run_from_almost_clean_to_almost_pure_noise() -> None:
    schedule = NoiseSchedule.cosine(100)
    assert float(schedule.signal(jnp.array(0))) > 0.999
    assert float(schedule.sigma(jnp.array(99))) > 0.999


def test_noising_step_by_step_is_noising_at_once() -> None:
    # the chain a_k = sqrt(1 - beta_k) a_{k-1} + sqrt(beta_k) noise has the marginals that alpha_bar promises
    schedule = NoiseSchedule.cosine(5)
    alpha_bar = np.append(1.0, np.asarray(schedule.alpha_bar, np.float64))
    rng = np.random.default_rng(0)
    a = np.full(20_000, 0.8)
    for k in range(5):
        beta = 1 - alpha_bar[k + 1] / alpha_bar[k]
        a = np.sqrt(1 - beta) * a + np.sqrt(beta) * rng.normal(size=a.shape)
        level = jnp.array(k)
        marginal = stats.norm(0.8 * float(schedule.signal(level)), float(schedule.sigma(level)))
        assert stats.kstest(a, marginal.cdf).pvalue > 1e-3


@pytest.mark.parametrize("steps", [0, -3])
def test_a_schedule_without_levels_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 step, got {steps}"):
        NoiseSchedule.cosine(steps)
