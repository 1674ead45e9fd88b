"""The benchmarks judge, report and clean up as they say; what they find is not looked at here."""

import json
import sys

import pytest

from benchmarks import data, readme
from benchmarks.harness import parser
from benchmarks.measure import Figures, Process, Room, interleaved
from benchmarks.results import Bar, Finding, Work, as_text, judge

MACHINE = {
    "date": "2026-01-01", "cores": 2, "processor": "x", "memory_gb": 24, "kernel": "Linux 6", "file_system": "ext4",
    "python": "3.11", "cp": "cp 9", "commit": "abc", "versions": {"torch": "2.13.0"},
}  # fmt: skip


def figures() -> dict[str, Figures]:
    return {"cp": Figures([1.0, 2.0, 4.0], [2.0] * 3), "ckptdoctor": Figures([1.1, 2.0, 2.0], [30.0, 31.0, 30.0])}


def test_a_ratio_is_the_median_of_the_rounds():
    assert judge(Bar(1.1, "cp"), figures()) == Finding("time / cp", 1.0, 1.1)
    assert judge(Bar(0.9, "cp"), figures()).met is False
    assert judge(
        Bar(1, "cp", of="ckptdoctor with digests"), figures() | {"ckptdoctor with digests": figures()["cp"]}
    ) == (Finding("with digests / cp", 1.0, 1))
    assert judge(Bar(60), figures()) == Finding("peak memory", 31.0, 60, unit="MB")
    assert judge(Bar(1.0, "cp", at_least=True), figures()) == Finding("cp / time", 1.0, 1.0, at_least=True)
    assert judge(Bar(0.5, "cp", factor=0.25), figures()).found == 0.25


def test_a_process_that_fails_is_said_and_the_others_go_on(tmp_path):
    here = Room(tmp_path / "out", 5)
    program = "import sys, pathlib; pathlib.Path(sys.argv[1], 'x').write_bytes(b'x' * int(sys.argv[2]))"
    write = [sys.executable, "-c", program, here.path]
    processes = [
        Process("good", [*write, "5"]),
        Process("little", [*write, "4"]),
        Process("bad", [sys.executable, "-c", "raise SystemExit('no: really')"]),
        Process("none", ["/no/such/program"]),
    ]
    found = interleaved(processes, 2, room=here)
    assert len(found["good"].seconds) == 2
    assert found["little"].failure == "failed: wrote 4 bytes where 5 were to be written"
    assert found["bad"].failure == "failed with status 1: no: really"
    assert found["none"].failure.startswith("not run: [Errno 2] No such file")
    assert not here.path.exists()
    assert judge(Bar(1, "bad", of="good"), found).met is None


def test_the_readme_is_written_from_the_results():
    works = [
        Work("rename", 5 * 10**9, "cp", figures(), [judge(bar, figures()) for bar in (Bar(1.1, "cp"), Bar(30))]),
        Work("elsewhere", not_run="no a|b here"),
    ]
    results = {"machine": MACHINE, "options": {"size": 5 * 10**9, "rounds": 3}, "works": [w.as_json() for w in works]}
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    made = readme.replaced(text, json.loads(json.dumps(results)))
    assert made.startswith("before\n")
    assert made.endswith("\nafter\n")
    assert "old" not in made
    assert "| rename, 5 GB: time / cp | 1.00 x | at most 1.10 x | met |" in made
    assert "| rename, 5 GB: peak memory | 31 MB | at most 30 MB | **missed** |" in made
    assert "| elsewhere |  |  | not run: no a\\|b here |" in made
    assert readme.replaced(made, results) == made
    assert "not run: no a|b here" in as_text(results["works"][1])


@pytest.mark.parametrize(("text", "size"), [("1GB", 10**9), ("64MB", 64 * 10**6), ("12", 12)])
def test_sizes(text, size):
    assert parser(None).parse_args(["--size", text]).size == size


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("safetensors_file", (20_000_000,)),
        ("safetensors_folder", (20_000_000, 8)),
        ("torch_file", (20_000_000,)),
        ("lightning_file", (20_000_000,)),
    ],
)
def test_the_data_are_read_by_their_own_libraries(tmp_path, kind, sizes):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    with data.made(tmp_path / "model", kind, *sizes) as path:
        if kind == "safetensors_folder":
            loaded = {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}
            index = json.loads((path / "model.safetensors.index.json").read_text())
            assert set(index["weight_map"]) == set(loaded)
            assert len(set(index["weight_map"].values())) == 8
            assert index["metadata"]["total_size"] == sum(value.nbytes for value in loaded.values())
        elif kind == "safetensors_file":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, weights_only=True)
            loaded = loaded.get("state_dict", loaded)
            size = path.stat().st_size
            assert size < 3.2 * sum(value.nbytes for value in loaded.values())  # no storage more than once
        expected = data.llama(20_000_000 // 3, itemsize=4) if kind == "lightning_file" else data.llama(20_000_000)
        assert {key: tuple(value.shape) for key, value in loaded.items()} == expected
    assert not path.exists()
