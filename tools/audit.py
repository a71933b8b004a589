"""Hold the packages of lock files against known advisories, with pip-audit. Runs a process; needs the network.

    python tools/audit.py                                  # every lock file in requirements/, against PyPI's advisories
    python tools/audit.py -s osv --ignore-vuln ID          # what follows is given to pip-audit
    python tools/audit.py --lock requirements/gateway.lock

Exit status 0: the advisories of every package were read, and there are none. 1: there are some. 3: nobody could say
for at least one package; pip-audit alone calls that a success, as where an index has packages and no advisories.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ADVISORIES, UNKNOWN = 1, 3


def verdict(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """The exit status that a report of pip-audit means, and what there is to say."""
    packages = report["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {advisory['id']} ({', '.join(advisory['aliases'])}), "
        f"fixed in {', '.join(advisory['fix_versions']) or 'no version'}"
        for package in packages
        for advisory in package.get("vulns", [])
    ]
    found = len(lines)
    lines.append(f"{len(packages) - len(skipped)} packages audited, {found} advisories")
    if skipped:
        lines.append(f"NOT AUDITED: {len(skipped)} packages, first of them: {skipped[0]['skip_reason']}")
    if not packages:
        lines.append("NOT AUDITED: there are no packages")
    return ADVISORIES if found else UNKNOWN if skipped or not packages else 0, lines


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lock", type=Path, action="append", metavar="FILE", help="a lock file (default: all)")
    options, others = parser.parse_known_args(argv)
    locks = options.lock or sorted((REPOSITORY / "requirements").glob("*.lock"))
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", *others, *(word for lock in locks for word in ("-r", str(lock)))]
    audit = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        status, lines = verdict(json.loads(audit.stdout))
    except ValueError:
        reason = (audit.stderr.strip().splitlines() or [f"pip-audit ended with {audit.returncode}"])[-1]
        status, lines = UNKNOWN, [f"NOT AUDITED: {reason}"]
    print("\n".join(lines), file=sys.stderr if status == UNKNOWN else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
