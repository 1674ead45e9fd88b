"""What the networks are shown: random weather for a few real steps, or samples of a simulation, made once and kept on disk."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from topoflow.model import Baseline
from topoflow.simulation import FRAME_HOURS, Settings, simulate

LEADS = (2, 4, 8)  # frames: forecasts for half a day, one day and two days ahead
TRAINING_SHARE = 0.8  # the first days are for training, the last for validation
CACHE_VERSION = 1  # raise it when the same settings give other fields


class TooFewDaysError(ValueError):
    """So short a simulation has no sample for training, or none for validation."""


class RandomDays(Dataset[tuple[Tensor, ...]]):
    """`days` samples that fit `net`; sample i depends on `seed` and i alone.

    A sample is (fields [V, H, W], lead time [] in days, elevation [H, W] in metres, what came of it [V_out, H, W]).
    """

    def __init__(self, net: Baseline, days: int, seed: int) -> None:
        self.net, self.days, self.seed = net, days, seed

    def __len__(self) -> int:
        return self.days

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.days:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        fields, outcome = (
            torch.randn(variables, *self.net.img_size, generator=generator)
            for variables in (self.net.in_variables, self.net.out_variables)
        )
        lead_time = torch.randint(1, 5, (), generator=generator).float()
        return fields, lead_time, 3000.0 * torch.rand(self.net.img_size, generator=generator), outcome


class Simulated(NamedTuple):
    """Frames [T, V, H, W] in the units of `VARIABLES`, elevation [H, W] in m, and each variable's statistics [V].

    Mean and standard deviation are those of the training days; a standardised field is (field - mean) / deviation.
    """

    frames: NDArray[np.float32]
    elevation: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @property
    def training_frames(self) -> int:
        return training_part(len(self.frames))


def training_part(frames: int) -> int:
    """How many of so many frames are for training: the first ones."""
    return int(TRAINING_SHARE * frames)


def moments(frames: int) -> int:
    """At how many of so many frames in a row all forecasts can begin."""
    return max(frames - max(LEADS), 0)


def samples(days: int) -> tuple[int, int]:
    """How many samples so many days make: for training, and for validation."""
    frames = 24 * days // FRAME_HOURS
    training = training_part(frames)
    return len(LEADS) * moments(training), len(LEADS) * moments(frames - training)


def check_days(days: int) -> None:
    """Raises TooFewDaysError where there would be nothing to train on or nothing to validate with."""
    training, validation = samples(days)
    if not (training and validation):
        enough = next(more for more in count(1) if all(samples(more)))
        raise TooFewDaysError(
            f"{days} days make {training} samples for training and {validation} for validation: "
            f"at least {enough} days are needed"
        )


def simulated(settings: Settings, cache: Path) -> Simulated:
    """The simulation of these settings, from `cache` if it is there; else it is made, and written there as an npz file."""
    path = cache / f"terrain-{cache_key(settings)}.npz"
    if not path.exists():
        frames, region = simulate(settings)
        mean, deviation = statistics(frames[: training_part(len(frames))])
        arrays = Simulated(frames, region.elevation.astype(np.float32), mean, deviation)
        write_npz(path, {**arrays._asdict(), "settings": np.array(json.dumps(asdict(settings)))})
    with np.load(path) as file:
        return Simulated(*(file[name] for name in Simulated._fields))


def cache_key(settings: Settings) -> str:
    """Other settings, or another version of this code, are another file."""
    text = json.dumps([CACHE_VERSION, asdict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def statistics(frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[T, V, H, W] -> mean and standard deviation of each variable over times and places, [V] each."""
    deviation = frames.std(axis=(0, 2, 3), dtype=np.float64)
    return frames.mean(axis=(0, 2, 3), dtype=np.float64).astype(np.float32), deviation.astype(np.float32)


def write_npz(path: Path, arrays: dict[str, NDArray]) -> None:
    """Never half a file under its name, whoever else makes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


class TerrainDays(Dataset[tuple[Tensor, ...]]):
    """Samples whose first and last moments both lie in the frames `first` to `last` (exclusive).

    A sample is (fields [V, H, W], lead time [] in days, elevation [H, W] in metres, the fields [V, H, W] by then);
    fields are standardised.
    """

    def __init__(self, data: Simulated, first: int, last: int) -> None:
        self.data, self.first, self.moments = data, first, moments(last - first)
        self.elevation = torch.from_numpy(data.elevation)

    def __len__(self) -> int:
        return self.moments * len(LEADS)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        moment, lead = self.first + index // len(LEADS), LEADS[index % len(LEADS)]
        lead_time = torch.tensor(lead * FRAME_HOURS / 24)
        return self.standardised(moment), lead_time, self.elevation, self.standardised(moment + lead)

    def standardised(self, moment: int) -> Tensor:
        mean, deviation = (statistic[:, None, None] for statistic in (self.data.mean, self.data.deviation))
        return torch.from_numpy((self.data.frames[moment] - mean) / deviation)


class Stream(Sampler[int]):
    """One process's part of all batches from step `start` to step `steps`, pass after pass over the data, shuffled.

    Step k takes the places [k * batch, (k + 1) * batch) of the stream, whatever the number of processes, and wherever a
    job stopped and went on: which samples make up a step depends on the seed alone.
    """

    def __init__(self, samples: int, steps: int, batch: int, rank: int, processes: int, seed: int, start: int) -> None:
        self.samples, self.seed, self.total = samples, seed, steps * batch // processes
        self.places = range(start * batch + rank, steps * batch, processes)

    def __len__(self) -> int:
        return self.total  # those before `start` count: Lightning remembers that it has seen them

    def __iter__(self) -> Iterator[int]:
        number, order = -1, torch.empty(0)
        for place in self.places:
            if place // self.samples != number:
                number = place // self.samples
                order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(self.seed + number))
            yield int(order[place % self.samples])


class TerrainData(LightningDataModule):
    """Loaders over a simulation. `batch` counts the samples of a step in all processes together.

    Validation takes `validation_samples` samples, evenly spread; each is seen by one process, once.
    Raises TooFewDaysError, in every process and before anything is simulated.
    """

    def __init__(
        self, settings: Settings, cache: Path, steps: int, batch: int, validation_samples: int, seed: int
    ) -> None:
        super().__init__()
        check_days(settings.days)
        self.prepare_data_per_node = False  # the cache is on a file system that all nodes share
        self.settings, self.cache, self.steps, self.batch, self.seed = settings, cache, steps, batch, seed
        self.validation_samples = validation_samples
        self.data: Simulated | None = None

    def prepare_data(self) -> None:
        simulated(self.settings, self.cache)  # in one process only: the others wait, then read

    def setup(self, stage: str) -> None:
        self.data = self.data or simulated(self.settings, self.cache)

    def train_dataloader(self) -> DataLoader:
        days = TerrainDays(self.data, 0, self.data.training_frames)
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        stream = Stream(len(days), self.steps, self.batch, rank, processes, self.seed, self.trainer.global_step)
        return DataLoader(days, batch_size=self.batch // processes, sampler=stream)

    def val_dataloader(self) -> DataLoader:
        days = TerrainDays(self.data, self.data.training_frames, len(self.data.frames))
        chosen = spread(len(days), self.validation_samples)
        own = chosen[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(Subset(days, own), batch_size=64)


def spread(available: int, wanted: int) -> Sequence[int]:
    """At most `wanted` of the numbers from 0 to `available`, evenly spread."""
    return np.unique(np.linspace(0, available - 1, min(available, wanted)).round().astype(int)).tolist()
