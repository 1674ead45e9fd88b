"""A project's defaults: where they are looked for, what they may say, and what is said of those that make no sense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptdoctor.config import Config, find_config
from ckptdoctor.errors import ConfigError

YAML = """
target: topoflow.model:TopoFlow
target-config: configs/model.yaml
target-args: {depth: 6, rate: 1e-5}
maps: [maps/a.yaml, maps/b.yaml]
select: state_dict
strip: [module, _orig_mod]
policy:
  max-random: 1%
  allow-random: ["head.{p}"]
  max-unexpected: 0
  allow-unexpected: aux.{p}
  fail-on: [mismatched, dtype]
"""
TOML = """
[project]
name = "x"
[tool.ckptdoctor]
target = "topoflow.model:TopoFlow"
target-config = "configs/model.yaml"
target-args = {depth = 6, rate = 1e-5}
maps = ["maps/a.yaml", "maps/b.yaml"]
select = "state_dict"
strip = ["module", "_orig_mod"]
[tool.ckptdoctor.policy]
max-random = "1%"
allow-random = ["head.{p}"]
max-unexpected = 0
allow-unexpected = "aux.{p}"
fail-on = ["mismatched", "dtype"]
"""


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wrong(name: str, text: str | bytes) -> ConfigError:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        find_config(Path())
    assert caught.value.path == str(path.absolute())
    assert caught.value.message.startswith(name)
    return caught.value


@pytest.mark.parametrize(("name", "text"), [("ckptdoctor.yaml", YAML), ("pyproject.toml", TOML)])
@pytest.mark.parametrize("snake", [False, True], ids=["kebab", "snake"])
def test_every_field(name: str, text: str, snake: bool, tmp_path: Path) -> None:
    for field in (
        "target-config",
        "target-args",
        "max-random",
        "allow-random",
        "max-unexpected",
        "allow-unexpected",
        "fail-on",
    ):
        text = text.replace(field, field.replace("-", "_")) if snake else text
    Path(name).write_text(text)
    assert find_config(Path()) == Config(
        folder=tmp_path,
        path=tmp_path / name,
        target="topoflow.model:TopoFlow",
        target_config=Path("configs/model.yaml"),
        target_args={"depth": 6, "rate": 1e-5},
        maps=(Path("maps/a.yaml"), Path("maps/b.yaml")),
        select="state_dict",
        strip=("module", "_orig_mod"),
        max_random="1%",
        allow_random=("head.{p}",),
        max_unexpected="0",
        allow_unexpected=("aux.{p}",),
        fail_on=("mismatched", "dtype"),
    )


class TestWhereItIsLookedFor:
    def test_nothing_is_no_error(self, tmp_path: Path) -> None:
        assert find_config(tmp_path) == Config(tmp_path)

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "maps:\npolicy:\n", "{}"])
    def test_an_empty_file_is_one(self, tmp_path: Path, text: str) -> None:
        Path("ckptdoctor.yaml").write_text(text)
        assert find_config(tmp_path) == Config(tmp_path, tmp_path / "ckptdoctor.yaml")

    def test_upwards_and_the_nearest_wins(self, tmp_path: Path) -> None:
        deep = tmp_path / "a" / "b" / "c"
        deep.mkdir(parents=True)
        (tmp_path / "ckptdoctor.yaml").write_text("select: far\n")
        assert find_config(deep).select == "far"
        (tmp_path / "a" / "pyproject.toml").write_text("[tool.ckptdoctor]\nselect = 'near'\n")
        assert find_config(deep).select == "near"
        (tmp_path / "a" / "ckptdoctor.yaml").write_text("select: first\n")
        assert find_config(deep).select == "first"
        assert find_config(Path("a/b")).folder == tmp_path / "a"

    @pytest.mark.parametrize(
        "text", ["[project]\nname = 'x'\n", "this is no [ TOML\n", "[project]\nname = 'ckptdoctor'\n", "[tool.other]\n"]
    )
    def test_a_pyproject_without_the_table_is_passed_over(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "pyproject.toml").write_text(text)
        Path("ckptdoctor.yaml").write_text("select: x\n")
        assert find_config(tmp_path / "inner").select == "x"

    def test_an_empty_table_is_one(self, tmp_path: Path) -> None:
        Path("pyproject.toml").write_text("[tool.ckptdoctor]\n")
        assert find_config(tmp_path).path == tmp_path / "pyproject.toml"

    def test_a_folder_of_that_name_is_none(self, tmp_path: Path) -> None:
        Path("ckptdoctor.yaml").mkdir()
        assert find_config(tmp_path).path is None

    def test_looking_is_cheap(self, tmp_path: Path) -> None:
        Path("pyproject.toml").write_text("[project]\n")
        program = (
            "import sys; from pathlib import Path; from ckptdoctor.config import find_config; find_config(Path())\n"
            "print([name for name in ('torch', 'numpy', 'yaml', 'pydantic', 'tomllib') if name in sys.modules])"
        )
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": root}
        )
        assert done.stdout.strip() == "[]"


class TestPaths:
    @pytest.mark.parametrize(
        ("target", "located"),
        [
            ("pkg.mod:Name", "pkg.mod:Name"),
            ("src/net.py:Net.small", "{folder}/src/net.py:Net.small"),
            ("net.ckpt", "{folder}/net.ckpt"),
            ("model.yaml", "{folder}/model.yaml"),
            ("/abs/net.ckpt", "/abs/net.ckpt"),
            ("/abs/net.py:Net", "/abs/net.py:Net"),
        ],
    )
    def test_a_file_as_target_is_that_beside_the_config(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, located: str
    ) -> None:
        Path("ckptdoctor.yaml").write_text(f"target: '{target}'\nmaps: [m.yaml]\ntarget-config: c.yaml\n")
        assert find_config(tmp_path).target == target, "as it is written, where that can be opened"
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        config = find_config(Path.cwd())
        assert config.target == located.format(folder=tmp_path)
        assert config.maps == (tmp_path / "m.yaml",)
        assert config.target_config == tmp_path / "c.yaml"

    def test_home_is_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        Path("ckptdoctor.yaml").write_text("maps: [~/m.yaml]\n")
        assert find_config(tmp_path).maps == (Path("/home/me/m.yaml"),)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("text", "where", "told"),
        [
            ("select: a\ntagret: b\n", ":2:1", "did you mean target?"),
            ("policy:\n  max-randon: 1\n", ":2:3", "did you mean max-random"),
            ("max-random: 1\n", ":1:1", "max-random belongs under policy"),
            ("nonsense: 1\n", ":1:1", "the fields are target, "),
            ("target: [a]\n", ":1:1", "target has to be a text, it is a list"),
            ("target: ''\n", ":1:1", "target has to be a text"),
            ("\nmaps: {a: b}\n", ":2:1", "maps has to be a list of texts, it is a mapping"),
            ("maps: [1]\n", ":1:1", "maps has to be a list of texts"),
            ("target-args: [a=1]\n", ":1:1", "target-args has to be a mapping"),
            ("target-args: {1: 2}\n", ":1:1", "target-args has to be a mapping of names"),
            ("policy:\n  max-random: true\n", ":2:3", "policy/max-random has to be a whole number"),
            ("policy:\n  max-random: 0.5\n", ":2:3", "it is 0.5"),
            ("policy: strict\n", ":1:1", "policy has to be a mapping"),
            ("policy: 0\n", ":1:1", "policy has to be a mapping"),
            ("- a\n", "", "the whole has to be a mapping of names, it is a list"),
            ("select: a\nselect: b\n", ":2:1", "select is given twice"),
            ("policy:\n  fail-on: []\n  fail_on: []\n", ":3:3", "fail-on is given twice"),
            ("select: [a\n", ":2:1", "is no YAML"),
            ("select: *a\n", ":1:9", "is no YAML"),
            ("select: !!python/name:os.system\n", ":1:9", "is no YAML"),
            ("a: 1\n---\nb: 2\n", ":2:1", "is no YAML"),
            ("[a, b]: 1\n", ":1:1", "is no YAML"),
        ],
    )
    def test_in_yaml_with_its_line(self, text: str, where: str, told: str) -> None:
        error = wrong("ckptdoctor.yaml", text)
        assert f"ckptdoctor.yaml{where}: " in error.message
        assert told in f"{error.message}; {error.hint}"

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[tool.ckptdoctor]\nselect = \n", "line 2"),
            ("[tool.ckptdoctor]\ntagret = 'x'\n", "did you mean target?"),
            ("[tool]\nckptdoctor = 3\n", "has to be a mapping"),
            ("tool = 'ckptdoctor'\n", "is no TOML"),
            ("[tool.ckptdoctor]\npolicy = {fail-on = 3}\n", "policy/fail-on has to be a list of texts, it is 3"),
            ("[tool.ckptdoctor]\nfail-on = []\n", "belongs under policy"),
        ],
    )
    def test_in_toml(self, text: str, told: str) -> None:
        error = wrong("pyproject.toml", text)
        assert told in f"{error.message}; {error.hint}"

    def test_bytes_that_are_no_text(self) -> None:
        wrong("ckptdoctor.yaml", b"select: \xff\xfe\n")
        Path("ckptdoctor.yaml").unlink()
        wrong("pyproject.toml", b"[tool.ckptdoctor]\nselect = '\xff'\n")

    def test_a_name_that_would_move_the_cursor_does_not(self) -> None:
        assert "\x1b" not in wrong("ckptdoctor.yaml", '"\\e[2Jselect": 1\n').message
