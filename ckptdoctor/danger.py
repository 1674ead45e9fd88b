"""What a global that a pickle names would do if the file were unpickled: make tensors and containers, unknown things, or harm.

The list of what is inert is short and complete. Dangerous are modules and names that are known to do harm, and every function
of Python's own library, of torch and of numpy that is called and not known to be harmless. `unknown` is the rest, mostly
classes of a user's own packages: as safe as these packages are. Nothing is imported to find out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal, TypeAlias

from ckptdoctor.model import DTYPES

Danger: TypeAlias = Literal["inert", "unknown", "dangerous"]

_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_OLD_NAMES = {
    **{"long": "int", "unicode": "str", "basestring": "str", "unichr": "chr", "xrange": "range"},
    **{"raw_input": "input", "reduce": "reduce", "intern": "intern"},
}
"""Modules and names of Python 2, which pickles of protocol 2 are written with, and what Python 3 reads them as."""
_INERT_PREFIXES = ("torch._utils._rebuild_", "torch._tensor._rebuild_from_type", "torch.nn.parameter.")
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
    "_collections_abc": "dict_items dict_keys dict_values",
    "_operator": "attrgetter getitem itemgetter methodcaller or_",
    "_functools": "reduce",
    "builtins": "getattr reduce type",
    "copyreg": "__newobj__ __newobj_ex__",
    "functools": "cached_property lru_cache partialmethod reduce",
    "http": "HTTPMethod HTTPStatus",
    "io": "BytesIO StringIO",
    "_io": "BytesIO StringIO",
    "itertools": "chain count cycle repeat",
    "logging": "getLogger",
    "operator": "attrgetter getitem itemgetter methodcaller or_",
    "os": "stat_result terminal_size",
    "posix": "stat_result",
    "re": "_compile",
    "time": "struct_time",
    "torch.utils.data": "default_collate",
    "numpy": "finfo iinfo ndarray poly1d",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.ma.core": "_mareconstruct",
}
"""What may be called, and only makes an object. What `getattr` fetches and `reduce` is given is judged by itself."""
_UNKNOWN_PREFIXES = (
    "numpy.random._pickle.",
    "numpy.random.bit_generator.",
    "torch.distributed._",
    "torch.distributed.tensor.",
)
_LIBRARY_THAT_RUNS = {
    *(
        "_ctypes",
        "_pickle",
        "_posixsubprocess",
        "_socket",
        "_thread",
        "asyncio",
        "bdb",
        "cProfile",
        "code",
        "codeop",
        "compileall",
    ),
    *(
        "concurrent",
        "ctypes",
        "dbm",
        "doctest",
        "ensurepip",
        "ftplib",
        "gc",
        "idlelib",
        "imaplib",
        "importlib",
        "lib2to3",
        "marshal",
    ),
    *("mmap", "multiprocessing", "nntplib", "ntpath", "os", "pdb", "pickle", "pickletools", "pip", "pkgutil", "poplib"),
    *(
        "posixpath",
        "profile",
        "pty",
        "py_compile",
        "pydoc",
        "runpy",
        "sched",
        "shelve",
        "shutil",
        "signal",
        "site",
        "smtplib",
    ),
    *(
        "socket",
        "socketserver",
        "sqlite3",
        "subprocess",
        "sys",
        "sysconfig",
        "tarfile",
        "telnetlib",
        "tempfile",
        "test",
    ),
    *(
        "threading",
        "timeit",
        "tkinter",
        "trace",
        "turtle",
        "unittest",
        "urllib",
        "venv",
        "webbrowser",
        "winreg",
        "wsgiref",
    ),
    *("xmlrpc", "zipapp", "zipfile", "zipimport"),
}
"""Packages of Python's own library that have no business in a checkpoint, not even by name."""
_GONE_LIBRARY = {"asynchat", "asyncore", "commands", "distutils", "imp", "nt", "posix", "smtpd"}
"""Packages that this Python does not have, and another one may; they run things too."""
_DANGEROUS_PACKAGES = {
    *("IPython", "cffi", "cloudpickle", "dill", "execnet", "fabric", "jsonpickle", "numexpr", "paramiko"),
    *(
        "_pytest",
        "pexpect",
        "pip",
        "pkg_resources",
        "plumbum",
        "psutil",
        "ptyprocess",
        "pytest",
        "requests",
        "setuptools",
    ),
    *("sh", "yaml"),
}
_DANGEROUS_MODULES = (
    *("numpy.ctypeslib", "numpy.distutils", "numpy.f2py", "numpy.lib", "numpy.testing"),
    *("hydra.utils", "hydra._internal", "pandas.core.computation", "pandas.io", "sympy.core.sympify", "sympy.parsing"),
    *("torch._inductor", "torch._ops", "torch.export", "torch.hub", "torch.jit"),
    *("torch.distributed.elastic", "torch.distributed.launch", "torch.distributed.launcher", "torch.distributed.rpc"),
    *("torch.distributed.run", "torch.ops", "torch.package", "torch.testing", "torch.utils._config_module"),
    *("torch.utils.benchmark", "torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils.cpp_extension"),
    *("torch.utils.hipify", "torch.utils.model_zoo", "torch.multiprocessing"),
)
_DANGEROUS_NAMES = {
    "numpy": "fromfile fromregex genfromtxt load loadtxt save savetxt savez vectorize",
    "builtins": "__import__ apply breakpoint compile delattr eval exec execfile globals input open setattr vars",
    "io": "FileIO open open_code",
    "_io": "FileIO open open_code",
    "joblib": "load",
    "logging": "FileHandler",
    "pandas": "eval read_pickle read_csv",
    "sympy": "sympify",
    "torch": "compile load save",
    "torch._utils": "_import_dotted_name",
    "torch.cuda.memory": "CUDAPluggableAllocator",
    "torch._C": "PyTorchFileReader PyTorchFileWriter _import_ir_module_from_package _load_for_lite_interpreter "
    "_load_for_lite_interpreter_from_buffer import_ir_module import_ir_module_from_buffer",
    "torch.serialization": "load save",
    "torch.storage": "_load_from_bytes",
    "types": "CodeType FunctionType LambdaType",
}
_WAYS_OUT = {
    *("apply", "call", "eval", "exec", "execfile", "getattr", "import_module", "load", "open", "popen", "run", "spawn"),
    "system",
}
"""Names that, reached through dots (`package.module:attribute.attribute`), are no nested class."""


