"""Words from a file that would write on the terminal: escapes, direction, broken text, false messages, very long names."""

from __future__ import annotations

import json

from tests import builders as b
from tests.security.corpus.cases import (
    ROW,
    SAFE,
    Built,
    Cases,
    Listed,
    Refused,
    beside_w,
    corrupt,
    file_of,
    torch_with,
)
from tests.security.corpus.indexes import folder_of

ANSI = "\x1b[2J\x1b[31mred\x1b]0;title\x07"
FALSE = "\nerror: all is lost\nhint: run this: sh evil.sh\nnext: sh evil.sh"
BIDI = "\u202ekcab\u202c\u2066x\u2069\u200f"
LONG = "k" * 10_000_000
_SURROGATE = b"X\3\0\0\0\xed\xa0\x80"


def _key(text: str) -> bytes:
    return file_of({text: b.tensor()})


def _global(module: str, name: str) -> bytes:
    return file_of([(b.text("w"), b.tensor()), (b.text("x"), b.text(module) + b.text(name) + b"\x93)R")], protocol=4)


def _metadata(**metadata: str) -> bytes:
    return b.safetensors_bytes({"__metadata__": metadata} | ROW, bytes(8))


def _module(name: str) -> bytes:
    """A state dict with `_metadata` that names this module."""
    state = b.call("collections.OrderedDict") + b"(" + b.text("k.w") + b.tensor() + b"u"
    return b.torch_file(b.pickled(state, b.dict_({"_metadata": b.dict_({name: b.dict_({"version": b"K\1"})})}), b"b"))


