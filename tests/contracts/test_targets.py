"""What every kind of target promises. The table is the list of kinds: a new one is covered by being in it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckptdoctor.errors import CkptDoctorError, UsageError
from ckptdoctor.targets import RESOLVERS, TargetArguments, TargetResolver, resolve_target

MODEL = "from torch import nn\n\ndef make(width=2): return nn.Linear(width, 3)\n\nmodel = make()\n"
FILES = {
    "contract_net.py": MODEL,
    "hydra.yaml": "_target_: contract_net.make\nwidth: 2\n",
    "hydra.json": json.dumps({"_target_": "contract_net.make", "width": 2}),
    "cli.yaml": "model:\n  class_path: contract_net.make\n  init_args: {width: 2}\n",
    "manifest.json": json.dumps(
        {
            "schema": "ckptdoctor/manifest/1",
            "tensors": [
                {"key": "weight", "shape": [3, 2], "dtype": "float32", "kind": "parameter", "tied_to": None},
                {"key": "bias", "shape": [3], "dtype": "float32", "kind": "parameter", "tied_to": None},
            ],
        }
    ),
}
REFERENCES = {
    "contract_net:make": "module",
    "contract_net:model": "module",
    "contract_net.py:make": "python-file",
    "./contract_net.py:model": "python-file",
    "hydra.yaml": "config",
    "hydra.json": "config",
    "cli.yaml": "config",
    "manifest.json": "file",
}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


def first(reference: str) -> TargetResolver:
    return next(resolver for resolver in RESOLVERS.values() if resolver.recognise(reference))


@pytest.mark.parametrize("resolver", RESOLVERS.values(), ids=lambda each: each.name)
class TestEachKind:
    def test_is_named_and_says_how_it_is_written(self, resolver: TargetResolver) -> None:
        assert resolver.name.replace("-", "").isalpha()
        assert resolver.forms
        assert inspect.getdoc(type(resolver))

    def test_is_covered_here(self, resolver: TargetResolver) -> None:
        assert resolver.name in REFERENCES.values()

    def test_recognises_nothing_in_nonsense(self, resolver: TargetResolver) -> None:
        for reference in ("", " ", ":", "no/such/thing.ckpt", "a b:c", "\n", "https://example.org/x"):
            assert not resolver.recognise(reference), reference


def test_names_are_unique() -> None:
    assert len({resolver.name for resolver in RESOLVERS.values()}) == len(RESOLVERS)


@pytest.mark.parametrize(("reference", "kind"), REFERENCES.items())
class TestEachReference:
    def test_goes_to_its_kind(self, reference: str, kind: str) -> None:
        assert first(reference).name == kind

    def test_gives_the_same_manifest(self, reference: str, kind: str) -> None:
        manifest = first(reference).resolve(reference, TargetArguments())
        assert {key: spec.shape for key, spec in manifest.items()} == {"weight": (3, 2), "bias": (3,)}
        assert {spec.kind for spec in manifest.values()} == {"parameter"}

    def test_the_origin_is_what_the_user_wrote(self, reference: str, kind: str) -> None:
        origin = resolve_target(reference).origin
        assert origin.reference == reference
        if kind != "file":
            assert origin.kind == kind

    def test_an_argument_that_does_not_fit_is_an_error_of_ours(self, reference: str, kind: str) -> None:
        with pytest.raises(CkptDoctorError) as caught:
            resolve_target(reference, arguments={"no_such_argument": 1})
        assert caught.value.hint or isinstance(caught.value, UsageError)

    def test_the_process_is_as_before(self, reference: str, kind: str) -> None:
        import random

        import torch

        before = (
            sys.path[:],
            sys.stdout,
            random.getstate(),
            torch.get_rng_state().tolist(),
            torch.nn.Module.register_buffer,
        )
        resolve_target(reference)
        assert before == (
            sys.path,
            sys.stdout,
            random.getstate(),
            torch.get_rng_state().tolist(),
            torch.nn.Module.register_buffer,
        )


def test_recognising_and_importing_are_cheap() -> None:
    program = (
        "import sys; from ckptdoctor.targets import RESOLVERS\n"
        f"for reference in {list(REFERENCES)}: [each.recognise(reference) for each in RESOLVERS.values()]\n"
        "print([name for name in ('torch', 'numpy', 'yaml', 'pydantic', 'contract_net') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
    )
    assert done.stdout.strip() == "[]"
