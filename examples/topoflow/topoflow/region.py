"""A made-up region: its terrain, its people and industry, and its weather. Everything follows from a seed.

Letters in shapes: H rows from south to north, W columns from west to east, S species. The region is 6400 km by 3200 km
whatever the number of cells, so that a coarse and a fine grid show the same mountains and the same winds.
"""

from dataclasses import dataclass, field

import numpy as np

from topoflow.transport import Field

WIDTH, HEIGHT = 6.4e6, 3.2e6  # m, west to east and south to north
HOUR, DAY = 3600.0, 86400.0  # s
WAVES = ((1, 1, 9.0), (2, 1, 7.0), (2, 2, 5.0), (3, 1, 5.0), (4, 2, 4.0))  # along x, along y, wind in m/s
MEMORY = 3 * DAY  # how long the strength of a wave is remembered


@dataclass(frozen=True)
class Region:
    """Elevation [H, W] in m, population [H, W] in people/km2, emissions [S, H, W] in ug/m3 a second, latitude, longitude."""

    elevation: Field
    population: Field
    emissions: Field
    latitude: Field
    longitude: Field


def make_region(rows: int, columns: int, seed: int) -> Region:
    """Ridges up to 4000 m, a plateau in the west, cities and industry on the lower ground, dust on the plateau."""
    random = np.random.default_rng((seed, 1))
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    plateau = 1500.0 * blob(x, y, 0.18, 0.6, 0.16, 0.3, 0.0)
    ridges = [
        random.uniform(2000, 4000) * blob(x, y, *random.uniform(0, 1, 2), 0.05, 0.2, random.uniform(-0.8, 0.8))
        for _ in range(6)
    ]
    elevation = np.maximum.reduce([plateau, *ridges])
    cities, industry = (settlements(x, y, elevation, number, random) for number in (14, 9))
    dust = plateau / 1500.0
    return Region(elevation, 1500.0 * cities, emissions(cities, industry, dust), 20.0 + 29.0 * y, 75.0 + 60.0 * x)


def blob(x: Field, y: Field, x0: float, y0: float, wide: float, long: float, turn: float) -> Field:
    """A Gaussian hill of height 1 at (x0, y0), in widths and heights of the region; joined in the east and the west."""
    east, north = (x - x0 + 0.5) % 1.0 - 0.5, (y - y0) * HEIGHT / WIDTH
    across = east * np.cos(turn) + north * np.sin(turn)
    along = north * np.cos(turn) - east * np.sin(turn)
    return np.exp(-0.5 * ((across / wide) ** 2 + (along / long) ** 2))


def settlements(x: Field, y: Field, elevation: Field, number: int, random: np.random.Generator) -> Field:
    """[H, W], about 1 in the middle of a large settlement; the higher, the fewer."""
    places = zip(
        random.uniform(0, 1, number), random.uniform(0.08, 0.92, number), random.uniform(0.2, 1, number), strict=True
    )
    return sum(size * blob(x, y, x0, y0, 0.025, 0.025, 0.0) for x0, y0, size in places) * np.exp(-elevation / 600.0)


def emissions(cities: Field, industry: Field, dust: Field) -> Field:
    """pm25, pm10, so2, no2, co, o3 [6, H, W] in ug/m3 a second, by day and night on average."""
    uniform = np.ones_like(dust)
    mixes = (
        (60 * cities + 40 * industry),
        (50 * cities + 50 * industry + 45 * dust),
        (5 * cities + 45 * industry),
        (70 * cities + 15 * industry),
        (700 * cities + 500 * industry),
        (20 * uniform + 20 * cities),
    )
    return np.stack(mixes) / DAY


@dataclass
class Weather:
    """Winds that turn and change from hour to hour: planetary waves on a mean westerly flow, remembered for three days."""

    rows: int
    columns: int
    seed: int
    seconds: float = 0.0
    strength: Field = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng((self.seed, 2))
        self.strength = self.random.standard_normal((len(WAVES) + 1, 2))

    def pass_hour(self) -> None:
        """The strengths are Ornstein-Uhlenbeck processes with mean 0 and deviation 1."""
        keep = np.exp(-HOUR / MEMORY)
        noise = self.random.standard_normal(self.strength.shape)
        self.strength = keep * self.strength + np.sqrt(1 - keep**2) * noise
        self.seconds += HOUR

    def winds(self) -> tuple[Field, Field]:
        """On the eastern and the northern edges [H, W] in m/s; what blows into a cell blows out of it, to rounding."""
        corners = self.stream_function()  # [H + 1, W], at the south-eastern corners and, last, the north-eastern ones
        spacing = WIDTH / self.columns
        return -np.diff(corners, axis=0) / spacing, (corners - np.roll(corners, 1, axis=1))[1:] / spacing

    def stream_function(self) -> Field:
        """[H + 1, W] in m2/s; the walls are streamlines, so nothing blows through them."""
        y, x = np.meshgrid(
            np.linspace(0, 1, self.rows + 1), (np.arange(self.columns) + 1) / self.columns, indexing="ij"
        )
        total = -(4.0 + 3.0 * self.strength[-1, 0]) * HEIGHT * y
        for (along, across, wind), (sine, cosine) in zip(WAVES, self.strength[:-1], strict=True):
            angle = 2 * np.pi * along * (x - self.seconds / (20 * DAY))
            size = wind / np.hypot(2 * np.pi * along / WIDTH, np.pi * across / HEIGHT)
            total += size * np.sin(np.pi * across * y) * (sine * np.sin(angle) + cosine * np.cos(angle))
        return total