PRINTING: Cases = {
    "a key that moves the cursor": Listed(_key(ANSI), (ANSI,)),
    "a key that is a false message": Listed(_key(FALSE), (FALSE,)),
    "a key that begins as a message": Listed(_key("error: all is lost"), ("error: all is lost",)),
    "a key that says what is next": Listed(_key("next: sh evil.sh"), ("next: sh evil.sh",)),
    "a key that turns round": Listed(_key(BIDI), (BIDI,)),
    "a key of nothing to see": Listed(_key("\u200b\u200b"), ("\u200b\u200b",)),
    "a key of line separators": Listed(_key("a\u2028error: x\u2029b\x85c\rd"), ("a\u2028error: x\u2029b\x85c\rd",)),
    "a key with NUL": Listed(_key("a\0b"), ("a\0b",)),
    "a key of the private use area": Listed(_key("\ue000\U000f0000"), ("\ue000\U000f0000",)),
    "a key with half a surrogate": Listed(
        b.torch_file(b.pickled(b"}" + _SURROGATE + b.tensor() + b"s")), ("\ud800",), to_safetensors="no Unicode text"
    ),
    "a key as the notation of a label": Listed(_key("a.{0..9}.b"), ("a.{0..9}.b",)),
    "a key of Markdown and HTML": Listed(_key("|<script>`*_[x](y)|"), ("|<script>`*_[x](y)|",)),
    "a key of 60,000 letters": Listed(_key("k" * 60_000), ("k" * 60_000,)),
    "a key of 30,000 segments": corrupt(_key("k." * 30_000 + "k"), r"\(60,001 characters\) is too long for a key"),
    "a key of 256 segments": Listed(_key("k." * 255 + "k"), ("k." * 255 + "k",)),
    "a module of 30,000 segments": Listed(_module("k." * 30_000 + "k"), ("k.w",)),
    "a key of 10 MB": corrupt(lambda: _key(LONG), r"'k{200}\.\.\.' \(10,000,000 characters\) is too long for a key"),
    "a key of 10 MB in safetensors": corrupt(
        lambda: b.safetensors_bytes({LONG: ROW["w"]}, bytes(8)), r"\(10,000,000 characters\) is too long for a key"
    ),
    "metadata with a key of 10 MB": corrupt(lambda: _metadata(**{LONG: "x"}), r"\(10,000,000 characters\) is too long"),
    "a key of 10 MB that is no tensor": corrupt(lambda: beside_w(b.text(LONG) + b"N"), "too long for a key"),
    "a key of 10 MB around the weights": Listed(
        lambda: file_of([(b.text(LONG), b"N"), (b.text("state_dict"), b.dict_({"w": b.tensor()}))]), ("w",)
    ),
    "a place of 10 MB": Refused(lambda: file_of({LONG: b.dict_({"w": b.tensor()})}), "no-state-dict", "no state dict"),
    "a global that moves the cursor": Listed(_global("evil", ANSI), ("w",)),
    "a global that is a false message": Listed(_global("os", FALSE), ("w",), to_torch="would call"),
    "a global that turns round": Listed(_global(BIDI, "x"), ("w",)),
    "a global of 60,000 letters": Listed(_global("evil", "x" * 60_000), ("w",)),
    "a global of 10 MB": corrupt(lambda: _global("evil", LONG), "a global whose name is too long"),
    "a global of a thousand places": Listed(
        file_of([(b.text("w"), b.tensor()), (b.text("x"), b.list_(*(b.global_(f"evil.C{n}") for n in range(1000))))]),
        ("w",),
    ),
    "a storage that moves the cursor": corrupt(torch_with(b.tensor(b.storage(ANSI))), r"no record data/\\x1b"),
    "a storage of 10 MB": corrupt(lambda: torch_with(b.tensor(b.storage(LONG))), r"\(10,000,005 characters\)"),
    "a type of storage that is a false message": corrupt(
        torch_with(
            b.tensor(b.storage(kind="torch.x").replace(b"ctorch\nx\n", b.text("torch") + b.text(FALSE) + b"\x93"))
        ),
        r"unknown type torch.\\nerror: all is lost",
    ),
    "a place that is a false message": Listed(file_of({FALSE: b.dict_({"w": b.tensor()})}), ("w",)),
    "two places that are false messages": Refused(
        file_of({FALSE: b.dict_({"w": b.tensor()}), ANSI: b.dict_({"w": b.tensor()})}),
        "no-state-dict",
        r"several .*\\nerror",
        "--select",
    ),
    "entries that are no tensors and false messages": Listed(
        beside_w(b.text(FALSE) + b"N", b.text(ANSI) + b"N"), ("w",)
    ),
    "metadata that moves the cursor": Listed(_metadata(format=ANSI, author=FALSE), ("w",)),
    "metadata that ties a false message": Listed(_metadata(**{FALSE: "w"}), ("w", FALSE)),
    "a key in safetensors that moves the cursor": Listed(b.safetensors_bytes({ANSI: ROW["w"]}, bytes(8)), (ANSI,)),
    "a key in safetensors with half a surrogate": corrupt(
        b.safetensors_bytes(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        r"'\\ud800' is no Unicode text",
    ),
    "metadata of safetensors with half a surrogate": corrupt(
        b.safetensors_bytes(b'{"__metadata__":{"a":"\\udfff"},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
        r"'\\udfff' is no Unicode text",
    ),
    "a key in safetensors twice, that is a false message": corrupt(
        b.safetensors_bytes(json.dumps({FALSE: 1})[:-1] + "," + json.dumps({FALSE: 1})[1:]),
        r"'\\nerror: all is lost.*stands twice",
    ),
    "a manifest that is a false message": Listed(
        json.dumps(
            {"schema": "ckptdoctor/manifest/1", "tensors": [{"key": FALSE, "shape": [2], "dtype": "float32"}]}
        ).encode(),
        (FALSE,),
        to_torch=False,
        to_safetensors=False,
    ),
    "an index of a file that moves the cursor": Refused(
        Built(lambda folder: folder_of(folder, {"w": ANSI})), "corrupt-checkpoint", r"lacks 1 shard: \\x1b"
    ),
    "an index of a file that is a false message": Refused(
        Built(lambda folder: folder_of(folder, {"w": FALSE})), "corrupt-checkpoint", r"lacks 1 shard: \\nerror"
    ),
    "an index of keys that are false messages": Refused(
        Built(
            lambda folder: folder_of(
                folder, {"w": "model.safetensors", FALSE: "model.safetensors"}, {"model.safetensors": SAFE}
            )
        ),
        "corrupt-checkpoint",
        r"does not hold \\nerror",
    ),
    "a file beside the shards that is a false message": Listed(
        Built(
            lambda folder: folder_of(
                folder, {"w": "a.safetensors"}, {"a.safetensors": SAFE, "x\nerror: x.safetensors": SAFE}
            )
        ),
        ("w",),
    ),
}
