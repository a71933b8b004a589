"""The command `lookalike encoders list`: list every version of the image model. Reads files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from encoders.image.models import ModelListing, list_versions
from encoders.image.signature import MODEL

EPILOG = """examples:
  lookalike encoders list models
  lookalike encoders list models --json | jq -r '.[].encoder'

A version that a server would refuse is listed with its error. Read-only; TensorFlow is not loaded."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders list",
        description="List every version of the image model in MODELS_DIR.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models", metavar="MODELS_DIR", type=Path, help="the folder that 'lookalike encoders export' wrote to"
    )
    parser.add_argument("--model", default=MODEL, metavar="NAME", help="name of the model (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    options = parser.parse_args(argv)
    listings = list_versions(options.models, options.model)
    if options.json:
        print(json.dumps([{**asdict(listing), "path": str(listing.path)} for listing in listings], indent=1))
    else:
        _show(Console(), options.models, listings)
    return 0


def _show(console: Console, models: Path, listings: Sequence[ModelListing]) -> None:
    if not listings:
        console.print(f"no model in {models}; 'lookalike encoders export {models}' writes one")
        return
    # Never truncate the fingerprint: other commands take it as an argument.
    table = Table("version", Column("encoder", overflow="fold"), "px", "dim", "precision", "weights", "MB")
    for listing in listings:
        size = f"{listing.size_bytes / 1e6:.1f}"
        sizes = (str(listing.input_px or ""), str(listing.dimension or ""))
        table.add_row(
            str(listing.version), listing.encoder or listing.error, *sizes, listing.precision, listing.weights, size
        )
    console.print(table)
