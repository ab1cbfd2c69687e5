"""What the noise of `average` is worth: the exact account of differential privacy of whole sites."""

from __future__ import annotations

import math

from scipy.special import log_ndtr, ndtr


def epsilon(noise: float, releases: int, delta: float) -> float:
    """What an attacker who sees every model can learn about whether one site took part.

    Parameters
    ----------
    noise : float
        SD of the noise on the sum of all updates over the longest update.
    releases : int
        Rounds with a new model; every site takes part in each, so nothing is gained by sampling.
    delta : float

    Returns
    -------
    float
        The smallest epsilon for which the rounds together are (epsilon, delta) differentially private.

    Notes
    -----
    Exact: so many Gaussian mechanisms are one with the noise divided by their square root, whose curve is Balle and Wang
    2018, "Improving the Gaussian mechanism", theorem 8. (Flower's own accountant takes an upper bound by way of Rényi's
    divergence, 4 to 10 % above this, and needs a package that pins old versions of others.)
    """
    if not noise or not releases:
        return math.inf if releases else 0.0
    mu = math.sqrt(releases) / noise

    def spent(value: float) -> float:
        return float(ndtr(mu / 2 - value / mu) - math.exp(min(700.0, value + log_ndtr(-mu / 2 - value / mu))))

    low, high = 0.0, 1.0
    while spent(high) > delta:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high
