"""What the networks learn from: six pollutants, carried over the terrain of a made-up region by its winds.

    dc/dt = -div(wind c) + div(D grad c), less what slopes hold back, + emissions - c / lifetime

Transport is `topoflow.transport.advance`; emissions and decay follow after each step of it. A frame is kept every 6 hours.
Letters in shapes: T frames, V the 15 variables, H x W cells, S species.
"""

from dataclasses import dataclass

import numpy as np

from topoflow.region import DAY, HOUR, WIDTH, Region, Weather, make_region
from topoflow.transport import Field, advance, exchange_rates, longest_step, passages

FRAME_HOURS = 6
LIFETIMES = np.array([3.0, 1.5, 1.5, 1.0, 8.0, 2.0]) * DAY  # s, for pm25, pm10, so2, no2, co, o3
NIGHT = np.array([0.7, 0.8, 1.0, 0.4, 0.7, 0.0])  # emissions at night, against 2 - that at noon


@dataclass(frozen=True)
class Settings:
    """All that a simulation depends on. The first 30 days, in which the air fills, are made and thrown away."""

    rows: int = 16
    columns: int = 32
    days: int = 300
    seed: int = 3
    diffusivity: float = 3e4  # m2/s; what eddies smaller than a cell do
    barrier_scale: float = 500.0  # m; a rise of so much lets 1/e of a flow over, inf everything
    step_seconds: float | None = None  # of the explicit scheme; None: the longest that is stable
    sources: bool = True  # False: no emissions and no decay, so that each species' sum stays what it is
    spin_up_days: int = 30


def simulate(settings: Settings) -> tuple[Field, Region]:
    """Frames [T, V, H, W] in the units of `VARIABLES`, float32, and the region. Raises UnstableStepError."""
    region = make_region(settings.rows, settings.columns, settings.seed)
    weather = Weather(settings.rows, settings.columns, settings.seed)
    passage = passages(region.elevation, settings.barrier_scale)
    content = region.emissions * DAY  # a start that is anything but even; [S, H, W] in ug/m3
    frames = []
    for hour in range(24 * (settings.spin_up_days + settings.days)):
        if hour >= 24 * settings.spin_up_days and hour % FRAME_HOURS == 0:
            frames.append(frame(region, weather, content))
        content = one_hour(content, region, weather, passage, settings)
        weather.pass_hour()
    return np.stack(frames), region


def one_hour(content: Field, region: Region, weather: Weather, passage: Field, settings: Settings) -> Field:
    """Contents [S, H, W] in ug/m3, an hour later."""
    rates = exchange_rates(*weather.winds(), WIDTH / settings.columns, settings.diffusivity, passage)
    steps = int(np.ceil(HOUR / (settings.step_seconds or longest_step(rates))))
    seconds = HOUR / steps
    for _ in range(steps):
        content = advance(content, rates, seconds)
        if settings.sources:
            content = emit_and_decay(content, region.emissions, daylight(weather.seconds), seconds)
    return content


def emit_and_decay(content: Field, emissions: Field, sun: float, seconds: float) -> Field:
    """Decay is exact and emissions are not negative, so this step is stable and positive however long it is."""
    by_hour = (NIGHT + (2 - 2 * NIGHT) * sun)[:, None, None]
    return content * np.exp(-seconds / LIFETIMES)[:, None, None] + seconds * by_hour * emissions


def daylight(seconds: float) -> float:
    """0 at midnight, 1 at noon, 0.5 on average."""
    return 0.5 - 0.5 * float(np.cos(2 * np.pi * seconds / DAY))


def frame(region: Region, weather: Weather, content: Field) -> Field:
    """All 15 variables [V, H, W] as they are now, float32, in the order and the units of `VARIABLES`."""
    u, v = weather.winds()
    u, v = (u + np.roll(u, 1, axis=1)) / 2, (v + np.roll(v, 1, axis=0)) / 2  # from the edges to the middles
    z, sun = region.elevation, daylight(weather.seconds)
    temperature = 303.0 - 0.5 * (region.latitude - 20.0) - 0.0065 * z + 8.0 * (sun - 0.5) + 0.4 * v
    humidity = np.clip(60.0 - 1.2 * (temperature - 290.0) - 0.01 * z + 1.5 * v, 5.0, 100.0)
    stream = weather.stream_function()
    pressure = 1013.0 * np.exp(-z / 8400.0) + 1.2e-6 * ((stream[1:] + stream[:-1]) / 2 - stream.mean())
    fixed = (z, region.latitude, region.longitude, region.population)
    return np.stack([u, v, temperature, humidity, pressure, *content, *fixed]).astype(np.float32)
