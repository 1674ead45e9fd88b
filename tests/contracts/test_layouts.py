"""Folders of shards, through the command line: every layout into every other, as their own libraries read it, and all that
can be wrong with a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.cli import main
from ckptdoctor.files import OutputFile
from ckptdoctor.formats.base import WriteOptions
from tests import builders as b

State: TypeAlias = dict[str, torch.Tensor]
MAP = "ckptdoctor: 1\nrules:\n  - {from: 'layers.{i}.{*p}', to: 'blocks.{i}.{*p}'}\n"


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`ckptdoctor ...` in a folder with map.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.yaml").write_text(MAP)

    def command(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ckptdoctor", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return command


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state() -> State:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"layers.{i}.{name}": torch.randn(shape, generator=generator).to(dtype)
        for i in range(6)
        for name, shape, dtype in (("w", (16, 8), torch.float32), ("b", (7,), torch.bfloat16), ("n", (), torch.int64))
    }
    return {"embed": torch.randn(50, 8, generator=generator), **tensors, "head": torch.randn(9, generator=generator)}


def renamed(tensors: Mapping[str, torch.Tensor]) -> State:
    return {key.replace("layers.", "blocks."): tensor for key, tensor in tensors.items()}


# ---- writing every layout by hand, reading every layout with its library ---------------------------------------------


def halves() -> list[State]:
    items = list(state().items())
    return [dict(items[:8]), dict(items[8:15]), dict(items[15:])]


def make_folder(folder: Path, suffix: str, *, index: bool = True, stem: str | None = None) -> Path:
    folder.mkdir()
    stem = stem or ("model" if suffix == ".safetensors" else "pytorch_model")
    weight_map, size = {}, 0
    for number, part in enumerate(halves(), 1):
        name = f"{stem}-{number:05d}-of-00003{suffix}"
        save_file(part, folder / name) if suffix == ".safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
        size += sum(tensor.nbytes for tensor in part.values())
    if index:
        document = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(document))
    return folder


def _torch(path: Path, **settings: Any) -> Path:
    torch.save(state(), path, **settings)
    return path


def _safetensors(path: Path) -> Path:
    save_file(state(), path)
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "torch": lambda folder: _torch(folder / "source.pt"),
    "torch-legacy": lambda folder: _torch(folder / "source.pt", _use_new_zipfile_serialization=False),
    "safetensors": lambda folder: _safetensors(folder / "source.safetensors"),
    "sharded": lambda folder: make_folder(folder / "source", ".safetensors"),
    "sharded without an index": lambda folder: make_folder(folder / "source", ".safetensors", index=False),
    "sharded-torch": lambda folder: make_folder(folder / "source", ".bin"),
    "sharded-torch without an index": lambda folder: make_folder(folder / "source", ".bin", index=False),
}
OUTPUTS = ("torch", "safetensors", "sharded", "sharded-torch")


def loaded(path: Path, layout: str) -> State:
    """What torch or safetensors reads; of a folder, every tensor from the file that the index names."""
    if path.is_dir():
        suffix = ".bin" if layout == "sharded-torch" else ".safetensors"
        (index,) = path.glob(f"*{suffix}.index.json")
        weight_map = json.loads(index.read_text())["weight_map"]
        files = {name: loaded(path / name, layout) for name in sorted(set(weight_map.values()))}
        assert sum(map(len, files.values())) == len(weight_map)
        return {key: files[name][key] for key, name in weight_map.items()}
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def assert_same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape)
        assert b.values_of(ours[key]) == b.values_of(tensor), key


@pytest.mark.parametrize("to", OUTPUTS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("digests", [True, False])
def test_every_layout_into_every_other(tmp_path, run, source, to, digests):
    path = SOURCES[source](tmp_path)
    words = ["remap", path.name, "-m", "map.yaml", "-o", "out", "--to", to]
    words += ["--shard-size", "3kB"] if to.startswith("sharded") else []
    words += [] if digests else ["--no-digests"]
    done = run(*words)
    assert (done.status, done.err.count("warning")) == (0, 0), done.err
    out = tmp_path / "out"
    if not out.is_dir():
        out = out.rename(tmp_path / ("out.safetensors" if to == "safetensors" else "out.pt"))
        (tmp_path / "out.receipt.json").rename(tmp_path / f"{out.name}.receipt.json")
    assert_same(loaded(out, to), renamed(state()))
    verified = run("verify", out.name)
    assert verified.status == 0, verified.out
    assert "20 tensors agree with" in verified.out
    assert run("diff", out.name, path.name, "--exit-code").status == 1
    shown = run("inspect", out.name)
    assert f"({to}" in shown.out


@pytest.mark.parametrize(("suffix", "layout"), [(".safetensors", "sharded"), (".bin", "sharded-torch")])
def test_shards_keep_their_tensors_and_names_unless_a_size_is_asked_for(tmp_path, run, suffix, layout):
    make_folder(tmp_path / "source", suffix, stem="diffusion_pytorch_model")
    assert run("remap", "source", "-m", "map.yaml", "-o", "out").status == 0
    assert names(tmp_path / "out") == names(tmp_path / "source")
    for name in (path.name for path in (tmp_path / "source").glob(f"*{suffix}")):
        before, after = (loaded(tmp_path / folder / name, layout) for folder in ("source", "out"))
        assert_same(after, renamed(before))


def test_a_shard_is_no_larger_than_asked_unless_one_tensor_is(tmp_path, run):
    _safetensors(tmp_path / "source.safetensors")
    assert (
        run("remap", "source.safetensors", "-m", "map.yaml", "-o", "o", "--to", "sharded", "--shard-size", "1kB").status
        == 0
    )
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in (tmp_path / "o").glob("*.safetensors")]
    assert sorted(sizes)[-1] == state()["embed"].nbytes
    assert all(size <= 1000 for size in sorted(sizes)[:-1])
    assert len(sizes) > 4


def test_what_fits_into_one_shard_needs_no_index(tmp_path, run):
    _torch(tmp_path / "source.pt")
    assert run("remap", "source.pt", "-m", "map.yaml", "-o", "out", "--to", "sharded").status == 0
    assert names(tmp_path / "out") == ["model.safetensors"]
    assert run("inspect", "out").status == 0


def test_the_index_given_itself_is_its_folder(tmp_path, run):
    folder = make_folder(tmp_path / "source", ".safetensors")
    extra = {key: tensor + 1 for key, tensor in state().items()}
    save_file(extra, folder / "model.fp16-00001-of-00001.safetensors")
    (folder / "model.fp16.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(extra, "model.fp16-00001-of-00001.safetensors")})
    )
    refused = run("inspect", "source")
    assert refused.status == 2
    assert "2 indexes" in refused.err
    assert run("remap", "source/model.safetensors.index.json", "-m", "map.yaml", "-o", "out").status == 0
    assert_same(loaded(tmp_path / "out", "sharded"), renamed(state()))


def test_left_over_shards_are_named(tmp_path, run):
    folder = make_folder(tmp_path / "source", ".safetensors")
    save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
    done = run("inspect", "source")
    assert done.status == 0
    assert "consolidated.safetensors" in done.err


def test_what_readers_look_for_beside_the_weights_comes_along(tmp_path, run):
    folder = make_folder(tmp_path / "source", ".safetensors")
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    (folder / "trainer_state.json").write_text("{}")
    torch.save({"state": {}}, folder / "optimizer.pt")
    done = run("remap", "source", "-m", "map.yaml", "-o", "out", "--to", "sharded-torch")
    assert done.status == 0
    assert (tmp_path / "out/config.json").read_text() == '{"model_type": "x"}'
    assert (tmp_path / "out/tokenizer.model").read_bytes() == bytes(range(256))
    assert not list((tmp_path / "out").glob("*.safetensors*"))
    assert "config.json, tokenizer.model" in done.out
    assert "left out: optimizer.pt, trainer_state.json" in done.err


def test_untouched_shards_are_linked_if_asked(tmp_path, run):
    folder = make_folder(tmp_path / "source", ".safetensors")
    (tmp_path / "head.yaml").write_text("ckptdoctor: 1\nrules:\n  - {from: head, to: top}\n")
    assert run("remap", "source", "-m", "head.yaml", "-o", "out", "--link").status == 0
    linked = {path.name for path in folder.glob("*.safetensors") if path.samefile(tmp_path / "out" / path.name)}
    assert linked == {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"}
    assert run("verify", "out").status == 0
    refused = run("remap", "source", "-m", "head.yaml", "-o", "one.safetensors", "--link")
    assert (refused.status, "--to sharded" in refused.err) == (2, True)


def test_a_shard_whose_ties_go_is_not_linked(tmp_path, run):
    (tmp_path / "source").mkdir()
    save_file({"a": torch.ones(3)}, tmp_path / "source" / "model.safetensors", metadata={"format": "pt", "b": "a"})
    torch.save({"a": torch.ones(3), "b": torch.zeros(3)}, tmp_path / "untied.pt")
    (tmp_path / "same.yaml").write_text("ckptdoctor: 1\nrules:\n  - {from: '{k}', to: '{k}'}\n")
    assert run("remap", "source", "untied.pt", "-m", "same.yaml", "-o", "out", "--link").status == 0
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), {"a": torch.ones(3), "b": torch.ones(3)})


def test_ops_across_shards(tmp_path, run):
    make_folder(tmp_path / "source", ".safetensors")
    (tmp_path / "ops.yaml").write_text(
        "ckptdoctor: 1\nrules:\n  - {from: 'layers.{0..5}.w', to: all, op: {concat: 0}}\n"
        "  - {from: embed, to: embed.T, op: {transpose: [0, 1]}}\n"
    )
    for layout in OUTPUTS:
        out = {"torch": "o.pt", "safetensors": "o.safetensors"}.get(layout, layout)
        assert run("remap", "source", "-m", "ops.yaml", "-o", out, "--to", layout).status == 0
        found = loaded(tmp_path / out, layout)
        tensors = state()
        assert torch.equal(found["all"], torch.cat([tensors[f"layers.{i}.w"] for i in range(6)]))
        assert torch.equal(found["embed.T"], tensors["embed"].T)
        assert run("verify", out).status == 0


def test_transformers_reads_what_was_written(tmp_path, run, transformers):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 90}
    config = transformers.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    (tmp_path / "same.yaml").write_text("ckptdoctor: 1\nrules:\n  - {from: '{*k}', to: '{*k}'}\n")
    for layout, size in (("sharded", "30kB"), ("sharded-torch", "50kB"), ("sharded", "1GB")):
        out = f"{layout}-{size}"
        assert run("remap", "source", "-m", "same.yaml", "-o", out, "--to", layout, "--shard-size", size).status == 0
        back = transformers.LlamaForCausalLM.from_pretrained(tmp_path / out)
        assert_same(back.state_dict(), model.state_dict())


# ---- replacing -------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_only_if_asked_and_only_if_it_is_ours(tmp_path, run):
    make_folder(tmp_path / "source", ".safetensors")
    words = ("remap", "source", "-m", "map.yaml", "-o", "out")
    (tmp_path / "out").mkdir()
    assert run(*words).status == 0, "an empty folder is a place to write to"
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    refused = run(*words)
    assert (refused.status, "--overwrite" in refused.err) == (2, True)
    assert run(*words, "--overwrite", "--to", "sharded-torch").status == 0
    assert not {path.name for path in (tmp_path / "out").iterdir()} & before.keys()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused = run(*words, "--overwrite")
    assert (refused.status, "notes.txt" in refused.err) == (2, True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["map.yaml", "out", "out.receipt.json", "source"]


def test_a_folder_that_is_no_place_to_write_to(tmp_path, run):
    make_folder(tmp_path / "source", ".safetensors")
    b.written(tmp_path / "file", b"x")
    for out, message in (("file", "exists and is no folder"), ("none/out", "there is no folder"), ("source", "exists")):
        refused = run("remap", "source", "-m", "map.yaml", "-o", out, "--overwrite")
        assert (refused.status, message in refused.err or "did not write there" in refused.err) == (2, True), (
            refused.err
        )


def test_what_the_map_made_is_not_taken_for_its_source(tmp_path, run):
    make_folder(tmp_path / "source", ".safetensors")
    (tmp_path / "swap.yaml").write_text("ckptdoctor: 1\nrules:\n  - {from: 'layers.{0,1}.w', to: 'layers.{1,0}.w'}\n")
    assert run("remap", "source", "-m", "swap.yaml", "-o", "out").status == 0
    refused = run("remap", "out", "-m", "swap.yaml", "-o", "again")
    assert (refused.status, "--again" in refused.err) == (2, True)


@pytest.mark.parametrize("number", range(1, 7))  # three shards, the index, the receipt, and none
def test_no_space_at_any_write_leaves_nothing(tmp_path, run, monkeypatch, number):
    make_folder(tmp_path / "source", ".safetensors")
    before, writes = names(tmp_path), []
    whole = OutputFile.finish

    def full(self: OutputFile) -> None:
        writes.append(self)
        if len(writes) == number:
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        whole(self)

    monkeypatch.setattr(OutputFile, "finish", full)
    failed = run("remap", "source", "-m", "map.yaml", "-o", "out")
    if number <= 5:
        assert (failed.status, "No space left" in failed.err) == (2, True)
        assert names(tmp_path) == before
    else:
        assert (tmp_path / "out").is_dir()


def test_an_interruption_stops_all_workers(tmp_path):
    path = make_folder(tmp_path / "source", ".safetensors")
    moved = []

    def interrupt(count: int) -> None:
        moved.append(count)
        if len(moved) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(make_plan(read_manifest(path)), tmp_path / "out", options=WriteOptions(progress=interrupt))
    assert len(moved) < 12, "of 20 tensors"
    assert names(tmp_path) == ["source"]


# ---- what can be wrong with a folder -----------------------------------------------------------------------------------


def index_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = folder.glob("*.index.json")
    return path, json.loads(path.read_text())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path, document = index_of(folder)
    change(document)
    path.write_text(json.dumps(document))


def _outside(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_file({"x": torch.ones(1)}, folder.parent / "secret.safetensors")
        edit(folder, lambda document: document["weight_map"].update(x=name))

    return spoil


def _link_out(folder: Path) -> None:
    shard = folder / "model-00002-of-00003.safetensors"
    shard.rename(folder.parent / "elsewhere.safetensors")
    shard.symlink_to("../elsewhere.safetensors")


def _doubled(folder: Path) -> None:
    second = folder / "model-00002-of-00003.safetensors"
    save_file(load_file(second) | {"embed": torch.ones(50, 8)}, second)


def _shard_of_another_kind(folder: Path) -> None:
    torch.save(halves()[1], folder / "model-00002-of-00003.safetensors")


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing shard": (
        lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(),
        ("lacks 1 shard", "model-00002-of-00003.safetensors"),
    ),
    "missing shards without an index": (
        lambda folder: (index_of(folder)[0].unlink(), (folder / "model-00001-of-00003.safetensors").unlink()),
        ("lacks 1 shard", "model-00001-of-00003.safetensors"),
    ),
    "above": (_outside("../secret.safetensors"), ("outside of it", "../secret.safetensors")),
    "absolute": (_outside("/etc/hostname"), ("outside of it", "/etc/hostname")),
    "the folder itself": (_outside("."), ("outside of it",)),
    "a NUL": (_outside("a\0b"), ("outside of it",)),
    "a name too long": (_outside("x" * 300), ("cannot look at xxx", "too long")),
    "a link out of it": (_link_out, ("outside of it", "model-00002-of-00003.safetensors")),
    "a key in two shards": (
        _doubled,
        ("embed is in two shards", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"),
    ),
    "a key that is not where the index says": (
        lambda folder: edit(folder, lambda d: d["weight_map"].update(head="model-00001-of-00003.safetensors")),
        ("model-00001-of-00003.safetensors does not hold head",),
    ),
    "a key that the index does not list": (
        lambda folder: edit(folder, lambda d: d["weight_map"].pop("head")),
        ("model-00003-of-00003.safetensors holds head",),
    ),
    "a lie about the size": (
        lambda folder: edit(folder, lambda d: d["metadata"].update(total_size=17)),
        ("total_size is 17",),
    ),
    "a size that is none": (
        lambda folder: edit(folder, lambda d: d["metadata"].update(total_size="much")),
        ("total_size is no count",),
    ),
    "a size of infinity": (
        lambda folder: index_of(folder)[0].write_text('{"metadata": {"total_size": 1e400}, "weight_map": {"a": "b"}}'),
        ("out of range",),
    ),
    "no weight_map": (lambda folder: edit(folder, lambda d: d.pop("weight_map")), ("no weight_map",)),
    "a weight_map that is a list": (lambda folder: edit(folder, lambda d: d.update(weight_map=[])), ("no weight_map",)),
    "numbers for files": (lambda folder: edit(folder, lambda d: d.update(weight_map={"a": 1})), ("no weight_map",)),
    "no JSON": (lambda folder: index_of(folder)[0].write_text("{"), ("no valid index",)),
    "two equal keys": (
        lambda folder: index_of(folder)[0].write_text('{"weight_map": {"a": "b", "a": "c"}}'),
        ("stands twice",),
    ),
    "deep": (lambda folder: index_of(folder)[0].write_text("[" * 100_000), ("nested deeper",)),
    "a torch file for a shard": (_shard_of_another_kind, ("is no shard of", "model-00002-of-00003.safetensors")),
    "a truncated shard": (
        lambda folder: os.truncate(folder / "model-00003-of-00003.safetensors", 900),
        ("damaged", "model-00003-of-00003.safetensors"),
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_with_a_folder_is_one_clear_error(tmp_path, run, case):
    spoil, said = SPOILT[case]
    spoil(make_folder(tmp_path / "source", ".safetensors"))
    before = names(tmp_path)
    for words in (("inspect", "source"), ("remap", "source", "-m", "map.yaml", "-o", "out")):
        done = run(*words)
        assert done.status == 2, (done.out, done.err)
        assert done.out == ""
        assert done.err.count("error:") == 1
        assert "Traceback" not in done.err
        for text in said:
            assert text in " ".join(done.err.split()), done.err
    assert names(tmp_path) == before


def test_the_cache_of_the_hub_is_read_through_its_links(tmp_path, run):
    revision = tmp_path / "models--x" / "snapshots" / "abc"
    revision.parent.mkdir(parents=True)
    make_folder(revision, ".safetensors")
    (tmp_path / "models--x" / "blobs").mkdir()
    for number, path in enumerate(sorted(revision.iterdir())):
        path.rename(tmp_path / "models--x" / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert read_manifest(revision).keys() == state().keys()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: b.written(folder / ".metadata", b""), "torch.distributed.checkpoint"),
        (lambda folder: b.written(folder / "model_index.json", b"{}"), "several models"),
        (lambda folder: b.written(folder / "last.ckpt", b"x"), "last.ckpt"),
        (lambda folder: None, "without the weights"),
    ],
)
def test_other_folders_are_told_apart(tmp_path, run, make, said):
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder")
    done = run("inspect", "folder")
    assert (done.status, said in " ".join(done.err.split())) == (2, True), done.err


def test_a_thousand_shards_need_no_thousand_descriptors(tmp_path, run):
    import resource

    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1, 1001):
        save_file({f"layers.{number}.w": torch.ones(2)}, folder / f"model-{number:05d}-of-01000.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert run("remap", "many", "-m", "map.yaml", "-o", "out").status == 0
        assert "1,000 tensors" in run("inspect", "out").out
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
