"""A remap that is killed while it overwrites a good file leaves the old file or the new one, and never anything else."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.summary import counted

KILLS = 100


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def debris(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if "ckptdoctor-tmp" in path.name]


def start(folder: Path) -> subprocess.Popen[bytes]:
    words = ["remap", "base.pt", "-m", "map.yaml", "-o", "out.pt", "--overwrite", "-q"]
    return subprocess.Popen([sys.executable, "-m", "ckptdoctor", *words], cwd=folder, stdout=subprocess.DEVNULL)


def test_killed_at_random_moments_the_output_is_old_or_new(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    torch.save({f"a.{i}.weight": torch.randn(1024, 1024) for i in range(8)}, tmp_path / "base.pt")
    (tmp_path / "map.yaml").write_text('ckptdoctor: 1\nrules: [{from: "a.{i}.{p}", to: "b.{i}.{p}"}]\n')
    begin = time.monotonic()
    assert start(tmp_path).wait() == 0
    duration = time.monotonic() - begin
    new = digest(tmp_path / "out.pt")
    torch.save({"old": torch.zeros(8)}, tmp_path / "old.pt")
    old = digest(tmp_path / "old.pt")
    source = digest(tmp_path / "base.pt")
    moments, seen = random.Random(0), []
    for _ in range(KILLS):
        (tmp_path / "out.pt").write_bytes((tmp_path / "old.pt").read_bytes())
        process = start(tmp_path)
        time.sleep(moments.uniform(0.2, 1.1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(digest(tmp_path / "out.pt"))
        assert len(debris(tmp_path)) <= 1, "the next run has removed what the one before it left"
    assert start(tmp_path).wait() == 0
    assert debris(tmp_path) == []
    print(f"{KILLS} kills: {seen.count(old)} times the old file, {seen.count(new)} times the new one")
    assert seen.count(old) + seen.count(new) == KILLS
    assert seen.count(old) > 5
    assert digest(tmp_path / "base.pt") == source
    record_property(counted("kills"), KILLS)
