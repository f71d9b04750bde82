"""The fleet of the example ``robots.py``: simulated carts with a pole, each with masses, a pole and a motor of its own (Gymnasium's cart-pole)."""

from __future__ import annotations

import numpy as np

try:
    from gymnasium.envs.classic_control import CartPoleEnv
except ImportError as error:
    raise SystemExit("error: gymnasium is missing: pip install 'metabayfl[robots]'") from error

NOISE = 0.02
"""Of the speed sensors, m/s and rad/s."""
STEP = 0.02
"""Seconds between two readings."""
RANGES = {"masscart": (0.5, 2.0), "masspole": (0.05, 0.5), "length": (0.25, 1.0), "force_mag": (5.0, 15.0)}
"""From which each robot's own values are drawn: masses of cart and pole, kg; half the pole's length, m; the motor's push, N."""


def robot(rng: np.random.Generator) -> CartPoleEnv:
    """A cart-pole with its own masses, pole and motor; the track is endless and the pole swings all round."""
    own = CartPoleEnv()
    for name, value in zip(RANGES, rng.uniform(*np.transpose(list(RANGES.values()))), strict=True):
        setattr(own, name, value)
    own.total_mass, own.polemass_length = own.masscart + own.masspole, own.masspole * own.length
    own.theta_threshold_radians = own.x_threshold = np.inf
    own.kinematics_integrator = "semi-implicit"
    return own


def drive(own: CartPoleEnv, rng: np.random.Generator, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Random pushes for two seconds: states before and after each step ``(steps, 2, 4)``, and the pushes."""
    own.reset()
    own.state = np.array([0.0, rng.normal(), rng.uniform(-np.pi, np.pi), 3 * rng.normal()])
    pushes = np.repeat(rng.integers(0, 2, steps // 10), 10)
    states = [own.state, *(own.step(int(push))[0] for push in pushes)]
    return np.stack([states[:-1], states[1:]], 1), pushes


def features(states: np.ndarray, pushes: np.ndarray) -> np.ndarray:
    """What decides the movement: speed of the cart, direction and speed of the pole, push to the left or to the right."""
    _, speed, angle, turning = states.T
    return np.stack([speed, np.cos(angle), np.sin(angle), turning, 2.0 * pushes - 1], 1)


def moves(own: CartPoleEnv, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A hundred steps out of five drives: inputs, and the measured change of both speeds."""
    drives = [drive(own, rng) for _ in range(5)]
    states, pushes = np.concatenate([part for part, _ in drives])[::5], np.concatenate([part for _, part in drives])[::5]
    change = (states[:, 1] - states[:, 0])[:, [1, 3]]
    return features(states[:, 0], pushes), change + NOISE * rng.normal(size=change.shape)
