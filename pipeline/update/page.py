"""The report of an update as one HTML page, for a person in the morning. Reads photos of the examples.

The page needs nothing else: no script, no request. Every text that is not this module's own is escaped, as titles are
whatever a shop writes. Photos are decoded as those of the catalogue are, in a process of its own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from encoders.image.isolated_decoder import Decode, image_decoder
from lookalike.product_rules import is_photo_url
from lookalike.releases.manifest import IndexEntry, Manifest
from lookalike.releases.records import ReleaseRecord
from pipeline.photos import pixels_or_none

_THUMBNAIL_PX = 96
_BAR_PX, _ROW_PX = 420, 22
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:66em;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right}.good{color:#1a7f37}.bad{color:#c1121f;font-weight:600}.dim{color:#777}
.outcome{padding:.6em 1em;border-left:5px solid;background:#f6f6f6}
.cards{display:flex;flex-wrap:wrap;gap:.7em}.card{width:7.4em;font-size:.8em;overflow-wrap:anywhere}
.card img,.card .none{width:96px;height:96px;display:block;background:#eee}
svg text{font:13px system-ui,sans-serif}
"""


def render(
    record: ReleaseRecord, manifest: Manifest, *, photos: Path | None, outcome: str, reasons: Sequence[str] = ()
) -> str:
    """The page. photos: the directory that photos are below; None: there are no pictures of products.

    outcome: one sentence. reasons: why the version was refused or taken back; empty: it was not.
    """
    with ExitStack() as opened:  # A process is started only for photos.
        decode = (
            opened.enter_context(image_decoder(1, _THUMBNAIL_PX)) if photos and _has_image(record.changes) else None
        )
        changes = _changes(record.changes, photos, decode)
    sections = [
        ("What changed", changes),
        ("What the gate said", _gate(record)),
        ("After it began to serve", _watch(record)),
        ("Recall@10 by space and shard", _recall(manifest)),
        ("What was rejected", _rejected(record.report)),
        ("Encoders", _encoders(record.report)),
        ("Time", _bars(record.steps, "s")),
        ("What happened to it", _events(record)),
    ]
    title = f"Version {record.version}"
    kind = "bad" if reasons else "good"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="outcome {kind}">{escape(outcome)}</p>',
        _list(reasons, "bad") if reasons else "",
        f'<p class="dim">{escape(record.catalogue)} · made {escape(record.made_at)} · {escape(record.software)}</p>',
        *(f"<h2>{escape(name)}</h2>\n{html}" for name, html in sections if html),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _has_image(changes: Mapping[str, Any]) -> bool:
    return any(example["image"] for examples in changes.get("examples", {}).values() for example in examples)


def _changes(changes: Mapping[str, Any], photos: Path | None, decode: Decode | None) -> str:
    if not changes:
        return ""
    against = f"against version {changes['live']}" if changes["live"] else "there was no version to compare with"
    counts = {kind: changes[kind] for kind in ("new", "changed", "removed")}
    html = [f"<p>{changes['products']:,} products, {escape(against)}.</p>", _bars(counts, "")]
    if changes["fields"]:
        fields = ", ".join(f"{name} of {count:,}" for name, count in changes["fields"].items())
        html.append(f"<p>Changed: {escape(fields)}.</p>")
    for kind in ("new", "changed", "removed"):
        if changes["live"] and (examples := changes["examples"][kind]):
            cards = "".join(_card(example, photos, decode) for example in examples)
            html.append(f'<p>{kind.capitalize()}, for example:</p><div class="cards">{cards}</div>')
    return "\n".join(html)


def _card(example: Mapping[str, Any], photos: Path | None, decode: Decode | None) -> str:
    uri = _thumbnail(photos, example["image"], decode)
    picture = f'<img src="{uri}" alt="">' if uri else '<span class="none"></span>'
    fields = f'<br><span class="dim">{escape(", ".join(example["fields"]))}</span>' if example["fields"] else ""
    name = f"<b>{escape(example['id'][:64])}</b><br>{escape(example['title'][:80])}"
    return f'<div class="card">{picture}{name}{fields}</div>'


