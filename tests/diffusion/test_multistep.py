"""DPM-Solver++(2M), of the ODE and of the SDE, against the algorithms as printed and exact solutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.diffusion import NoiseSchedule, sample

SCHEDULES = {
    "cosine": NoiseSchedule.cosine(721),
    # log(alpha / sigma) from 3 to -4 in equal steps
    "uniform": NoiseSchedule(jnp.asarray(1 / (1 + np.exp(-2 * np.linspace(3, -4, 721))), jnp.float32)),
}
# what each of the three entries of a clean chunk is drawn from: weights, centres and widths of two Gaussians
WEIGHTS = np.array([[1.0, 0.0], [1.0, 0.0], [0.3, 0.7]])
CENTRES = np.array([[0.2, 0.0], [-0.4, 0.0], [-0.6, 0.5]])
WIDTHS = np.array([[0.3, 1.0], [0.1, 1.0], [0.1, 0.15]])


def predictor(schedule: NoiseSchedule):
    """E[noise | noisy chunk]."""

    def predict(chunk, k):
        alpha_bar = schedule.alpha_bar[k]
        variance = alpha_bar * WIDTHS**2 + 1 - alpha_bar
        centred = chunk[..., None] - jnp.sqrt(alpha_bar) * CENTRES
        logits = jnp.log(WEIGHTS) - jnp.log(variance) / 2 - centred**2 / (2 * variance)
        noise = jnp.sqrt(1 - alpha_bar) * centred / variance
        return jnp.sum(jax.nn.softmax(logits, axis=-1) * noise, axis=-1)

    return predict


def draw(predict, schedule: NoiseSchedule, method, steps: int, bound=None) -> np.ndarray:
    key = jax.random.key(0)
    chunks = sample(predict, schedule, (500, 3), key, method=method, steps=steps, bound=bound)
    return np.asarray(chunks, np.float64)


def start(schedule: NoiseSchedule) -> np.ndarray:
    """The noise that `draw` begins with: one step that is told of no noise only scales it."""
    scaled = draw(lambda chunk, _: jnp.zeros_like(chunk), schedule, "ddim", 1)
    return scaled * np.sqrt(float(schedule.alpha_bar[-1]))


def draws(steps: int) -> list[np.ndarray]:
    """The fresh noise of each step of `draw`."""
    _, key = jax.random.split(jax.random.key(0))
    noises = []
    for _ in range(steps):
        key, noise_key = jax.random.split(key)
        noises.append(np.asarray(jax.random.normal(noise_key, (500, 3)), np.float64))
    return noises


def by_the_book(method, predict, schedule: NoiseSchedule, x: np.ndarray, steps: int, bound) -> np.ndarray:
    """Lu et al., Algorithm 2 and its counterpart for the SDE, symbol by symbol, where sigma ends at 0."""
    levels = np.linspace(schedule.steps - 1, 0, steps).round().astype(int)
    alpha_bar = np.append(np.asarray(schedule.alpha_bar, np.float64)[levels], 1.0)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    lam = np.append(np.log(alpha[:-1] / sigma[:-1]), np.inf)
    buffer = []
    for i in range(1, steps + 1):
        noise = np.asarray(predict(jnp.asarray(x), int(levels[i - 1])), np.float64)
        estimate = (x - sigma[i - 1] * noise) / alpha[i - 1]
        buffer.append(estimate if bound is None else np.clip(estimate, -bound, bound))
        h = lam[i] - lam[i - 1]
        if i in (1, steps):
            D = buffer[-1]
        else:
            r = max((lam[i - 1] - lam[i - 2]) / h, 0.5)  # the limit is not in the algorithm
            D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        if method == "dpm++":
            x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * D
        else:
            fresh = sigma[i] * np.sqrt(1 - np.exp(-2 * h)) * draws(steps)[i - 1]
            x = sigma[i] / sigma[i - 1] * np.exp(-h) * x + alpha[i] * (1 - np.exp(-2 * h)) * D + fresh
    return x


@pytest.mark.parametrize(
    ("levels", "steps", "bound"), [(12, 12, None), (12, 5, 0.5), (12, 3, None), (12, 2, 0.5), (200, 6, None)]
)
@pytest.mark.parametrize("method", ["dpm++", "sde-dpm++"])
def test_steps_by_the_textbook(method, levels, steps, bound) -> None:
    schedule = NoiseSchedule.cosine(levels)
    predict = predictor(schedule)
    expected = by_the_book(method, predict, schedule, start(schedule), steps, bound)
    np.testing.assert_allclose(draw(predict, schedule, method, steps, bound), expected, atol=5e-4)


def test_long_steps_are_limited_in_the_last_case_above() -> None:
    alpha_bar = np.asarray(NoiseSchedule.cosine(200).alpha_bar, np.float64)[[199, 159, 119, 80, 40, 0]]
    h = np.diff(np.log(alpha_bar / (1 - alpha_bar)))
    assert (h[1:] / h[:-1]).max() > 2.2


@pytest.mark.parametrize("methods", [("dpm++", "ddim"), ("sde-dpm++", "ddpm")])
@pytest.mark.parametrize("steps", [1, 2])
def test_one_or_two_steps_are_of_first_order(steps: int, methods) -> None:
    schedule = NoiseSchedule.cosine(10)
    second, first = (draw(predictor(schedule), schedule, method, steps) for method in methods)
    np.testing.assert_allclose(second, first, atol=2e-5)


def flow(schedule: NoiseSchedule, k: int | None = None) -> np.ndarray:
    """Where the probability-flow ODE takes the noise: at level k, or (None) to the clean chunk.

    Each entry is a problem of one dimension, in which the flow keeps quantiles.
    """

    def cdf(x, alpha_bar, entry):
        std = np.sqrt(alpha_bar * WIDTHS[entry] ** 2 + 1 - alpha_bar)
        return stats.norm.cdf((x[:, None] - np.sqrt(alpha_bar) * CENTRES[entry]) / std) @ WEIGHTS[entry]

    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    noise, grid = start(schedule), np.linspace(-2, 2, 40_001)
    ends = [
        np.interp(
            cdf(noise[:, entry], alpha_bar[-1], entry),
            cdf(grid, 1 if k is None else alpha_bar[k], entry),
            grid,
        )
        for entry in range(3)
    ]
    return np.stack(ends, axis=1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("dpm++", 2)])
def test_order_of_convergence(name: str, method, order: int) -> None:
    """In the first entry, whose flow is the smoothest; the last step, the same for all, is taken exactly."""
    schedule = SCHEDULES[name]
    predict = predictor(schedule)
    end, alpha_bar = flow(schedule, 0), float(schedule.alpha_bar[0])
    noise = np.asarray(predict(jnp.asarray(end), 0))
    wanted = (end - np.sqrt(1 - alpha_bar) * noise) / np.sqrt(alpha_bar)
    few, many = (
        np.sqrt(np.mean((draw(predict, schedule, method, intervals + 1) - wanted)[:, 0] ** 2))
        for intervals in (72, 144)
    )
    # on the cosine schedule the steps near the clean chunk are long in log-SNR, and order 2 comes slowly
    assert np.log2(few / many) == pytest.approx(order, abs=0.3)


@pytest.mark.long
@pytest.mark.parametrize("levels", [10, 20])
@pytest.mark.parametrize("steps", [3, 4, 5, 7, 10])
def test_nearer_to_the_flow_than_ddim(levels: int, steps: int) -> None:
    schedule = NoiseSchedule.cosine(levels)
    wanted = flow(schedule)
    solver, ddim = (
        np.sqrt(np.mean((draw(predictor(schedule), schedule, method, steps) - wanted) ** 2, axis=0))
        for method in ("dpm++", "ddim")
    )
    np.testing.assert_array_less(solver, ddim)


@pytest.mark.long
@pytest.mark.parametrize("levels", [10, 50])
@pytest.mark.parametrize("steps", [5, 7, 10])
def test_widths_nearer_to_the_data_than_those_of_ddpm(levels: int, steps: int) -> None:
    """Few steps of first order narrow what is drawn: of 500 chunks, by more than chance."""
    schedule = NoiseSchedule.cosine(levels)
    solver, ddpm = (
        draw(predictor(schedule), schedule, method, steps)[:, :2].std(axis=0)
        for method in ("sde-dpm++", "ddpm")
    )
    errors = np.abs(np.log([solver / WIDTHS[:2, 0], ddpm / WIDTHS[:2, 0]]))
    np.testing.assert_array_less(errors[0], errors[1])
