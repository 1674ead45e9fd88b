"""What people do save beside their weights is not called dangerous, in either protocol: remap would refuse it."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import functools
import http
import itertools
import logging
import math
import operator
import random
import re
import types
import typing
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.source import describe


class Kind(enum.Enum):
    ONE = 1


class Outer:
    class Inner:
        pass

    @classmethod
    def make(cls) -> Outer:
        return cls()

    def method(self) -> None:
        pass


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.Adam(torch.nn.Linear(2, 2).parameters())


SAVED: dict[str, Any] = {
    "types": [int, str, range, complex, type(None), Ellipsis, Outer, torch.nn.Linear],
    "generic types": [list[int], list[int] | None, typing.Callable[[int], int], int | None, dict[str, typing.Any]],
    "containers": [
        collections.defaultdict(int),
        collections.Counter("aab"),
        collections.ChainMap({}),
        collections.deque([1]),
    ],
    "nested defaults": collections.defaultdict(functools.partial(collections.defaultdict, int)),
    "plain": [range(3), {1}, frozenset([1]), 1j, b"x", bytearray(b"x"), slice(1, 2)],
    "functions of torch": [torch.relu, torch.tanh, torch.nn.functional.gelu, torch.nn.functional.silu],
    "functions of Python": [
        len,
        max,
        math.sqrt,
        operator.itemgetter(0),
        operator.add,
        functools.reduce,
        itertools.count(3),
    ],
    "classes in classes, methods": [Outer.Inner(), Outer.make, Outer().method, Kind.ONE],
    "namespaces": [argparse.Namespace(act=torch.relu), types.SimpleNamespace(a=1)],
    "values": [
        datetime.datetime.now(datetime.UTC),
        zoneinfo.ZoneInfo("UTC"),
        decimal.Decimal("1.5"),
        uuid.uuid4(),
    ],
    "of the system": [
        Path("x"),
        Path("/").stat(),
        http.HTTPStatus.OK,
        re.compile("a"),
        logging.getLogger("x"),
        ValueError("x"),
    ],
    "numpy": [np.float32(3), np.arange(3), np.dtype("f4"), np.ma.array([1, 2])],
    "states of generators": [
        np.random.default_rng(0),
        np.random.RandomState(0),
        random.getstate(),
        torch.get_rng_state(),
    ],
    "torch": [
        torch.bfloat16,
        torch.device("cpu"),
        torch.Size([2]),
        torch.eye(2).to_sparse(),
        torch.nn.Parameter(torch.ones(1)),
    ],
    "modules": torch.nn.TransformerEncoderLayer(8, 2, activation=torch.relu),
    "optimizers": [_optimizer(), torch.optim.lr_scheduler.StepLR(_optimizer(), 3)],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", SAVED)
def test_it_is_not_dangerous_and_comes_along(tmp_path: Path, name: str, protocol: int) -> None:
    whole = {"state_dict": {"w": torch.ones(2)}, "saved": SAVED[name]}
    torch.save(whole, tmp_path / "f.pt", pickle_protocol=protocol)
    found = describe(tmp_path / "f.pt").globals
    assert [(each.global_name, each.places) for each in found if each.danger == "dangerous"] == []
    assert not [each.global_name for each in found if each.global_name.startswith("__builtin__")]
    execute(make_plan(read_manifest(tmp_path / "f.pt")), tmp_path / "out.pt")
    torch.load(tmp_path / "out.pt", weights_only=False)
