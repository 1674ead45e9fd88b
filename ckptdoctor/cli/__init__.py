"""The command line: one file a command, all of them thin users of the public API.

app.py assembles the commands, options.py holds the options they share, inputs.py makes a plan of them, output.py prints,
guard.py turns exceptions into messages and exit statuses. To add a command: one file, one line in app.py.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line; ends in SystemExit."""
    gc.set_threshold(1_000_000)  # a short run makes many objects and no garbage: collecting costs a tenth of its time
    from ckptdoctor.cli.app import run

    run()
