"""Views of a window for people: a text, or a picture of the observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_BAR_PIXELS, _GAP_PIXELS, _HEIGHT_PIXELS = 6, 2, 96
_BACKGROUND, _AXIS, _BAR = (255, 255, 255), (160, 160, 160), (40, 90, 160)


def render_text(lines: Mapping[str, object]) -> str:
    """One `name value` line each; numbers with four significant digits."""
    width = max((len(name) for name in lines), default=0)
    return "\n".join(f"{name:<{width}}  {_text(value)}" for name, value in lines.items())


def render_bars(observation: Sequence[float] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """The observation as bars from 0 up to 1 or down to -1: uint8 of shape (96, 8 n, 3)."""
    step = _BAR_PIXELS + _GAP_PIXELS
    picture = np.full((_HEIGHT_PIXELS, step * len(observation), 3), _BACKGROUND, dtype=np.uint8)
    middle = _HEIGHT_PIXELS // 2
    picture[middle] = _AXIS
    for index, value in enumerate(observation):
        tip = middle - round(float(np.clip(value, -1.0, 1.0)) * (middle - 1))
        left = index * step
        picture[min(tip, middle) : max(tip, middle) + 1, left : left + _BAR_PIXELS] = _BAR
    return picture


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
