"""How a pollutant is carried: an explicit donor-cell (first-order upwind) scheme in flux form, with barriers.

Letters in shapes: H rows from south to north, W columns from west to east. East and west are joined, the edges in the
south and the north are walls. Everything is a *rate*: the share of a cell's content that leaves for one of its four
neighbours in a second. What leaves one cell arrives in another, so the sum never changes; as long as a cell gives away no
more than it has, nothing becomes negative. Both hold for any wind, diffusion and barriers.
"""

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
EAST, WEST, NORTH, SOUTH = range(4)


class UnstableStepError(ValueError):
    """The time step is longer than the explicit scheme allows."""


def neighbours(field: Field) -> Field:
    """[H, W] -> [4, H, W]: each cell's neighbour in the east, west, north and south; behind a wall, the cell itself."""
    north, south = np.roll(field, -1, axis=0), np.roll(field, 1, axis=0)
    north[-1], south[0] = field[-1], field[0]
    return np.stack([np.roll(field, -1, axis=1), np.roll(field, 1, axis=1), north, south])


def passages(elevation: Field, scale: float) -> Field:
    """Metres [H, W] -> [4, H, W] in (0, 1]: which share of a flow gets over the edge to a neighbour.

    exp(-rise / scale) where the ground rises by `rise` metres, 1 where it is level or falls: air is held back by a slope,
    and what has drifted into a basin stays there. `scale` is in metres; inf means no barriers.
    """
    return np.exp(-np.maximum(neighbours(elevation) - elevation, 0.0) / scale)


def exchange_rates(u: Field, v: Field, spacing: float, diffusivity: float, passage: Field) -> Field:
    """Winds on the cells' eastern and northern edges [H, W] in m/s -> the rates [4, H, W] in 1/s.

    speed / spacing for the wind that blows out of the cell, and diffusivity / spacing**2 (m2/s, m) on every edge; both
    times `passage`. `v[-1]` stands on the northern wall and is not used.
    """
    from_west, from_south = np.roll(u, 1, axis=1), np.roll(v, 1, axis=0)
    outward = np.maximum(np.stack([u, -from_west, v, -from_south]), 0.0)
    rates = (outward / spacing + diffusivity / spacing**2) * passage
    rates[NORTH, -1] = rates[SOUTH, 0] = 0.0
    return rates


def longest_step(rates: Field) -> float:
    """The stability limit in seconds: the step in which some cell would give away all that it has, 1 / max(sum of rates).

    For a wind (u, v) and no barriers that is 1 / (|u|/dx + |v|/dx + 4 D/dx2), the usual limit of the scheme.
    """
    fastest = rates.sum(axis=0).max()
    return float(1.0 / fastest) if fastest > 0 else np.inf


def advance(content: Field, rates: Field, seconds: float) -> Field:
    """One explicit step: contents [..., H, W] (any unit) `seconds` later. Conserves their sum, keeps them from going negative.

    Raises UnstableStepError if `seconds` is beyond `longest_step(rates)`.
    """
    limit = longest_step(rates)
    if seconds > limit:
        raise UnstableStepError(
            f"a step of {seconds:g} s is unstable: some cell would give away more than it has; here at most {limit:.6g} s"
        )
    leaving = content[..., None, :, :] * (rates * seconds)  # [..., 4, H, W]
    arriving = (
        np.roll(leaving[..., EAST, :, :], 1, axis=-1)
        + np.roll(leaving[..., WEST, :, :], -1, axis=-1)
        + np.roll(leaving[..., NORTH, :, :], 1, axis=-2)  # nothing leaves over a wall, so nothing comes round it
        + np.roll(leaving[..., SOUTH, :, :], -1, axis=-2)
    )
    staying = np.maximum(1.0 - seconds * rates.sum(axis=0), 0.0)  # at the limit, rounding could make it -1e-16
    return content * staying + arriving
