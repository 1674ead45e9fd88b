"""The commands as their users run them: what they say, where they say it, and with which status they end."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ckptdoctor import __version__
from ckptdoctor.cli.app import COMMANDS, app
from ckptdoctor.model import Manifest
from tests.cli.helpers import (
    COMMAND,
    Done,
    environment,
    manifest_file,
    map_file,
    run,
    safetensors_file,
    torch_checkpoint,
)

SOURCE = {"a.w": (2, 3), "a.b": (3,), "c": (4,)}
TARGET = {"b.w": (2, 3), "b.b": (3,), "c": (4,), "new": (2,)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkpoint; a target that wants two other names and has a tensor more; the map between them."""
    torch_checkpoint(tmp_path / "source.ckpt", SOURCE)
    safetensors_file(tmp_path / "source.safetensors", SOURCE)
    manifest_file(tmp_path / "same.json", SOURCE)
    manifest_file(tmp_path / "target.json", TARGET)
    map_file(tmp_path / "map.yaml", ("a.{p}", "b.{p}"), fresh="new")
    return tmp_path


@pytest.fixture
def cli(project: Path) -> Callable[..., Done]:
    """One run in the project: `cli("diff source.ckpt same.json -q")`."""

    def call(line: str, *more: str, **options: Any) -> Done:
        return run(*line.split(), *more, cwd=project, **options)

    return call


Cli = Callable[..., Done]
LONG = [f"model.encoder.layers.{i}.self_attention.{'query_key_value_projection' * 3}.weight" for i in range(4)]