def _paths(table: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in table.items() for name in names.split())


_INERT_PATHS, _UNKNOWN_PATHS, _DANGEROUS_PATHS = map(_paths, (_INERT, _UNKNOWN, _DANGEROUS_NAMES))


def danger_of(module: str, name: str, *, called: bool = True) -> Danger:
    """The class of the global `name` in `module`, as a pickle names it; `name` may be a path of attributes.

    What is only named, and not `called`, is dangerous only where it is known to be.
    """
    module, name = _OLD_MODULES.get(module, module), _OLD_NAMES.get(name, name) if module == "__builtin__" else name
    path, package = f"{module}.{name}", module.partition(".")[0]
    if path in _INERT_PATHS or (path.startswith(_INERT_PREFIXES) and "." not in name) or _is_torch_type(module, name):
        return "inert"
    if path in _UNKNOWN_PATHS or path.startswith(_UNKNOWN_PREFIXES) or _is_torch_function(module, name):
        return "unknown"
    if package in _DANGEROUS_PACKAGES or package in _LIBRARY_THAT_RUNS | _GONE_LIBRARY or path in _DANGEROUS_PATHS:
        return "dangerous"
    if _reaches_out(package, name) or any(
        path == known or path.startswith(f"{known}.") for known in _DANGEROUS_MODULES
    ):
        return "dangerous"
    is_function = not name.lstrip("_")[:1].isupper() and (_is_of_python(package) or package in ("torch", "numpy"))
    return "dangerous" if called and is_function else "unknown"


def shown(module: str, name: str) -> str:
    """A global as people know it: `builtins.int` for the `__builtin__.long` of protocol 2."""
    old = module == "__builtin__"
    return f"{_OLD_MODULES.get(module, module)}.{_OLD_NAMES.get(name, name) if old else name}"


def _is_torch_type(module: str, name: str) -> bool:
    """`torch.FloatStorage`, `torch.float32`: storages and dtypes."""
    return module in ("torch", "torch.cuda") and "." not in name and (name.endswith("Storage") or name in DTYPES)


def _is_torch_function(module: str, name: str) -> bool:
    """`torch.relu`, as pickles of protocol 2 and of 4 name it: a function on numbers, which somebody's module was given."""
    first, _, rest = name.partition(".")
    owner = module == "torch._C" and first in ("_VariableFunctionsClass", "_VariableFunctions", "TensorBase")
    return (owner and rest.isidentifier() and not rest.startswith("_")) or module in (
        "torch._C._nn",
        "torch._C._VariableFunctions",
    )


def _reaches_out(package: str, name: str) -> bool:
    """Whether a path of attributes leads elsewhere than to a class in a class: `serialization.os.system` of torch does."""
    first, *rest = name.split(".")
    if not rest or (len(rest) == 1 and rest[0].isupper() and not rest[0].startswith("_")):  # a member of an enumeration
        return False
    odd = any(part.startswith("__") or part in _WAYS_OUT or _is_of_python(part) for part in (first, *rest))
    return odd or package in ("torch", "numpy") or _is_of_python(package)


def _is_of_python(package: str) -> bool:
    return package in sys.stdlib_module_names or package in sys.builtin_module_names or package in _GONE_LIBRARY
