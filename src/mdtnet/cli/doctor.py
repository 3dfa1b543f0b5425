"""The verb that examines the machine."""

import json
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb
from mdtnet.system.terminal import say, working

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.doctor import Finding

STYLES = {"ok": "green", "missing": None, "warning": "yellow", "failed": "bold red"}


def doctor_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def doctor(options: "Namespace") -> int:
    from mdtnet.doctor import examine, plain

    found: list[Finding] = []
    with working() as status:
        for finding in examine():
            found.append(finding)
            status.update(f"examining: {finding.topic}")
            if not options.json:
                _say(finding, first=len(found) == 1 or found[-2].topic != finding.topic)
    failed = sum(finding.state == "failed" for finding in found)
    if options.json:
        say(json.dumps(plain(found), indent=1, ensure_ascii=False))
    else:
        others = sum(finding.state in ("missing", "warning") for finding in found)
        say(f"\n{failed or 'nothing'} failed; {others} to know of" if others else f"\n{failed or 'nothing'} failed")
    return 2 if failed else 0


def _say(finding: "Finding", *, first: bool) -> None:
    if first:
        say(f"\n{finding.topic}", style="bold")
    say(f"  {finding.state:8}{finding.name:18} {finding.detail}", style=STYLES[finding.state])


VERBS = {
    "doctor": Verb(
        "examine this machine: versions, devices, decoders, extras, a self-test",
        doctor_arguments,
        doctor,
        "  mdtnet doctor\n  mdtnet doctor --json",
    ),
}