class TestStatusesAndStreams:
    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("diff source.ckpt same.json", 0),
            ("diff source.ckpt target.json", 0),
            ("diff source.ckpt same.json --exit-code", 0),
            ("diff source.ckpt target.json --exit-code", 1),
            ("gate source.ckpt same.json", 0),
            ("gate source.ckpt target.json", 1),
            ("gate source.ckpt target.json -m map.yaml", 0),
            ("gate source.ckpt target.json -m map.yaml --max-random 1", 1),
            ("gate source.ckpt target.json --allow-random new --allow-random b.{p}", 0),
            ("gate source.ckpt target.json --max-random 100%", 0),
            ("gate source.ckpt target.json --max-random 100% --fail-on unexpected", 1),
            ("gate source.ckpt target.json --max-random 100% --fail-on unexpected --allow-unexpected a.{p}", 0),
            ("gate source.ckpt target.json --max-random 100% --fail-on dtype,tied --fail-on buffers", 0),
            ("gate source.ckpt target.json --max-random 100% --max-unexpected 8", 1),
            ("gate source.ckpt target.json --max-random 100% --max-unexpected 9", 0),
            ("remap source.ckpt target.json -m map.yaml --dry-run", 0),
            ("remap source.ckpt target.json --dry-run", 1),
            ("remap source.ckpt target.json --allow-random new --allow-random b.{p} --dry-run", 1),
            ("map check map.yaml", 0),
            ("map check map.yaml source.ckpt target.json", 0),
            ("map invert source.ckpt target.json -m map.yaml -f json", 0),
            ("remap target.json source.ckpt -m map.yaml --reverse --dry-run", 0),
            ("inspect source.ckpt", 0),
            ("inspect target.json", 0),
            ("schema map", 0),
            ("schema report", 0),
            ("--version", 0),
            ("--help", 0),
        ],
    )
    def test_of_what_could_be_done(self, cli: Cli, line: str, status: int) -> None:
        done = cli(line)
        assert done.status == status, done.stderr
        assert done.stdout.strip()
        assert "error" not in done.stderr

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("", "Usage: "),
            ("nonsense", "nonsense"),
            ("diff", "SOURCE"),
            ("diff source.ckpt same.json --nonsense", "--nonsense"),
            ("diff source.ckpt same.json extra", "extra"),
            ("diff source.ckpt same.json -f xml", "choose from table, json, markdown"),
            ("diff source.ckpt same.json -f tabel", "did you mean table?"),
            ("diff source.ckpt same.json --color sometimes", "choose from auto, always, never"),
            ("diff source.ckpt same.json --report json", "KIND=PATH"),
            ("diff source.ckpt same.json --report xml=x", "no report of the kind 'xml'"),
            ("diff source.ckpt same.json --match a..b", "pattern 'a..b', character 3"),
            ("diff source.ckpt same.json --no-map -m map.yaml", "contradict each other"),
            ("diff source.ckpt same.json --no-target", "contradict each other"),
            ("diff source.ckpt --target-arg depth=3", "--target-arg without a target"),
            ("diff source.ckpt same.json --target-arg depth=3", "takes no arguments"),
            ("diff source.ckpt same.json --select nowhere", "tensors lie at state_dict"),
            ("gate source.ckpt", "no target to judge against"),
            ("gate source.ckpt same.json --max-random many", "'many' is no limit"),
            ("gate source.ckpt same.json --max-unexpected 0,5", "'0,5' is no limit"),
            ("gate source.ckpt same.json --fail-on dtypes", "did you mean dtype?"),
            ("gate source.ckpt same.json --allow-random {", "never closed"),
            ("remap source.ckpt same.json", "-o OUT"),
            ("remap source.ckpt same.json -o out --optimizer maybe", "choose from keep, follow, drop"),
            ("schema reprot", "did you mean report?"),
            ("map", "Usage: "),
        ],
    )
    def test_of_a_request_that_makes_no_sense(self, cli: Cli, project: Path, line: str, said: str) -> None:
        before = sorted(project.iterdir())
        done = cli(line)
        assert (done.status, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(project.iterdir()) == before

    def test_stdout_has_the_result_and_nothing_else(self, cli: Cli) -> None:
        done = cli("diff source.ckpt target.json -f json")
        assert json.loads(done.stdout)["schema"] == "ckptdoctor/report/1"
        assert done.stderr == ""
        done = cli("diff source.ckpt target.json")
        assert "next: " not in done.stdout
        assert done.stderr.startswith("next: say in a map")
        assert done.stdout.rstrip().endswith("2 tensors of the checkpoint (9 parameters) would not be used")

    def test_the_next_step_goes_on(self, cli: Cli, project: Path) -> None:
        next_line = cli("diff source.ckpt target.json -m map.yaml").stderr
        command = re.fullmatch(r"next: ckptdoctor (remap .*) -o OUT\n", next_line)
        assert command
        done = cli(f"{command[1]} -o out.ckpt")
        assert done.status == 0, done.stderr
        assert (project / "out.ckpt").exists()


class TestInspect:
    def test_says_what_is_in_a_checkpoint_and_where(self, cli: Cli) -> None:
        lines = cli("inspect source.ckpt").stdout.split("\n")
        assert lines[:2] == ["source.ckpt (torch)", "  the weights lie at state_dict"]
        assert [line.split() for line in lines if line.strip().startswith("a.")] == [
            ["a.w", "2x3", "float32", "unknown", "1", "6"],
            ["a.b", "3", "float32", "unknown", "1", "3"],
        ]
        assert lines[-2].startswith("3 tensors, 13 parameters, 52 B of weights in ")

    def test_writes_a_manifest_that_stands_in_for_the_file(self, cli: Cli, project: Path) -> None:
        done = cli("inspect source.ckpt --manifest m.json")
        assert (done.status, "manifest written to m.json" in done.stdout) == (0, True)
        assert cli("gate m.json source.safetensors").status == 0
        written = json.loads((project / "m.json").read_text())
        assert [(row["key"], row["shape"]) for row in written["tensors"]] == [(k, [*s]) for k, s in SOURCE.items()]

    def test_as_json(self, cli: Cli) -> None:
        data = json.loads(cli("inspect target.json -f json").stdout)
        assert [row["key"] for row in data["tensors"]] == [*TARGET]
        assert (data["schema"], data["source"]["parameters"]) == ("ckptdoctor/inspection/1", 15)


class TestDiff:
    def test_without_a_target_shows_what_the_map_makes(self, cli: Cli, project: Path) -> None:
        map_file(project / "alone.yaml", ("a.{p}", "z.{p}"))
        data = json.loads(cli("diff source.ckpt -m alone.yaml -f json").stdout)
        assert [row["target"] for row in data["keys"]] == ["c", "z.b", "z.w"]
        assert data["target"] is None

    def test_several_maps_in_their_order(self, cli: Cli, project: Path) -> None:
        map_file(project / "one.yaml", ("a.{p}", "x.{p}"))
        map_file(project / "two.yaml", ("x.{p}", "b.{p}"))
        data = json.loads(cli("diff source.ckpt target.json -m one.yaml -m two.yaml -f json").stdout)
        assert [each["path"] for each in data["maps"]] == ["one.yaml", "two.yaml"]
        assert data["summary"]["renamed"] == 2
        assert cli("diff source.ckpt target.json -m two.yaml -m one.yaml").status == 2

    def test_match_shows_only_these_keys(self, cli: Cli) -> None:
        shown = cli("diff source.ckpt target.json -m map.yaml --match b.{p} --match new").stdout
        assert "{b.b,b.w}" not in shown
        assert re.findall(r"^. (\w+) +(\S+)", shown, re.MULTILINE) == [
            ("renamed", "b.w"),
            ("renamed", "b.b"),
            ("fresh", "new"),
        ]

    def test_all_shows_every_key(self, cli: Cli, project: Path) -> None:
        keys = [f"blocks.{i}.w" for i in range(12)]
        manifest_file(project / "m.json", dict.fromkeys(keys, (2,)))
        assert "12 keys" in cli("diff m.json m.json").stdout
        assert re.findall(r"blocks\.\d+\.w", cli("diff m.json m.json --all").stdout) == keys

    def test_quiet_is_the_sentence_alone(self, cli: Cli) -> None:
        done = cli("diff source.ckpt same.json -q")
        assert done == Done(
            0, "nothing would stay random: all 13 parameters of the target come from the checkpoint\n", ""
        )

    def test_reports_beside_the_result(self, cli: Cli, project: Path) -> None:
        done = cli("diff source.ckpt target.json --report json=r.json --report markdown=r.md")
        assert done.stdout.startswith("source.ckpt (3 tensors) -> target.json (4 tensors)")
        assert json.loads((project / "r.json").read_text())["command"] == "diff"
        assert (project / "r.md").read_text().startswith("### source.ckpt")
        assert json.loads(cli("diff source.ckpt target.json --report json=-").stdout)["command"] == "diff"

    def test_colour_is_for_terminals_unless_it_is_asked_for(self, cli: Cli) -> None:
        assert "\x1b" not in cli("diff source.ckpt target.json").stdout
        coloured = cli("diff source.ckpt target.json --color always").stdout
        assert "\x1b[31m" in coloured
        assert "\x1b" not in cli("diff source.ckpt target.json --color never").stdout
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == cli("diff source.ckpt target.json").stdout

    def test_a_pattern_for_the_place_of_the_weights(self, cli: Cli) -> None:
        assert cli("diff source.ckpt same.json --select state_dict --exit-code").status == 0

    def test_strip_takes_prefixes_out(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "wrapped.json", {f"net.{key}": shape for key, shape in SOURCE.items()})
        assert cli("diff wrapped.json same.json --exit-code").status == 0, "found unasked"
        assert cli("diff wrapped.json same.json --exit-code --strip net").status == 0
        assert cli("diff wrapped.json same.json --exit-code", "--strip", "").status == 1


class TestGate:
    def test_says_what_failed_and_why(self, cli: Cli) -> None:
        done = cli("gate source.ckpt target.json")
        assert done.status == 1
        assert re.search(r"^random +11 +0 +parameters +FAILED$", done.stdout, re.MULTILINE)
        assert done.stdout.rstrip().split("\n")[-1].startswith("failed: 73.33% of the target (11 of 15 parameters)")
        report = json.loads(cli("gate source.ckpt target.json -f json").stdout)
        assert (report["passed"], report["exit_status"]) == (False, 1)
        assert report["checks"][0]["keys"] == ["b.b", "b.w", "new"]

    def test_an_empty_target_is_no_failure(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "none.json", {})
        assert cli("gate source.ckpt none.json").status == 0


class TestRemap:
    @pytest.mark.parametrize("name", ["source.ckpt", "source.safetensors"])
    def test_writes_a_checkpoint_and_its_receipt(self, cli: Cli, project: Path, name: str) -> None:
        before = (project / name).read_bytes()
        done = cli(f"remap {name} target.json -m map.yaml -o out.{name}")
        assert done.status == 0, done.stderr
        assert done.stdout.rstrip().endswith(
            "wrote 3 tensors (2 renamed, 1 loaded); 1 tensor of the target stay random"
        )
        receipt = json.loads((project / f"out.{name}.receipt.json").read_text())
        assert [row["target"] for row in receipt["tensors"]] == ["b.w", "b.b", "c"]
        assert receipt["random"] == ["new"]
        assert (project / name).read_bytes() == before
        assert cli(f"gate out.{name} target.json --max-random 2 --fail-on unexpected").status == 0

    def test_judges_first_and_writes_nothing(self, cli: Cli, project: Path) -> None:
        before = sorted(project.iterdir())
        done = cli("remap source.ckpt target.json -o out.ckpt")
        assert (done.status, "nothing was written" in done.stderr) == (1, True)
        assert cli("remap source.ckpt target.json -m map.yaml -o out.ckpt --dry-run").status == 0
        assert sorted(project.iterdir()) == before

    def test_replaces_what_exists_only_if_told(self, cli: Cli, project: Path) -> None:
        (project / "out.ckpt").write_text("precious")
        done = cli("remap source.ckpt -o out.ckpt")
        assert (done.status, (project / "out.ckpt").read_text()) == (2, "precious")
        assert "--overwrite" in done.stderr
        assert cli("remap source.ckpt -o out.ckpt --overwrite").status == 0
        assert cli("diff out.ckpt same.json --exit-code").status == 0


class TestMapCheckAndSchema:
    def test_a_map_by_itself(self, cli: Cli) -> None:
        done = cli("map check map.yaml")
        assert done == Done(
            0, "map.yaml\n\nmap.yaml is well formed: 1 rule, 1 fresh declaration, 0 drop declarations\n", ""
        )
        data = json.loads(cli("map check map.yaml -f json").stdout)
        assert (data["passed"], data["map"]["path"]) == (True, "map.yaml")

    def test_a_map_on_what_it_is_for(self, cli: Cli, project: Path) -> None:
        map_file(project / "none.yaml", ("zzz.{p}", "b.{p}"))
        assert cli("map check none.yaml").status == 0
        done = cli("map check none.yaml source.ckpt target.json")
        assert (done.status, "none.yaml:3:5: the rule names no key: zzz.{p}" in done.stderr) == (2, True)

    def test_the_hint_for_a_fan_comes_from_the_target_where_there_is_one(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "head.json", {"head.w": (2, 3)})
        manifest_file(project / "heads.json", {"head.0.w": (3, 3), "head.2.w": (2, 3)})
        map_file(project / "fan.yaml", ("head.{p}", "head.{0..2}.{p}"))
        hint = '"head.{p}" -> "head.2.{p}" is what fits in shape, with fresh: "head.0.{p}"'
        assert hint in cli("diff head.json heads.json -m fan.yaml").stderr
        assert hint in cli("map check fan.yaml head.json heads.json").stderr

    @pytest.mark.parametrize("name", ["map", "report"])
    def test_schemas_are_json(self, cli: Cli, name: str) -> None:
        assert json.loads(cli(f"schema {name}").stdout)["title"] == f"ckptdoctor {name}"

    def test_version(self, cli: Cli) -> None:
        assert cli("--version") == Done(0, f"ckptdoctor {__version__}\n", "")

    def test_every_command_is_in_the_help_and_has_its_own(self, cli: Cli) -> None:
        help_text = cli("--help").stdout
        for name in COMMANDS:
            assert re.search(rf"^  {name} +\w", help_text, re.MULTILINE)
            result = CliRunner().invoke(app, [name, "--help"])
            assert (result.exit_code, f"{name} [OPTIONS]" in result.stdout) == (0, True)


class TestTheProjectsDefaults:
    @pytest.fixture(autouse=True)
    def _defaults(self, project: Path) -> None:
        text = "target: target.json\nmaps: [map.yaml]\npolicy: {max-random: 2, fail-on: [unexpected]}\n"
        (project / "ckptdoctor.yaml").write_text(text)
        (project / "deep" / "er").mkdir(parents=True)

    def test_are_enough(self, cli: Cli) -> None:
        assert cli("gate source.ckpt").status == 0
        lines = cli("diff source.ckpt").stdout.split("\n")
        assert lines[0] == "source.ckpt (3 tensors) -> target.json (4 tensors)"
        assert "  map: map.yaml" in lines

    def test_are_found_from_below(self, project: Path) -> None:
        done = run("gate", "../../source.ckpt", cwd=project / "deep" / "er")
        assert done.status == 0, done.stderr

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("gate source.ckpt --max-random 1", 1),
            ("gate source.ckpt --no-map", 1),
            ("gate source.ckpt same.json --no-map", 0),
            ("diff source.ckpt --no-target --no-map --exit-code", 0),
            ("gate source.ckpt --no-target", 2),
        ],
    )
    def test_flags_replace_what_they_name(self, cli: Cli, line: str, status: int) -> None:
        assert cli(line).status == status

    def test_a_mistake_in_them_is_named(self, cli: Cli, project: Path) -> None:
        (project / "ckptdoctor.yaml").write_text("tagret: x\n")
        done = cli("diff source.ckpt")
        assert (done.status, "did you mean target?" in done.stderr) == (2, True)
        assert done.stderr.startswith("error: ckptdoctor.yaml:1:1: ")


