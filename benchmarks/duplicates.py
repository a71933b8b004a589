"""Answers of FindDuplicates with the scores that updates chose, on products that chose none, from reports of quality.

`update` chooses the least score of each space on calibration products; `encoders evaluate` measures it on test products
and, where it is given the image model, how well edited photos find their product. This gathers both from the
`report.json` of several catalogues.

    python -m benchmarks.duplicates fashion=fashion-quality/report.json offers=offers-quality/report.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.meter import write
from pipeline.evaluation.identity import PHOTOS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="NAME=report.json")
    named = [report.partition("=") for report in parser.parse_args().reports]
    reports = {name: json.loads(Path(path).read_text(encoding="utf-8")) for name, _, path in named}
    result = {
        "thresholds": [row for name, report in reports.items() for row in threshold_rows(name, report)],
        "edited_photos": [row for name, report in reports.items() for row in photo_rows(name, report)],
        "caveats": "precision and recall are means over queries; half of the copies are searched for without their "
        "product; unlabelled duplicates count as false",
    }
    print(write("duplicates", result))


def threshold_rows(name: str, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per space: what the version states, and what test products had, with 95 % intervals."""
    for each in report["duplicates"]:
        stated = each["threshold"]
        yield {
            "catalogue": name,
            "space": each["space"],
            "by": stated["measured_by"],
            "min_score": stated["min_score"],
            "precision_stated": stated["precision"],
            "precision": rounded(each["precision"]),
            "recall_stated": stated["recall"],
            "recall": rounded(each["recall"]),
            "precision_of_all_hits": round(each["pair_precision"], 4),
            "queries": each["queries"],
            "answered": each["answered"],
            "products": each["products"],
        }


def photo_rows(name: str, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per kind of change: the share of edited photos whose nearest is their product, by space and baseline."""
    for each in report["identity"]:
        if each["by"].startswith(PHOTOS):
            nearest = {method: rounded(row["nearest is the same"]) for method, row in each["methods"].items()}
            queries = {"queries": each["queries"], "products": each["products"]}
            yield {"catalogue": name, "by": each["by"], **queries, "nearest_is_the_same": nearest}


def rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
