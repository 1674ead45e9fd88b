"""Folders of shards whose index leads elsewhere, or says what is not so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import builders as b
from tests.security.corpus.cases import GOOD, ROW, SAFE, Built, Cases, Listed, Refused, over

INDEX = "model.safetensors.index.json"
ONE = {"model.safetensors": SAFE}


def folder_of(
    folder: Path, weight_map: Any, files: Mapping[str, bytes] | None = None, *, metadata: Any = None, name: str = INDEX
) -> Path:
    """A folder with these files and an index of them."""
    folder.mkdir(exist_ok=True)
    document = {"metadata": {} if metadata is None else metadata, "weight_map": weight_map}
    (folder / name).write_text(json.dumps(document))
    for other, data in (files or {}).items():
        (folder / other).write_bytes(data)
    return folder


def _index(
    weight_map: Any, words: str, files: Mapping[str, bytes] | None = ONE, *, metadata: Any = None, hint: str = ""
) -> Refused:
    return Refused(
        Built(lambda folder: folder_of(folder, weight_map, files, metadata=metadata)), "corrupt-checkpoint", words, hint
    )


def _text(text: str, words: str, hint: str = "") -> Refused:
    def build(folder: Path) -> Path:
        folder_of(folder, {}, ONE)
        (folder / INDEX).write_text(text)
        return folder

    return Refused(Built(build), "corrupt-checkpoint", words, hint)


def _linked(target: str) -> Built:
    def build(folder: Path) -> Path:
        folder_of(folder, {"w": "a.safetensors"})
        (folder / "a.safetensors").symlink_to(target)
        return folder

    return Built(build)


def _linked_out(folder: Path) -> Path:
    folder_of(folder, {"w": "a.safetensors"})
    (folder.parent / "outside.safetensors").write_bytes(SAFE)
    (folder / "a.safetensors").symlink_to(folder.parent / "outside.safetensors")
    return folder


def _folder_for_shard(folder: Path) -> Path:
    folder_of(folder, {"w": "a.safetensors"})
    (folder / "a.safetensors").mkdir()
    return folder


def _two_indexes(folder: Path) -> Path:
    folder_of(folder, {"w": "model.safetensors"}, ONE)
    return folder_of(folder, {"w": "model.safetensors"}, name="other.safetensors.index.json")


def _itself(folder: Path) -> Path:
    return folder_of(folder, {"w": INDEX}, ONE)


def _nested(folder: Path) -> Path:
    folder_of(folder, {"w": "x"})
    folder_of(folder / "x", {"w": "model.safetensors"}, ONE)
    return folder


def _over(text: str) -> Built:
    def build(folder: Path) -> Path:
        folder_of(folder, {}, ONE)
        (folder / INDEX).write_text(text)
        return folder

    return Built(build)


_OUT = "names a shard outside of it"
INDEXES: Cases = {
    "a name that leads out": _index({"w": "../model.safetensors"}, _OUT, hint="files in the folder itself"),
    "a name that leads down": _index({"w": "x/model.safetensors"}, _OUT),
    "an absolute name": _index({"w": "/etc/passwd"}, _OUT + ": /etc/passwd"),
    "a name of another system": _index({"w": "..\\model.safetensors"}, _OUT),
    "a drive of another system": _index({"w": "C:\\model.safetensors"}, _OUT),
    "a name with NUL": _index({"w": "model.safetensors\0"}, _OUT),
    "an empty name": _index({"w": ""}, _OUT),
    "a dot": _index({"w": "."}, _OUT),
    "two dots": _index({"w": ".."}, _OUT),
    "a name of 300 letters": _index({"w": "x" * 300 + ".safetensors"}, "lacks 1 shard: x{200}"),
    "a name of 100,000 letters": _index({"w": "x" * 100_000}, r"\(100,000 characters\) is too long for a name"),
    "a number for a name": _index({"w": 7}, "no weight_map from keys to names"),
    "a list for a name": _index({"w": ["model.safetensors"]}, "no weight_map from keys to names"),
    "a list for a map": _index(["w"], "no weight_map from keys to names"),
    "an empty map": _index({}, "no weight_map from keys to names"),
    "a number for metadata": _index({"w": "model.safetensors"}, "metadata is no mapping", metadata=7),
    "a missing shard": _index({"w": "gone.safetensors"}, "lacks 1 shard: gone.safetensors", hint="download"),
    "a thousand missing shards": _index(
        {f"w{n}": f"m{n}.safetensors" for n in range(1000)}, "lacks 1,000 shards.* and 995 more"
    ),
    "a key that the shard has not": _index({"w": "model.safetensors", "v": "model.safetensors"}, "does not hold v"),
    "a key that the index has not": _index(
        {"w": "model.safetensors"},
        "holds v, which it does not say",
        {"model.safetensors": b.safetensors_bytes(ROW | {"v": ROW["w"] | {"data_offsets": [8, 16]}}, bytes(16))},
    ),
    "one key in two shards": _index(
        {"w": "a.safetensors", "v": "b.safetensors"},
        "w is in two shards",
        {"a.safetensors": SAFE, "b.safetensors": SAFE},
    ),
    "a total size too small": _index(
        {"w": "model.safetensors"}, "total_size is 1, and the tensors have 8", metadata={"total_size": 1}
    ),
    "a negative total size": _index({"w": "model.safetensors"}, "total_size is -8", metadata={"total_size": -8}),
    "a total size of 1e300": _index({"w": "model.safetensors"}, "total_size is 1", metadata={"total_size": 1e300}),
    "a total size of half a byte": _index(
        {"w": "model.safetensors"}, "no count of bytes", metadata={"total_size": 8.5}
    ),
    "a total size that is true": _index({"w": "model.safetensors"}, "no count of bytes", metadata={"total_size": True}),
    "a total size that is a text": _index(
        {"w": "model.safetensors"}, "no count of bytes", metadata={"total_size": "8"}
    ),
    "a total size of 1e400": _text(
        '{"weight_map": {"w": "model.safetensors"}, "metadata": {"total_size": 1e400}}', "1e400"
    ),
    "a total size of 4,000 digits": _text(
        '{"weight_map": {"w": "model.safetensors"}, "metadata": {"total_size": ' + "9" * 4000 + "}}", "total_size is"
    ),
    "a total size of 5,000 digits": _text(
        '{"weight_map": {}, "metadata": {"total_size": ' + "9" * 5000 + "}}", "too many digits"
    ),
    "a key twice": _text('{"weight_map": {"w": "model.safetensors", "w": "other.safetensors"}}', "'w' stands twice"),
    "an index that is no JSON": _text("hello", "no valid index: line 1"),
    "an index that is empty": _text("", "no valid index: line 1|is empty"),
    "an index of a million levels": _text('{"weight_map": ' + "[" * 1_000_000, "nested deeper than 8 levels"),
    "an index with NaN": _text(
        '{"weight_map": {"w": "model.safetensors"}, "metadata": {"total_size": NaN}}', "NaN is no JSON"
    ),
    "an index of a number": _text("7", "no weight_map"),
    "a shard that is a pickle": Refused(
        Built(
            lambda folder: folder_of(folder, {"w": "a.safetensors"}, {"a.safetensors": b.pickled(b.call("os.system"))})
        ),
        "unsafe-checkpoint",
        "bare pickle.* call os.system",
    ),
    "a shard that is a torch file": _index({"w": "a.safetensors"}, "no shard of", {"a.safetensors": GOOD}),
    "a shard that is the index": Refused(Built(_itself), "corrupt-checkpoint", "no shard of"),
    "a shard that is a folder of shards": Refused(Built(_nested), "corrupt-checkpoint", "no shard of"),
    "a shard that is a folder": Refused(Built(_folder_for_shard), "corrupt-checkpoint", "no shard of"),
    "a shard that links to itself": Refused(_linked("a.safetensors"), "corrupt-checkpoint", "lacks 1 shard"),
    "a shard that links out": Refused(Built(_linked_out), "corrupt-checkpoint", _OUT),
    "a shard that links to /dev/zero": Refused(_linked("/dev/zero"), "corrupt-checkpoint", _OUT),
    "a shard that links up": Refused(_linked("../../../../../../etc/passwd"), "corrupt-checkpoint", _OUT),
    "two indexes": Refused(Built(_two_indexes), "checkpoint-error", "has 2 indexes", "give the index that you mean"),
    "an index of two million values": over(
        _over('{"weight_map": {"a": [' + "[]," * 2_000_000 + "0]}}"), "opcodes", "more than 3,000,000 values"
    ),
    "one shard and its index": Listed(Built(lambda folder: folder_of(folder, {"w": "model.safetensors"}, ONE)), ("w",)),
}
