"""The class of a global by its name: what torch and Python save is inert or unknown, what could run something is dangerous."""

from __future__ import annotations

import pytest

from ckptdoctor.danger import danger_of

INERT = [
    *("collections:OrderedDict", "collections:defaultdict", "builtins:set", "__builtin__:set", "builtins:complex"),
    *("torch:FloatStorage", "torch.cuda:HalfStorage", "torch:float8_e4m3fn", "torch:Size", "torch:device"),
    *("torch._utils:_rebuild_tensor_v2", "torch._utils:_rebuild_parameter", "torch._tensor:_rebuild_from_type_v2"),
    *("numpy._core.multiarray:scalar", "numpy.core.multiarray:_reconstruct", "numpy:dtype", "_codecs:encode"),
    *("argparse:Namespace", "pathlib:PosixPath", "pathlib._local:PosixPath", "types:SimpleNamespace", "datetime:date"),
    *("__builtin__:long", "__builtin__:unicode", "__builtin__:xrange", "copy_reg:_reconstructor"),
    *("functools:partial", "zoneinfo:ZoneInfo._unpickle"),
]
UNKNOWN = [
    *(
        "builtins:getattr",
        "operator:itemgetter",
        "operator:getitem",
        "itertools:count",
        "os:stat_result",
        "collections:ChainMap",
    ),
    *(
        "torch._C:_VariableFunctionsClass.relu",
        "torch._dynamo.eval_frame:OptimizedModule",
        "http:HTTPStatus",
        "typing:List",
    ),
    *("mypackage.config:Config", "mypackage.os:System", "mypackage.types:Outer.Inner", "__main__:Net", "eval:Config"),
    *(
        "torch._C._nn:gelu",
        "torch.nn.modules.linear:Linear",
        "torch.optim.adamw:AdamW",
        "torch.distributed.tensor:DTensor",
    ),
    *("omegaconf.dictconfig:DictConfig", "lightning.fabric.utilities.data:AttributeDict", "numpy.random:RandomState"),
    *("builtins:ValueError", "logging:getLogger", "enum:Enum", "io:BytesIO", "re:_compile", "random:Random"),
]
DANGEROUS = [
    *(
        "torch._utils:_import_dotted_name",
        "torch.utils._pytree:tree_map",
        "yaml:unsafe_load",
        "hydra.utils:instantiate",
    ),
    *(
        "numpy:fromfunction",
        "numpy:apply_along_axis",
        "numpy._core.memmap:memmap",
        "numpy.rec:fromfile",
        "torch.export:load",
    ),
    *("torch.cuda.memory:CUDAPluggableAllocator", "sympy:sympify", "pytest:main", "psutil:Popen"),
    *("os:system", "posix:system", "nt:system", "subprocess:Popen", "importlib:import_module", "runpy:run_path"),
    *("socket:create_connection", "builtins:eval", "__builtin__:eval", "builtins:map", "sys:exit"),
    *("torch.hub:load", "torch:load", "torch.storage:_load_from_bytes", "torch.jit:load", "torch.ops:load_library"),
    *(
        "torch.jit._serialization:load",
        "torch.utils.cpp_extension:load_inline",
        "torch.fx.graph_module:reduce_graph_module",
    ),
    *(
        "torch._C:import_ir_module",
        "torch.utils.collect_env:run",
        "torch._inductor.codecache:compile_file",
        "torch.distributed.run:main",
    ),
    *("numpy.f2py.crackfortran:getlincoef", "numpy.testing._private.utils:runstring", "numpy:load", "numpy:fromfile"),
    *("torch:serialization.os.system", "torch:hub.load", "mypackage:os.system", "mypackage:A.__init__.__globals__"),
    *("collections:OrderedDict.__reduce__", "pathlib:Path.write_text", "torch._utils:_rebuild_tensor.__globals__"),
    *("types:CodeType", "types:FunctionType", "io:open", "io:FileIO"),
    *("dataclasses:make_dataclass", "copyreg:extension 7", "logging.config:dictConfig", "idlelib.run:Executive"),
    *(
        "pip._internal:main",
        "cloudpickle:loads",
        "joblib:load",
        "pandas:read_pickle",
        "distutils.spawn:spawn",
        "imp:load_source",
    ),
    *(
        "linecache:getline",
        "cProfile:run",
        "doctest:debug_script",
        "timeit:timeit",
        "site:main",
        "_posixsubprocess:fork_exec",
    ),
]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (name, kind)
        for kind, names in [("inert", INERT), ("unknown", UNKNOWN), ("dangerous", DANGEROUS)]
        for name in names
    ],
)
def test_the_class_of_a_global(name: str, wanted: str) -> None:
    module, _, attribute = name.partition(":")
    assert danger_of(module, attribute) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "math:sqrt",
        "http:HTTPStatus.OK",
        "torch.distributed.fsdp.api:StateDictType.FULL_STATE_DICT",
        "typing:Callable",
        "builtins:len",
        "functools:lru_cache",
        "numpy:memmap",
        "torch:relu",
    ],
)
def test_what_is_only_named_runs_nothing(name: str) -> None:
    module, _, attribute = name.partition(":")
    assert danger_of(module, attribute, called=False) == "unknown"


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "torch.hub:load", "subprocess:Popen", "torch:hub.load"])
def test_some_have_no_business_there_even_so(name: str) -> None:
    module, _, attribute = name.partition(":")
    assert danger_of(module, attribute, called=False) == "dangerous"
