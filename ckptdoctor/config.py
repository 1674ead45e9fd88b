"""A project's defaults, so that `ckptdoctor diff baseline.ckpt` is enough: read by the command line, replaced by its flags.

They stand in `ckptdoctor.yaml` or in `[tool.ckptdoctor]` of `pyproject.toml`, in the nearest folder upwards that has either.
A new field is one line in a table below and one in `Config`; checks are plain, since this runs at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ckptdoctor.errors import ConfigError
from ckptdoctor.text import did_you_mean, printable

if TYPE_CHECKING:
    import yaml

Place = tuple[str, ...]


class Config(NamedTuple):
    """Defaults; what the project does not set is None or empty.

    `path` is the file they come from, if there is one; `folder` is its folder, or where the search began. Paths in here, that
    of a file as target too, can be opened from the working directory. `strip` is None where the prefixes are to be found.
    """

    folder: Path
    path: Path | None = None
    target: str | None = None
    target_config: Path | None = None
    target_args: Mapping[str, Any] = {}
    maps: tuple[Path, ...] = ()
    select: str | None = None
    strip: tuple[str, ...] | None = None
    max_random: str | None = None
    allow_random: tuple[str, ...] = ()
    max_unexpected: str | None = None
    allow_unexpected: tuple[str, ...] = ()
    fail_on: tuple[str, ...] = ()


def find_config(start: Path) -> Config:
    """The defaults that hold in the folder `start`. Raises ConfigError for a file that is there and cannot be used."""
    start = start.absolute()
    for folder in (start, *start.parents):
        for name, read in (("ckptdoctor.yaml", _read_yaml), ("pyproject.toml", _read_toml)):
            raw = _raw(folder / name)
            found = None if raw is None else read(_Source(folder / name, {}), raw)
            if found is not None:
                return found
    return Config(start)


class _Source(NamedTuple):
    """One file: where in it a field stands (as `:line:column`), and errors that say so."""

    path: Path
    marks: dict[Place, str]

    @property
    def folder(self) -> Path:
        return self.path.parent

    def fail(self, message: str, place: Place = (), *, hint: str | None = None) -> NoReturn:
        where = f"{located(self.folder, self.path.name)}{self.marks.get(place, '')}"
        raise ConfigError(f"{where}: {message}", path=self.path, hint=hint)


def located(folder: Path, path: str) -> Path:
    """A path that was written in a file of `folder`, as it has to be opened from the working directory."""
    expanded = Path(path).expanduser()
    return expanded if folder == Path.cwd() else folder / expanded


def _raw(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        _Source(path, {}).fail(f"cannot be read: {error.strerror}")


def _read_toml(source: _Source, raw: bytes) -> Config | None:
    if b"ckptdoctor" not in raw:  # most files: not worth a parser, and whether they are sound is not our business
        return None
    import tomllib

    try:
        table = tomllib.loads(raw.decode()).get("tool", {}).get("ckptdoctor")
    except (ValueError, AttributeError) as error:
        source.fail(f"is no TOML that can be used: {printable(str(error))}")
    return None if table is None else _config(source, table)


def _read_yaml(source: _Source, raw: bytes) -> Config:
    import yaml

    from ckptdoctor.targets.building.settings import yaml_loader

    try:
        loader = yaml_loader()(raw)
        node = loader.get_single_node()
        _marks(source, node)
        return _config(source, {} if node is None else loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            source.marks[()] = _mark(error.problem_mark)
        source.fail(f"is no YAML: {error.problem}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        source.fail(f"is no YAML: {printable(str(error))}")


def _marks(source: _Source, node: yaml.Node | None, above: Place = ()) -> None:
    """Note line and column of each field, those of `policy` too; equal names are an error."""
    import yaml

    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        place = (*above, str(key.value))
        twice = place in source.marks
        source.marks[place] = _mark(key.start_mark)
        if twice:
            source.fail(f"{_path_of(place)} is given twice", place)
        if not above:
            _marks(source, value, place)


def _mark(mark: yaml.Mark) -> str:
    return f":{mark.line + 1}:{mark.column + 1}"


def _path_of(place: Place) -> str:
    return printable("/".join(place)) or "the whole"


def _config(source: _Source, table: object) -> Config:
    policy = table.pop("policy", None) if isinstance(table, dict) else None
    values = _fields(source, table, _FIELDS) | _fields(source, {} if policy is None else policy, _POLICY, ("policy",))
    return Config(source.folder, source.path, **values)


def _fields(source: _Source, table: object, known: Mapping[str, _Check], above: Place = ()) -> dict[str, Any]:
    """The fields of a table by their Python names, each checked; those that are empty (`maps:`) are left out."""
    fields: dict[str, Any] = {}
    for written, value in _Value(source, above, table).mapping().items():
        place = (*above, written)
        name, attribute = written.replace("_", "-"), written.replace("-", "_")
        if name not in known:
            source.fail(f"there is no field {_path_of(place)}", place, hint=_hint(name, known))
        if attribute in fields:
            source.fail(f"{name} is given twice, with - and with _", place)
        if value is not None:
            fields[attribute] = known[name](_Value(source, place, value))
    return fields


def _hint(name: str, known: Mapping[str, object]) -> str:
    if name in _POLICY:
        return f"{name} belongs under policy"
    return did_you_mean(name, known) or f"the fields are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class _Value:
    """What a field holds, and the checks that turn it into what `Config` wants."""

    source: _Source
    place: Place
    value: Any

    def wrong(self, wanted: str) -> NoReturn:
        names = {dict: "a mapping", list: "a list", str: "text", type(None): "empty"}
        found = names.get(type(self.value)) or str(self.value)
        self.source.fail(f"{_path_of(self.place)} has to be {wanted}, it is {printable(found)}", self.place)

    def text(self) -> str:
        return self.value if isinstance(self.value, str) and self.value else self.wrong("a text")

    def texts(self) -> tuple[str, ...]:
        texts = [self.value] if isinstance(self.value, str) else self.value
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            self.wrong("a list of texts")
        return tuple(texts)

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict) or not all(isinstance(key, str) for key in self.value):
            self.wrong("a mapping of names")
        return self.value

    def limit(self) -> str:
        """A number of parameters or a percentage; what it means is the policy's to say."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | str):
            self.wrong("a whole number or a percentage such as 1%")
        return str(self.value)

    def path(self) -> Path:
        return located(self.source.folder, self.text())

    def paths(self) -> tuple[Path, ...]:
        return tuple(located(self.source.folder, each) for each in self.texts())

    def target(self) -> str:
        """`pkg.mod:Name` stays as it is; a path, also that before `:Name`, is located."""
        path, colon, name = self.text().rpartition(":")
        if not colon:
            return str(self.path())
        return f"{located(self.source.folder, path)}:{name}" if path.endswith(".py") else self.text()


_Check = Callable[[_Value], Any]
_FIELDS: Mapping[str, _Check] = {
    "target": _Value.target,
    "target-config": _Value.path,
    "target-args": _Value.mapping,
    "maps": _Value.paths,
    "select": _Value.text,
    "strip": _Value.texts,
    "policy": _Value.mapping,
}
_POLICY: Mapping[str, _Check] = {
    "max-random": _Value.limit,
    "allow-random": _Value.texts,
    "max-unexpected": _Value.limit,
    "allow-unexpected": _Value.texts,
    "fail-on": _Value.texts,
}
