"""ckptdoctor: checkpoint surgery and compatibility for PyTorch.

The verbs, in the order in which they are used: `read_manifest` and `resolve_target` list what is there and what is wanted,
`load_map` reads the rules, `make_plan` decides, `evaluate` judges, `execute` writes (`apply` does the same in memory),
`verify` proves what was written and `assert_loaded` what a model holds of it, `render` shows. Importing this imports nothing
else; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdoctor.execution import apply, execute
    from ckptdoctor.integrations.modules import load_into
    from ckptdoctor.integrations.proving import assert_loaded
    from ckptdoctor.keymap import KeyMap, Rule, load_map
    from ckptdoctor.limits import Limits, limited
    from ckptdoctor.model import Manifest, TensorSpec
    from ckptdoctor.ops import Op
    from ckptdoctor.plan import Plan, Step, make_plan
    from ckptdoctor.policy import Finding, Policy, Verdict, evaluate, make_policy
    from ckptdoctor.receipt import Receipt
    from ckptdoctor.reports import render
    from ckptdoctor.source import read_manifest
    from ckptdoctor.targets import resolve_target
    from ckptdoctor.triaging import triage
    from ckptdoctor.verification import verify
    from ckptdoctor.wrappers import align

__version__ = "0.1.0"

__all__ = [
    "Finding",
    "KeyMap",
    "Limits",
    "Manifest",
    "Op",
    "Plan",
    "Policy",
    "Receipt",
    "Rule",
    "Step",
    "TensorSpec",
    "Verdict",
    "align",
    "apply",
    "assert_loaded",
    "evaluate",
    "execute",
    "limited",
    "load_into",
    "load_map",
    "make_plan",
    "make_policy",
    "read_manifest",
    "render",
    "resolve_target",
    "triage",
    "verify",
]

_HOMES = {
    "execution": "apply execute",
    "integrations.modules": "load_into",
    "integrations.proving": "assert_loaded",
    "keymap": "KeyMap Rule load_map",
    "limits": "Limits limited",
    "model": "Manifest TensorSpec",
    "ops": "Op",
    "plan": "Plan Step make_plan",
    "policy": "Finding Policy Verdict evaluate make_policy",
    "receipt": "Receipt",
    "reports": "render",
    "source": "read_manifest",
    "targets": "resolve_target",
    "triaging": "triage",
    "verification": "verify",
    "wrappers": "align",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ckptdoctor' has no attribute {name!r}")
    value = getattr(import_module(f"ckptdoctor.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
