"""From stored values back to what a person reads. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dssm.features import DenseFeat
from dssm.manifest import Statistics


def restored(feature: DenseFeat, values: np.ndarray, statistics: Statistics | None) -> np.ndarray:
    """Returns a number's values as they were before its transform, (n,) float64.

    What minmax clipped comes back as the minimum or maximum.

    Args:
      values: (n,), as stored.
      statistics: of the training window; minmax and standard need them.
    """
    stored = values.astype(np.float64)
    if feature.transform == "log1p":
        return np.sign(stored) * np.expm1(np.abs(stored))
    if feature.transform == "raw" or statistics is None:
        return stored
    if feature.transform == "minmax":
        return statistics.minimum + stored * (statistics.maximum - statistics.minimum)
    return statistics.mean + stored * statistics.deviation


def stand_in(feature: DenseFeat, statistics: Statistics | None) -> float:
    """Returns what a null of this number is stored as."""
    if feature.null is None and feature.transform in ("minmax", "standard"):
        null = statistics.mean if statistics is not None else 0.0
    else:
        null = feature.null or 0.0
    if feature.transform == "log1p":
        return float(np.sign(null) * np.log1p(abs(null)))
    if feature.transform == "raw" or statistics is None:
        return null
    if feature.transform == "minmax":
        width = statistics.maximum - statistics.minimum
        return float(np.clip((null - statistics.minimum) / width, 0, 1)) if width else 0.0
    return (null - statistics.mean) / statistics.deviation if statistics.deviation else 0.0


def interval(place: int, boundaries: Sequence[float], digits: int = 12) -> str:
    """Returns the numbers of a bucket: those with `place` boundaries at or below them.

    >>> [interval(place, (0.5, 3.0)) for place in range(3)]
    ['< 0.5', '[0.5, 3)', '≥ 3']
    """
    if not boundaries:
        return "any number"
    if place == 0:
        return f"< {boundaries[0]:.{digits}g}"
    if place == len(boundaries):
        return f"≥ {boundaries[-1]:.{digits}g}"
    return f"[{boundaries[place - 1]:.{digits}g}, {boundaries[place]:.{digits}g})"


def clock(unit: str, place: int) -> str:
    """Returns the name of an hour or a weekday.

    >>> clock("hour", 9), clock("weekday", 0)
    ('09:00', 'Monday')
    """
    if unit == "hour":
        return f"{place:02d}:00"
    return ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[place]


def printable(text: str) -> str:
    r"""Returns the text with what a terminal would obey, or would not show, as escapes.

    >>> printable("a b\x1b[31m")
    'a b\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(names: Sequence[str]) -> str:
    """Returns names for reading.

    >>> listed(["train", "evaluate", "score_items"]), listed(["train"]), listed([])
    ('train, evaluate and score_items', 'train', '')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def percent(share: float | None) -> str:
    """Returns a share for reading; what is small but not nothing is not told as nothing.

    >>> percent(0.12345), percent(0.00001), percent(0), percent(0.99999), percent(None)
    ('12.3 %', '< 0.1 %', '0 %', '> 99.9 %', '–')
    """
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.0005:
        return "< 0.1 %"
    if share > 0.9995:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"