def _thumbnail(photos: Path | None, image: str, decode: Decode | None) -> str:
    """A photo as a data URI; empty: it is no file below `photos`, or no photo."""
    if photos is None or decode is None or not image or is_photo_url(image):
        return ""
    path = photos / image
    if not path.resolve().is_relative_to(photos.resolve()) or (pixels := pixels_or_none(path, decode)) is None:
        return ""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _gate(record: ReleaseRecord) -> str:
    if record.gate is None:
        return '<p class="dim">It was not held against the gate.</p>'
    rows = []
    for check in record.gate.get("checks", ()):
        name, passed = str(check.get("name", "")), bool(check.get("passed"))
        word = "passed" if passed else "accepted" if name in record.accepted else "failed"
        rows.append((name, (word, "good" if passed else "bad"), str(check.get("sentence", ""))))
    return _table(("check", "", ""), rows)


def _watch(record: ReleaseRecord) -> str:
    if record.watch is None:
        return ""
    reasons = record.watch.get("reasons") or ["Nothing was out of bounds."]
    return _list([str(reason) for reason in reasons], "")


def _recall(manifest: Manifest) -> str:
    rows = []
    for space in manifest.spaces:
        for shard, (index, documents) in enumerate(zip(space.indexes, space.documents, strict=True)):
            rows.append(
                (space.name, str(shard), f"{documents:,}", index.recipe, _measured(index), _promise(space.choice))
            )
    return _table(("space", "shard", "vectors", "index", "recall@10 as built", "promised"), rows)


def _measured(index: IndexEntry) -> str:
    if not index.operating_points:
        return "1 (exact)"
    point = index.operating_points[0]
    return f"{point.recall:.4f} ± {2 * point.standard_error:.4f}"


def _promise(choice: Any) -> str:
    return "" if choice is None else f"{choice.target_recall:.2f}"


def _rejected(report: Mapping[str, Any]) -> str:
    if not report:
        return ""
    lines = [f"<p>{report['rejected']:,} of {report['rows']:,} rows.</p>"]
    if report["reasons"]:
        lines.append(_bars(report["reasons"], ""))
        lines.append(_list(report.get("rejected_examples", ()), ""))
    if report["unused_photos"]:
        photos = ", ".join(f"{count:,} {reason}" for reason, count in report["unused_photos"].items())
        lines.append(f"<p>Kept without their photo: {escape(photos)}.</p>")
    return "\n".join(lines)


def _encoders(report: Mapping[str, Any]) -> str:
    if not report:
        return ""
    lines = []
    if report["text_artifact"]:
        does = "trained" if report["text_trained"] else "kept"
        lines.append(f"Text encoder {does}: {Path(report['text_artifact']).name} ({report['text_reason']}).")
    if fit := report["text_fit"]:
        figures = ", ".join(
            f"{name} {fit['trained'].get(name, 0):.4f} when it was trained, now {now:.4f}"
            for name, now in fit["now"].items()
        )
        lines.append(
            f"{fit['changed']:.1%} of texts changed, {fit['unseen_words']:.1%} of their words unseen; {figures}."
        )
    if report["product_artifact"]:
        lines.append(f"Product encoder: {Path(report['product_artifact']).name}.")
    elif report["no_product_space"]:
        lines.append(f"No product space: {report['no_product_space']}.")
    for name, count in report["encoded"].items():
        lines.append(f"{name} encoded: {count:,}.")
    return _list(lines, "")


def _events(record: ReleaseRecord) -> str:
    rows = [(event.at, event.what, event.by, event.why, event.other) for event in record.events]
    return _table(("when", "what", "by", "why", "the other version"), rows) if rows else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str | tuple[str, str]]]) -> str:
    """A cell that is a tuple is a text and its class."""
    html = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = [(cell, "") if isinstance(cell, str) else cell for cell in row]
        html.append("<tr>" + "".join(f'<td class="{kind}">{escape(text)}</td>' for text, kind in cells) + "</tr>")
    return "<table>" + "\n".join(html) + "</table>"


def _list(lines: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _bars(values: Mapping[str, float], unit: str) -> str:
    """A horizontal bar for each value."""
    if not values:
        return ""
    greatest, rows = max([*values.values(), 1e-9]), []
    for number, (name, value) in enumerate(values.items()):
        y, width = number * _ROW_PX, max(1, round(_BAR_PX * value / greatest))
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
        rows.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{escape(name[:22])}</text>'
            f'<rect x="158" y="{y + 3}" width="{width}" height="{_ROW_PX - 7}" fill="#4477aa"/>'
            f'<text x="{164 + width}" y="{y + 15}">{escape(f"{shown} {unit}".strip())}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_BAR_PX + 280}" height="{len(values) * _ROW_PX + 4}" '
        f'role="img">{"".join(rows)}</svg>'
    )
