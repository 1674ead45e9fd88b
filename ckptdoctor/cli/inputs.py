"""From options and the project's defaults to manifests, maps, a plan and a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor.cli.options import MapOptions, PolicyOptions, SourceOptions, TargetOptions
from ckptdoctor.config import Config, find_config
from ckptdoctor.errors import NoStateDict, UsageError
from ckptdoctor.model import Manifest
from ckptdoctor.plan import Plan, make_plan
from ckptdoctor.receipt import check_not_again
from ckptdoctor.source import read_manifest
from ckptdoctor.wrappers import Aligned, align, stripped

if TYPE_CHECKING:
    from ckptdoctor.execution.outputs import Fill
    from ckptdoctor.keymap import KeyMap
    from ckptdoctor.policy import Policy


class Request(NamedTuple):
    """What a comparing command was asked for."""

    source: str
    target: str | None
    source_options: SourceOptions
    target_options: TargetOptions
    map_options: MapOptions

    def plan(self, config: Config, *, again: bool = True) -> Plan:
        """Read, resolve, align, plan. Unless `again`, a source that these maps have made is refused, before all else."""
        maps = key_maps(self.map_options, config)
        if not again:
            check_not_again(self.source, {key_map.sha256: key_map.path for key_map in maps})
        selected = self.source_options.select or _selected_by(maps) or config.select
        source = read_manifest(self.source, selected=selected)
        target = target_manifest(self.target, self.target_options, config)
        aligned = align(source, target, _strip(self.source_options, maps, config))
        return make_plan(aligned.source, aligned.target, maps)

    def plan_back(self, config: Config, *, again: bool = True) -> Plan:
        """The inverse of the plan from TARGET, which has to be named, to SOURCE, which is what the maps make.

        Raises PlanError, with every rule that loses something, where not all that they use comes back.
        """
        if self.target is None:
            hint = "as in: ckptdoctor remap NEW.ckpt pkg.mod:OldModel -m MAP --reverse -o OLD.ckpt"
            raise UsageError("--reverse needs TARGET, the old model: that the map begins with", hint=hint)
        from ckptdoctor.plan.inverse import invert

        maps = key_maps(self.map_options, config)
        if not again:
            check_not_again(self.source, {key_map.sha256: key_map.path for key_map in maps}, reverse=True)
        new, old = self._read_new(maps, config), target_manifest(self.target, self.target_options, config)
        aligned = _aligned_back(new, old, self.source_options, maps, config)
        assert aligned.target is not None
        inversion = invert(make_plan(aligned.target, aligned.source, [_of_what_was_made(each) for each in maps]))
        inversion.check()
        return inversion.plan

    def _read_new(self, maps: Iterable[KeyMap], config: Config) -> Manifest:
        """What the maps made: with the weights where they were in the old file, if there is such a place in the new one."""
        if self.source_options.select is None and (selected := _selected_by(maps)) is not None:
            with suppress(NoStateDict):
                return read_manifest(self.source, selected=selected)
        return read_manifest(self.source, selected=self.source_options.select or config.select)


def _of_what_was_made(key_map: KeyMap) -> KeyMap:
    """The map for a file that it made itself, in which fresh tensors, and what is tied to others, need not be."""
    reason = "the file may be without it"
    fresh, tie = (
        tuple(replace(each, optional=each.optional or reason) for each in entries)
        for entries in (key_map.fresh, key_map.tie)
    )
    return replace(key_map, fresh=fresh, tie=tie)


def _aligned_back(
    new: Manifest, old: Manifest | None, options: SourceOptions, maps: Iterable[KeyMap], config: Config
) -> Aligned:
    """What maps take out of the keys of the old file is taken out of both: remap puts it back into the new one."""
    segments = _strip(options, maps, config)
    if segments and options.strip is None and old is not None:
        old = stripped(old, segments)
    return align(new, old, segments)


def project_config() -> Config:
    """The defaults that hold in the working directory."""
    return find_config(Path.cwd())


def key_maps(options: MapOptions, config: Config) -> list[KeyMap]:
    """The maps that are named, else the project's."""
    if options.no_map and options.maps:
        raise UsageError("--map and --no-map contradict each other")
    paths: Sequence[Path] = options.maps or (() if options.no_map else config.maps)
    if not paths:
        return []
    from ckptdoctor.keymap import load_map

    return [load_map(path) for path in paths]


