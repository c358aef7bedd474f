"""Which tokens depend on the image: VPPO's dependency under a masked image, and AT-RL-style anchor weights.

Sources: VPPO (arXiv 2510.09285), `verl/workers/actor/dp_actor.py` of the public release; AT-RL (arXiv 2602.11455),
which has no public code: its weighting is reconstructed here, so call results "AT-RL-style".
"""

import numpy as np

from sayo.metrics.region import top_count


def token_dependency(
    logp: np.ndarray, logp_masked: np.ndarray, max_log: float = 20.0, cap: float = 10.0
) -> np.ndarray:
    """VPPO's S_t >= 0: the one-sample ("k3") estimate of KL(with image || with a masked image) at each sampled token.

    `e^d - d - 1` with `d = logp_masked - logp`, of any shape. A token whose probability *rises* without the image also
    scores.
    """
    d = np.clip(np.asarray(logp_masked, dtype=np.float64) - np.asarray(logp, dtype=np.float64), -max_log, max_log)
    return np.clip(np.expm1(d) - d, 0.0, cap)


def dependency_filter(dependency: np.ndarray, share: float = 0.4) -> np.ndarray:
    """`(T,)` bool: exactly the `max(1, ceil(share * T))` most dependent tokens of one response (ties: earlier)."""
    keep = np.zeros(len(dependency), dtype=bool)
    if len(dependency):
        keep[np.argsort(-np.asarray(dependency), kind="stable")[: top_count(len(dependency), share)]] = True
    return keep


def trajectory_scale(dependency: np.ndarray, low: float = 0.9) -> np.ndarray:
    """VPPO's factor on each trajectory's advantage: from `low` upwards with its mean dependency, 1 on average.

    `(B,)` factors, all 1 if the dependencies are equal, for the `(B,)` mean dependencies of *all* trajectories of the
    step, gathered over ranks and micro-batches (otherwise the objective would depend on how the batch is split).
    """
    dependency = np.asarray(dependency, dtype=np.float64)
    if len(dependency) == 0 or np.ptp(dependency) <= 1e-6:
        return np.ones(len(dependency))
    position = (dependency - dependency.min()) / np.ptp(dependency)
    return low + (1.0 - low) * position / position.mean()


def anchor_weights(connectivity: np.ndarray, low: float = 0.5, high: float = 1.5) -> np.ndarray:
    """AT-RL-style weight of each token's advantage: increases with its attention on the image, 1 on average.

    `(T,)` weights, all 1 if the connectivities are equal; `low` and `high` bound them before division by their mean.

    Args:
        connectivity: `(T,)` attention mass on the image without sinks.
    """
    c = np.asarray(connectivity, dtype=np.float64)
    if len(c) == 0 or np.ptp(c) <= 1e-12:
        return np.ones(len(c))
    weights = low + (high - low) * (c - c.min()) / np.ptp(c)
    return weights / weights.mean()
