"""Results to stdout, reports to files, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys

from ckptdoctor.cli.guard import close_stdout, say
from ckptdoctor.cli.options import OutputOptions
from ckptdoctor.errors import OutputError, UsageError
from ckptdoctor.files import rewrite_text
from ckptdoctor.reports import RENDERERS, page_of, render
from ckptdoctor.text import did_you_mean, printable


def check_options(options: OutputOptions) -> None:
    """Refuse what cannot be shown before any work is done; raises UsageError."""
    for kind in (options.format, *(kind for kind, _ in _reports(options))):
        if kind not in RENDERERS:
            hint = did_you_mean(kind, RENDERERS) or f"choose from {', '.join(RENDERERS)}"
            raise UsageError(f"there is no report of the kind {kind!r}", hint=hint)
    if options.color not in ("auto", "always", "never"):
        raise UsageError(f"--color {options.color}: choose from auto, always, never")


def publish(result: object, options: OutputOptions, *, next_step: str | None = None) -> None:
    """Show a result as the options say, and write the reports they ask for."""
    page = page_of(result)
    reports = _reports(options)
    for kind, path in reports:
        if path != "-":
            rewrite_text(path, render(page, kind))
    to_stdout = [kind for kind, path in reports if path == "-"] or [options.format]
    for kind in to_stdout:
        if options.quiet and kind != "json":
            write_stdout(printable(page.sentence) + "\n")
        else:
            write_stdout(render(page, kind, width=_width(), color=_color(options.color)))
    if not options.quiet and to_stdout != ["markdown"]:
        for warning in page.warnings:
            say(f"warning: {printable(warning)}")
    if options.verbose:
        for detail in page.details():
            say(printable(detail))
    step = next_step or page.next_step
    if step and not options.quiet and to_stdout == ["table"]:
        say(f"next: {printable(step)}")


def write_stdout(text: str) -> None:
    """Write to stdout; a reader that has gone away (`| head`) is no error and does not change the exit status."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()
    except OSError as error:
        close_stdout()
        raise OutputError(f"cannot write to stdout: {error.strerror}", path="-") from None


def _reports(options: OutputOptions) -> list[tuple[str, str]]:
    pairs = []
    for text in options.report or []:
        kind, equals, path = text.partition("=")
        if not (kind and equals and path):
            raise UsageError(f"--report {text}: write KIND=PATH", hint="as in --report json=report.json")
        pairs.append((kind, path))
    return pairs


def _width() -> int | None:
    """The terminal's width; no limit where the output is a file or a pipe, so that every key stays on one line."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(shutil.get_terminal_size().columns, 40)
    return None


def _color(when: str) -> bool:
    if when == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return when == "always"
