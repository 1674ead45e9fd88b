"""What a global that a pickle names would do if the file were unpickled: make tensors and containers, unknown things, or harm.

The list of what is inert is short and complete; dangerous is everything of Python's own library that is not on a list, and
what is known of torch, numpy and others. `unknown` is the rest, the classes of a user's own packages: as safe as these packages
are. Nothing is imported to find out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal, TypeAlias

from ckptdoctor.model import DTYPES

Danger: TypeAlias = Literal["inert", "unknown", "dangerous"]

_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
"""Modules of Python 2 under the names that Python 3 reads for them."""
_INERT_PREFIXES = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.nn.parameter.")
_INERT = {
    "_codecs": "encode",
    "argparse": "Namespace",
    "array": "array _array_reconstructor",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "_reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "partial",
    "ipaddress": "IPv4Address IPv4Network IPv6Address IPv6Network",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "types": "MappingProxyType SimpleNamespace",
    "uuid": "SafeUUID UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "torch": "Size Tensor device",
    "torch.serialization": "_get_layout",
    "torch.storage": "TypedStorage UntypedStorage",
}
_UNKNOWN = {
    "_io": "BytesIO StringIO",
    "abc": "ABCMeta",
    "contextlib": "nullcontext",
    "enum": "Enum EnumMeta EnumType Flag IntEnum IntFlag StrEnum",
    "io": "BytesIO StringIO",
    "logging": "Logger getLogger",
    "random": "Random",
    "re": "_compile",
    "time": "struct_time",
    "typing": "Any",
}
"""What people do save of Python's own library, and what runs nothing."""
_GONE_LIBRARY = {"asynchat", "asyncore", "commands", "distutils", "imp", "nt", "posix", "smtpd"}
"""Modules that this Python does not have, and another one may."""
_DANGEROUS_PACKAGES = {
    *("IPython", "cffi", "cloudpickle", "dill", "execnet", "fabric", "joblib", "jsonpickle", "numexpr", "paramiko"),
    *("pexpect", "pip", "pkg_resources", "plumbum", "ptyprocess", "requests", "setuptools", "sh"),
}
_DANGEROUS_MODULES = (
    *("numpy.ctypeslib", "numpy.distutils", "numpy.f2py", "numpy.lib", "numpy.testing"),
    *("pandas.core.computation", "pandas.io", "sympy.core.sympify", "sympy.parsing"),
    *("torch._dynamo", "torch._inductor", "torch._ops", "torch.compiler", "torch.fx", "torch.hub", "torch.jit"),
    *("torch.distributed.elastic", "torch.distributed.launch", "torch.distributed.launcher", "torch.distributed.rpc"),
    *("torch.distributed.run", "torch.ops", "torch.package", "torch.testing", "torch.utils._config_module"),
    *("torch.utils.benchmark", "torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils.cpp_extension"),
    *("torch.utils.hipify", "torch.utils.model_zoo", "torch.multiprocessing"),
)
_DANGEROUS_NAMES = {
    "numpy": "fromfile fromregex genfromtxt load loadtxt memmap save savetxt savez vectorize",
    "pandas": "eval read_pickle read_csv",
    "torch": "compile load save",
    "torch._C": "PyTorchFileReader PyTorchFileWriter _import_ir_module_from_package _load_for_lite_interpreter "
    "_load_for_lite_interpreter_from_buffer import_ir_module import_ir_module_from_buffer",
    "torch.serialization": "load save",
    "torch.storage": "_load_from_bytes",
}
_WAYS_OUT = {
    *("apply", "call", "eval", "exec", "execfile", "getattr", "import_module", "load", "open", "popen", "run", "spawn"),
    "system",
}
"""Names that, reached through dots (`package.module:attribute.attribute`), are no nested class."""


def _paths(table: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in table.items() for name in names.split())


_INERT_PATHS, _UNKNOWN_PATHS, _DANGEROUS_PATHS = map(_paths, (_INERT, _UNKNOWN, _DANGEROUS_NAMES))


def danger_of(module: str, name: str) -> Danger:
    """The class of the global `name` in `module`, as a pickle names it; `name` may be a path of attributes."""
    module = _OLD_NAMES.get(module, module)
    path, package = f"{module}.{name}", module.partition(".")[0]
    if path in _INERT_PATHS or (path.startswith(_INERT_PREFIXES) and "." not in name) or _is_torch_type(module, name):
        return "inert"
    if _reaches_out(package, name) or package in _DANGEROUS_PACKAGES or path in _DANGEROUS_PATHS:
        return "dangerous"
    if any(path == known or path.startswith(f"{known}.") for known in _DANGEROUS_MODULES):
        return "dangerous"
    harmless = path in _UNKNOWN_PATHS or _is_exception(module, name)
    return "dangerous" if _is_of_python(package) and not harmless else "unknown"


def _is_torch_type(module: str, name: str) -> bool:
    """`torch.FloatStorage`, `torch.float32`: storages and dtypes."""
    return module in ("torch", "torch.cuda") and "." not in name and (name.endswith("Storage") or name in DTYPES)


def _reaches_out(package: str, name: str) -> bool:
    """Whether a path of attributes leads elsewhere than to a class in a class: `serialization.os.system` of torch does."""
    first, *rest = name.split(".")
    if not rest:
        return False
    odd = any(part.startswith("__") or part in _WAYS_OUT or _is_of_python(part) for part in (first, *rest))
    return odd or package in ("torch", "numpy") or _is_of_python(package)


def _is_of_python(package: str) -> bool:
    return package in sys.stdlib_module_names or package in sys.builtin_module_names or package in _GONE_LIBRARY


def _is_exception(module: str, name: str) -> bool:
    return module == "builtins" and name.endswith(("Error", "Exception", "Warning"))
