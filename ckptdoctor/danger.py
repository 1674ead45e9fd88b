"""What the globals that a pickle names would do if it were unpickled: make tensors and containers, unknown things, or harm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from ckptdoctor.model import DTYPES

Danger: TypeAlias = Literal["inert", "unknown", "dangerous"]

_INERT_PREFIXES = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.nn.parameter.")
_INERT = frozenset(
    [
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "_codecs.encode",
        "argparse.Namespace",
        "torch.Size",
        "torch.device",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch.Tensor",
        "torch.serialization._get_layout",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib.Path",
        "datetime.datetime",
        "datetime.timedelta",
        "functools.partial",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "builtins.set",
        "builtins.frozenset",
        "builtins.list",
        "builtins.dict",
        "builtins.tuple",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.complex",
        "builtins.slice",
        "builtins.range",
        "builtins.bytearray",
        "builtins.object",
        "copyreg._reconstructor",
    ]
)
_DANGEROUS_MODULES = frozenset(
    [
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "importlib",
        "runpy",
        "socket",
        "shutil",
        "ctypes",
        "pty",
        "code",
        "codeop",
        "commands",
        "multiprocessing",
        "webbrowser",
        "pickle",
        "_pickle",
        "dill",
        "cloudpickle",
        "marshal",
        "types",
        "inspect",
        "pdb",
        "bdb",
        "timeit",
        "trace",
        "tempfile",
        "urllib",
        "http",
        "ftplib",
        "smtplib",
        "asyncio",
        "threading",
        "signal",
        "operator",
        "imp",
        "pkgutil",
        "zipimport",
        "pip",
        "ensurepip",
        "idlelib",
    ]
)
_DANGEROUS = frozenset(
    [
        "builtins.eval",
        "builtins.exec",
        "builtins.compile",
        "builtins.open",
        "builtins.getattr",
        "builtins.setattr",
        "builtins.delattr",
        "builtins.__import__",
        "builtins.globals",
        "builtins.input",
        "builtins.breakpoint",
        "builtins.vars",
        "builtins.apply",
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.hub.load_state_dict_from_url",
        "torch.jit.load",
        "torch.compile",
        "torch.storage._load_from_bytes",
        "numpy.load",
        "numpy.save",
        "numpy.testing._private.utils.runstring",
    ]
)


def danger_of(path: str) -> Danger:
    """The class of a global given as `module.name`."""
    path = path.replace("__builtin__.", "builtins.", 1) if path.startswith("__builtin__.") else path
    module = path.split(".", 1)[0]
    if path in _DANGEROUS or module in _DANGEROUS_MODULES or path.startswith(("torch.hub.", "numpy.f2py.")):
        return "dangerous"
    if path in _INERT or path.startswith(_INERT_PREFIXES) or _is_torch_type(path):
        return "inert"
    return "unknown"


def _is_torch_type(path: str) -> bool:
    """`torch.FloatStorage`, `torch.float32`: storages and dtypes."""
    module, _, name = path.rpartition(".")
    return module in ("torch", "torch.cuda") and (name.endswith("Storage") or name in DTYPES)


def dangerous(paths: Iterable[str]) -> list[str]:
    """Those that would do harm."""
    return [path for path in paths if danger_of(path) == "dangerous"]