class TestTerminalsAndPipes:
    def test_eighty_columns_fold_and_lose_nothing(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "long.json", {key: (i + 1, 768) for i, key in enumerate(LONG)})
        manifest_file(project / "none.json", {})
        shown = cli("diff none.json long.json", env={"COLUMNS": "80"}).stdout
        assert max(map(len, shown.split("\n"))) <= 80
        head = next(line for line in shown.split("\n") if line.startswith("STATUS"))
        column = slice(head.index("KEY"), head.index("CHECKPOINT"))
        rows = shown[shown.index(head) + len(head) + 1 :].split("\n\n")[0]
        assert "".join(line[column].strip() for line in rows.split("\n")) == "".join(LONG)

    def test_in_a_pipe_every_key_has_its_line(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "long.json", dict.fromkeys(LONG, (2,)))
        lines = cli("diff long.json long.json --all").stdout.split("\n")
        assert [line.split()[1] for line in lines if "model." in line] == LONG

    @pytest.mark.parametrize(("line", "status"), [("diff m.json none.json", 0), ("gate none.json m.json", 1)])
    @pytest.mark.parametrize("lines", [0, 1])
    def test_a_reader_that_goes_away_changes_nothing(self, project: Path, line: str, status: int, lines: int) -> None:
        manifest_file(project / "m.json", {f"a.rather.long.key.of.a.tensor.{i}": (2,) for i in range(800)})
        manifest_file(project / "none.json", {})
        words = [*COMMAND, *line.split(), "-f", "json"]
        with subprocess.Popen(words, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert [process.stdout.readline() for _ in range(lines)] == [b"{\n"] * lines  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]
            assert process.stderr.read() == b""  # type: ignore[union-attr]
            assert process.wait(30) == status

    @pytest.mark.parametrize("args", ["--help", "diff --help", "--version"])
    def test_a_help_page_that_cannot_be_written_is_no_finding(self, project: Path, args: str) -> None:
        with Path("/dev/full").open("w") as full:
            words = [*COMMAND, *args.split()]
            done = subprocess.run(words, cwd=project, stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr

    def test_a_full_disk_behind_stdout_is_said(self, project: Path) -> None:
        with Path("/dev/full").open("w") as full:
            words = [*COMMAND, "diff", "source.ckpt", "same.json"]
            done = subprocess.run(words, cwd=project, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
        assert done.returncode == 2
        assert "No space left on device" in done.stderr
        assert "defect" not in done.stderr

    def test_verbose_says_more_on_stderr_and_nothing_else_on_stdout(self, cli: Cli) -> None:
        plain, verbose = cli("diff source.ckpt same.json"), cli("diff source.ckpt same.json -v")
        assert verbose.stdout == plain.stdout
        assert "fingerprint" in verbose.stderr
        assert "fingerprint" not in plain.stderr

    def test_a_match_that_names_nothing_is_said(self, cli: Cli) -> None:
        done = cli("diff source.ckpt same.json --match nothing.{p}")
        assert (done.status, "--match nothing.{p} names no key" in done.stderr) == (0, True)

    def test_a_closed_stdout_is_no_finding(self, cli: Cli) -> None:
        done = cli("diff source.ckpt same.json", preexec_fn=lambda: os.close(1))
        assert done.status in (0, 2)
        assert "Traceback" not in done.stderr

    def test_a_closed_stderr_does_not_send_its_lines_to_stdout(self, cli: Cli) -> None:
        done = cli("diff source.ckpt target.json", preexec_fn=lambda: os.close(2))
        assert done == Done(0, cli("diff source.ckpt target.json").stdout, "")

    @pytest.mark.parametrize(
        "locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
    )
    def test_a_locale_without_letters(self, cli: Cli, project: Path, locale: dict[str, str]) -> None:
        manifest_file(project / "m.json", {"größe.层": (2,)})
        done = cli("diff m.json m.json --all", env=locale)
        assert (done.status, done.stderr) == (0, "")
        assert "größe.层" in done.stdout or "gr\\xf6\\xdfe.\\u5c42" in done.stdout
        rows = json.loads(cli("diff m.json m.json -f json", env=locale).stdout)["keys"]
        assert rows[0]["target"] == "größe.层"

    def test_names_that_would_move_the_cursor_do_not(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "m.json", {"a\x1b[2J\n.w": (2,)})
        for line in (
            "diff m.json same.json",
            "diff same.json m.json -f markdown",
            "inspect m.json",
            "gate m.json m.json",
        ):
            done = cli(line)
            assert all(part.isprintable() for part in (done.stdout + done.stderr).split("\n"))
        done = cli("inspect", "gone\x1b[2J\n.ckpt")
        assert (done.status, done.stderr.startswith("error: there is no file gone\\x1b[2J\\n.ckpt")) == (2, True)
        assert all(part.isprintable() for part in done.stderr.split("\n"))
        map_file(project / "m.yaml", ("a.w", "b\u202e.w"))
        done = cli("diff source.ckpt m.json -m m.yaml")
        assert (done.status, "\\u202e" in done.stderr) == (2, True)
        assert all(part.isprintable() for part in done.stderr.split("\n"))


class TestErrorsForMachines:
    @pytest.mark.parametrize(
        ("line", "code", "where"),
        [
            ("diff gone.ckpt same.json", "checkpoint-not-found", None),
            (
                "diff source.ckpt same.json -m bad.yaml",
                "key-map-error",
                {"file": "bad.yaml", "line": 2, "column": 1},
            ),
            ("diff source.ckpt target.json -m none.yaml", "unused-rule", {"file": "none.yaml", "line": 3, "column": 5}),
            ("gate source.ckpt", "usage-error", None),
            ("remap source.ckpt -o source.ckpt", "output-error", None),
        ],
    )
    def test_are_one_object_on_stderr(
        self, cli: Cli, project: Path, line: str, code: str, where: dict[str, object] | None
    ) -> None:
        (project / "bad.yaml").write_text("ckptdoctor: 1\nruls: []\n")
        map_file(project / "none.yaml", ("zzz", "b"))
        done = cli(f"{line} -f json")
        assert (done.status, done.stdout) == (2, "")
        error = json.loads(done.stderr)["error"]
        assert {"code", "message", "path", "where", "hint"} <= set(error)
        assert (error["code"], error["where"]) == (code, where)
        assert error["message"]


def interrupted(project: Path, program: str, line: str, mark: str, number: signal.Signals) -> tuple[Done, float]:
    """A run of `program`, sent a signal once it has made the file `mark`; and how long it took to end."""
    words = [sys.executable, "-c", f"{program}\nfrom ckptdoctor.cli import main; main()", *line.split()]
    process = subprocess.Popen(
        words,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell that runs us with & ignores it
    )
    with process:
        deadline = time.monotonic() + 30
        while not (project / mark).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        during = sorted(path.name for path in project.iterdir())
        process.send_signal(number)
        sent = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)
    (project / mark).unlink()
    assert any("ckptdoctor-tmp" in name for name in during) == ("OutputFile" in program), during
    return Done(process.returncode, stdout, stderr), time.monotonic() - sent


WRITING = """
import pathlib, time
from ckptdoctor.files import OutputFile
write = OutputFile.write
def slow(self, data):
    write(self, data)
    pathlib.Path("mark").touch()
    time.sleep(20)
OutputFile.write = slow
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
class TestSignals:
    def test_while_the_users_code_runs(self, project: Path, number: signal.Signals, status: int) -> None:
        (project / "net.py").write_text("import pathlib, time\npathlib.Path('mark').touch()\ntime.sleep(20)\n")
        done, seconds = interrupted(project, "", "diff source.ckpt net.py:Net", "mark", number)
        assert (done.status, done.stdout) == (status, "")
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == (1 if number == signal.SIGINT else 0)
        assert seconds < 10

    def test_while_a_file_is_written(self, project: Path, number: signal.Signals, status: int) -> None:
        before = {path.name: path.read_bytes() for path in project.iterdir()}
        line = "remap source.ckpt target.json -m map.yaml -o out.ckpt"
        done, _ = interrupted(project, WRITING, line, "mark", number)
        assert (done.status, done.stdout) == (status, "")
        assert "Traceback" not in done.stderr
        assert {path.name: path.read_bytes() for path in project.iterdir()} == before

    def test_while_an_older_file_is_replaced(self, project: Path, number: signal.Signals, status: int) -> None:
        (project / "out.ckpt").write_text("the older one")
        line = "remap source.ckpt target.json -m map.yaml -o out.ckpt --overwrite"
        done, _ = interrupted(project, WRITING, line, "mark", number)
        assert done.status == status
        assert (project / "out.ckpt").read_text() == "the older one"


class TestDefectsOfOurs:
    @pytest.mark.parametrize(
        "error",
        [
            *[
                ZeroDivisionError("x"),
                AssertionError(),
                KeyError("k"),
                RecursionError(),
                MemoryError(),
                OSError(28, "x"),
            ],
            *[UnicodeError("u"), BrokenPipeError(), StopIteration(), NotImplementedError("\x1b[2J\nsecond line")],
        ],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize(
        "command", ["inspect source.ckpt", "diff source.ckpt same.json", "gate source.ckpt same.json"]
    )
    def test_never_look_like_a_finding(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, command: str
    ) -> None:
        def broken(_: Manifest) -> int:
            raise error

        monkeypatch.chdir(project)
        monkeypatch.setattr(Manifest, "parameters", property(broken))
        result = CliRunner().invoke(app, command.split())
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Traceback" not in result.stderr
        assert all(line.isprintable() for line in result.stderr.split("\n"))
        if not isinstance(error, BrokenPipeError | MemoryError):
            assert type(error).__name__ in result.stderr
            assert "report it with this line" in result.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_on_a_terminal_there_is_colour_and_its_width_counts(project: Path) -> None:
    main, side = os.openpty()
    words = [*COMMAND, "diff", "source.ckpt", "target.json"]
    with subprocess.Popen(
        words, cwd=project, env=environment(TERM="xterm", COLUMNS="100"), stdout=side, stderr=subprocess.PIPE
    ) as process:
        os.close(side)
        shown = b""
        while select.select([main], [], [], 20)[0]:
            try:
                part = os.read(main, 65536)
            except OSError:  # what Linux says once the other side is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(20) == 0
    os.close(main)
    assert b"\x1b[31m" in shown
    assert max(len(line) for line in re.sub(rb"\x1b\[[0-9;]*m", b"", shown).splitlines()) <= 100
