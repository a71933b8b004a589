"""`lookalike certs dev`: a private CA, and certificates for every process and caller. I/O: files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lookalike.local import certificates

EXAMPLES = """\
examples:
  lookalike certs dev certs
  lookalike certs dev certs --name gateway.shop.example --name 10.0.0.7
  lookalike certs dev certs --renew               (processes take the new files by themselves)

For production take certificates of your own CA (cert-manager, Vault): the files have the same names. ca.key can sign
certificates that every process trusts: keep it away from the machines that serve.
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike certs dev",
        description="Write a private CA, and a certificate signed by it for each role.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write them")
    parser.add_argument("--name", action="append", default=[], help="another name or address of servers; repeatable")
    parser.add_argument(
        "--role",
        action="append",
        choices=[*certificates.SERVERS, *certificates.CALLERS],
        help="only this one; repeatable",
    )
    parser.add_argument("--days", type=int, default=90, help="for which they are valid (default: %(default)s)")
    parser.add_argument("--renew", action="store_true", help="replace certificates that are there, by the same CA")
    options = parser.parse_args(argv)
    if options.days < 1:
        parser.error(f"--days {options.days}: not at least 1")
    roles = options.role or [*certificates.SERVERS, *certificates.CALLERS]
    folders = certificates.write_all(
        options.directory, roles, options.name, datetime.now(UTC), options.days, renew=options.renew
    )
    print("\n".join(_advice(options.directory, folders, options.days)))
    return 0


def _advice(directory: Path, folders: Sequence[Path], days: int) -> list[str]:
    certs = directory.resolve()
    gateway, client = certs / "gateway", certs / "client"
    roles = ", ".join(each.name for each in folders)
    return [
        f"Wrote {directory}/ca.crt and {len(folders)} certificates, valid for {days} days: {roles}",
        "",
        "A gateway that only callers with a certificate of this CA may call, and that calls others by TLS:",
        f"  lookalike serve gateway --tls-cert {gateway}/tls.crt --tls-key {gateway}/tls.key \\",
        f"      --tls-client-ca {gateway}/ca.crt --tls-ca {gateway}/ca.crt ...",
        "A call to it:",
        f"  lookalike search --tls-ca {client}/ca.crt --tls-cert {client}/tls.crt --tls-key {client}/tls.key ...",
        "Secrets for deploy/k8s:",
        f"  for role in {roles.replace(',', '')}; do",
        f"    kubectl -n lookalike create secret generic $role-tls --from-file={certs}/$role",
        "  done",
        "More: docs/tls.md",
    ]