class ChosenTarget(NamedTuple):
    """A target with everything that building it needs."""

    reference: str | None
    config: Path | None
    arguments: Mapping[str, Any]
    search_path: Path


def chosen_target(reference: str | None, options: TargetOptions, config: Config) -> ChosenTarget | None:
    """The target that is named, else the project's, else none. A named one takes nothing from the project's."""
    from ckptdoctor.targets import parse_target_args

    arguments = parse_target_args(options.target_arg or [])
    if options.no_target:
        if reference is not None:
            raise UsageError("a target and --no-target contradict each other")
        return None
    if reference is not None:
        return ChosenTarget(reference, options.target_config, arguments, config.folder)
    if config.target is None and options.target_config is None:
        if arguments:
            raise UsageError("--target-arg without a target", hint="name the target: pkg.mod:Name")
        return None
    settings = options.target_config or config.target_config
    return ChosenTarget(config.target, settings, {**config.target_args, **arguments}, config.folder)


def target_manifest(reference: str | None, options: TargetOptions, config: Config) -> Manifest | None:
    """The manifest of the target that is chosen, if there is one."""
    chosen = chosen_target(reference, options, config)
    if chosen is None:
        return None
    from ckptdoctor.targets import resolve_target

    return resolve_target(
        chosen.reference, config=chosen.config, arguments=chosen.arguments, search_path=chosen.search_path
    )


def source_model(reference: str | None, config: Config) -> Manifest | None:
    """The manifest of the model that a checkpoint was saved from, if it is named."""
    if reference is None:
        return None
    from ckptdoctor.targets import resolve_target

    return resolve_target(reference, search_path=config.folder)


def initial_fill(request: Request, config: Config, seed: int) -> Fill:
    """Values for what stays random: the target's own initialisation, with a seed."""
    from ckptdoctor.execution.outputs import Fill
    from ckptdoctor.targets import initial_values

    chosen = chosen_target(request.target, request.target_options, config)
    if chosen is None or chosen.reference is None:
        raise UsageError("there is no target to take initial values from", hint="name a model: pkg.mod:Name")
    values = initial_values(
        chosen.reference,
        config=chosen.config,
        arguments=chosen.arguments,
        search_path=chosen.search_path,
        seed=seed,
    )
    return Fill(values, f"init(seed={seed})", seed)


def policy_of(options: PolicyOptions, config: Config, *, always: Iterable[str] = ()) -> Policy:
    """The policy that is asked for: each flag replaces the default that it names. `always` are checks that are made anyway."""
    from ckptdoctor.policy import make_policy

    named = ",".join(options.fail_on).split(",") if options.fail_on else config.fail_on
    return make_policy(
        max_random=options.max_random if options.max_random is not None else config.max_random,
        max_unexpected=options.max_unexpected if options.max_unexpected is not None else config.max_unexpected,
        allow_random=options.allow_random or config.allow_random,
        allow_unexpected=options.allow_unexpected or config.allow_unexpected,
        fail_on=[*named, *always],
    )


def need_target(plan: Plan) -> None:
    """Raise UsageError for a judgement without anything to judge against."""
    if not plan.has_target:
        raise UsageError(
            "there is no target to judge against",
            hint="name one (pkg.mod:Name, a checkpoint, a manifest), or set target in ckptdoctor.yaml",
        )


def _strip(options: SourceOptions, maps: Iterable[KeyMap], config: Config) -> list[str] | None:
    """Wrapper segments by flag, by the first map that says so, or by the project; None: to be found."""
    if options.strip is not None:
        return [part for part in options.strip.replace(".", ",").split(",") if part]
    for key_map in maps:
        if key_map.strip is not None:
            return list(key_map.strip)
    return None if config.strip is None else list(config.strip)


def _selected_by(maps: Iterable[KeyMap]) -> str | None:
    return next(("/".join(key_map.select) for key_map in maps if key_map.select), None)
