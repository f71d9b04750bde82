"""Shared by all tests. This file also puts ``tests/`` on the path, so that every test module can import :mod:`scenarios`."""

from __future__ import annotations

import torch

torch.set_num_threads(1)  # the problems are tiny: more threads only wait for each other
