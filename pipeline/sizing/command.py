"""`lookalike sizing`: print how many machines a catalogue needs, and what that is computed from. Reads nothing."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from lookalike.cli.flags import command_parser
from lookalike.errors import BadSettings
from pipeline.sizing import constants
from pipeline.sizing.constants import RECIPES, Constant
from pipeline.sizing.plan import Demand, Plan, make_plan

EPILOG = """examples:
  lookalike sizing --products 100M --qps 500 --events 1000
  lookalike sizing --products 10M 100M 1B --spaces image=1024,text=512,product=256 --recipe PCAR256,SymQG32
  lookalike sizing --products 1B --gpu-photos-per-s 2000 --json

Constants were measured on small machines with at most 1,000,000 vectors in a shard: warnings say what is extrapolated.
Exit status 2: an argument is wrong, or no number of shards fits the machines."""

DIMS = {"image": 1024, "text": 512, "product": 256}  # Of the encoders as they are by default.
SUMS = {"shard_ram": "GB", "shard_disk": "GB", "search_cores": "cores", "update_h": "h"}
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmb]?)", re.IGNORECASE)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    options = vars(_parser().parse_args(argv))
    as_json, as_markdown = options.pop("json"), options.pop("markdown")
    products = [parse_count(text) for text in options.pop("products")]
    options["spaces"] = parse_spaces(options["spaces"])
    options["shard_products"] = parse_count(options["shard_products"])
    plans = [make_plan(Demand(products=each, **options)) for each in products]
    if as_json:
        print(json.dumps([plan_as_json(plan) for plan in plans], indent=1, ensure_ascii=False))
    elif as_markdown:
        print(markdown(plans))
    else:
        _print(plans)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("sizing", "Say how many machines a catalogue needs, and why.", EPILOG)
    default = {each.name: each.default for each in fields(Demand)}
    parser.add_argument(
        "--products", nargs="+", required=True, metavar="N", help="10M, 1.5B, 250000; several: a column each"
    )
    parser.add_argument(
        "--spaces", default="image,text,product", metavar="NAME[=DIM],…", help=f"default: {_spaces_text(DIMS)}"
    )
    parser.add_argument(
        "--qps", type=float, default=default["qps"], help="searches a second, at the peak (%(default)s)"
    )
    parser.add_argument(
        "--events", type=float, default=0.0, help="changes of products a second, at the peak (%(default)s)"
    )
    parser.add_argument(
        "--photo-events",
        type=float,
        default=default["photo_events"],
        help="share of the events to encode (%(default)s)",
    )
    parser.add_argument(
        "--cache-hits", type=float, default=0.0, help="share of searches answered by the cache (%(default)s)"
    )
    parser.add_argument("--recipe", default=default["recipe"], help=f"one of {' '.join(RECIPES)} (%(default)s)")
    parser.add_argument("--rescore", default=default["rescore"], help="float16 or float32 on disk (%(default)s)")
    parser.add_argument("--shard-products", default="10M", metavar="N", help="most products in a shard (%(default)s)")
    parser.add_argument("--replicas", type=int, default=default["replicas"], help="fewest of each shard (%(default)s)")
    parser.add_argument("--cores", type=int, default=default["cores"], help="of a shard's machine (%(default)s)")
    parser.add_argument("--ram-gb", type=float, default=default["ram_gb"], help="of a shard's machine (%(default)s)")
    parser.add_argument(
        "--load", type=float, default=default["load"], help="busy share of cores to plan for (%(default)s)"
    )
    parser.add_argument(
        "--build-cores", type=int, default=default["build_cores"], help="of the nightly update (%(default)s)"
    )
    parser.add_argument(
        "--changed", type=float, default=default["changed"], help="share of photos new at night (%(default)s)"
    )
    parser.add_argument(
        "--gpu-photos-per-s", type=float, default=0.0, help="of one GPU, as you measured it; none was here"
    )
    parser.add_argument(
        "--photo-hours", type=float, default=default["photo_hours"], help="for GPUs to encode all photos (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print all figures, formulas and constants as JSON")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table of the figures")
    return parser


def parse_count(text: str) -> int:
    """10M is 10,000,000; B is a milliard. Raises BadSettings."""
    match = _COUNT.fullmatch(text.strip())
    if match is None or not (count := round(float(match[1]) * _SUFFIXES[match[2].lower()])):
        raise BadSettings(f"{text!r} is no number of products: 250000, 10M and 1.5B are")
    return count


def parse_spaces(text: str) -> dict[str, int]:
    """`image=1024,text`: a dimension for each name. Raises BadSettings."""
    spaces: dict[str, int] = {}
    for part in text.split(","):
        name, _, dim = part.strip().partition("=")
        if name not in DIMS:
            raise BadSettings(f"--spaces {text}: {name!r} is no space; there are {', '.join(DIMS)}")
        if name in spaces:
            raise BadSettings(f"--spaces {text}: {name} is there twice")
        if dim and not dim.isdecimal():
            raise BadSettings(f"--spaces {text}: {dim!r} is no dimension")
        spaces[name] = int(dim) if dim else DIMS[name]
    return spaces


def plan_as_json(plan: Plan) -> dict[str, Any]:
    used = {name for figure in plan.figures.values() for name in figure.constants}
    return {
        "demand": asdict(plan.demand),
        "figures": {key: asdict(figure) for key, figure in plan.figures.items()},
        "parts": plan.parts,
        "warnings": plan.warnings,
        "constants": [asdict(each) for each in all_constants() if each.name in used],
        "recipe": asdict(RECIPES[plan.demand.recipe]),
    }


def all_constants() -> list[Constant]:
    return [each for each in vars(constants).values() if isinstance(each, Constant)]


def markdown(plans: Sequence[Plan]) -> str:
    head = ["", *(f"{plan.demand.products:,} products" for plan in plans)]
    lines = [head, ["---"] * len(head), *_rows(plans)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _rows(plans: Sequence[Plan]) -> list[list[str]]:
    rows = []
    for key, figure in plans[0].figures.items():
        unit = f", {figure.unit}" if figure.unit else ""
        rows.append([figure.name + unit, *(format_value(plan[key]) for plan in plans)])
    for key in SUMS:
        rows.append([f"most of {plans[0].figures[key].name if key in plans[0].figures else 'the CPU of searches'}"])
        rows[-1] += [f"{name} ({share:.0%})" for name, share in (plan.dominant(key) for plan in plans)]
    return rows


def format_value(value: float) -> str:
    """Three digits, and whole numbers as they are."""
    if value == int(value) or value >= 1000:
        return f"{round(value):,}"
    return f"{value:.3g}"


def _print(plans: Sequence[Plan]) -> None:
    console = Console(highlight=False, markup=False)
    table = Table("", *(f"{plan.demand.products:,}" for plan in plans), *(["formula"] if len(plans) == 1 else []))
    formulas = [each.formula for each in plans[0].figures.values()] + [""] * len(SUMS)
    for row, formula in zip(_rows(plans), formulas, strict=True):
        table.add_row(*row, *([formula] if len(plans) == 1 else []))
    console.print(table)
    used = {name for plan in plans for figure in plan.figures.values() for name in figure.constants}
    if len(plans) == 1:
        console.print("constants, measured at recall@10 of .95 where they are of a search:")
        for each in all_constants():
            if each.name in used:
                value = f"{format_value(each.value)} {each.unit}"
                where = f"{each.measured_at}; {each.machine}; {each.source}"
                console.print(f"  {each.name}: {value} ({where})", soft_wrap=True)
    for warning in dict.fromkeys(warning for plan in plans for warning in plan.warnings):
        console.print(f"warning: {warning}", soft_wrap=True)


def _spaces_text(spaces: Mapping[str, int]) -> str:
    return ",".join(f"{name}={dim}" for name, dim in spaces.items())
