"""The report's pictures: bars, confusion matrices, a contact sheet. Draws with matplotlib and Pillow, writes PNG.

Text in pictures is ASCII, because fonts for other scripts may be missing. A label that is not ASCII is shown by its
number in the report's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from encoders.image.isolated_decoder import Decode, image_decoder
from lookalike.errors import OperatorError
from lookalike.v1.types_pb2 import Product
from pipeline.evaluation.classification import ClassificationEvaluation
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.metrics import confusion_matrix
from pipeline.evaluation.neighbours import SAME_PRODUCT, neighbours_in_common
from pipeline.evaluation.retrieval import AUTO, CEILING, RankingQuality, RetrievalEvaluation
from pipeline.photos import pixels_or_none

COLOURS = {"image": "#4477aa", "text": "#ee7733", "product": "#228833", AUTO: "#222222"}
_GREYS = ("#dddddd", "#999999", "#bbbbbb", "#eeeeee")  # Of baselines.
_LINES = ("#222222", "#4477aa", "#ee7733", "#66aadd", "#ffaa66", "#228833")
_MIN_ANSWERS = 10  # Bins with fewer are not in the reliability diagram.
_BARS, _MATRIX_LABELS, _LABEL_CHARS = 20, 12, 28
_DPI = 100

NEIGHBOURS = 8
_SIDE_PX, _FRAME_PX, _GAP_PX, _NAME_PX, _CAPTION_PX, _CAPTION_CHARS = 96, 5, 6, 76, 12, 17
SAME, RELEVANT, IRRELEVANT, _QUERY = "#2ca02c", "#1f77b4", "#d62728", "#222222"


def import_matplotlib() -> Any:
    """Import matplotlib.figure, which needs no display. Raises OperatorError if it is not installed."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise OperatorError(f"pictures need matplotlib: pip install matplotlib ({error})") from None
    return figure


def plot_label(labelling: Labelling, label: str, number: int) -> str:
    """A label as pictures show it; `number`: its row in the report's table, from 1."""
    if not label.isascii():
        return f"{_ascii(labelling.title)} {number}"
    short = label if len(label) <= _LABEL_CHARS else f"...{label[3 - _LABEL_CHARS :]}"
    return _ascii(short)


def labels_by_frequency(labelling: Labelling) -> list[str]:
    """The labels of queries, those of most products first."""
    counts = np.bincount(labelling.codes[labelling.is_query], minlength=len(labelling.names))
    return [labelling.names[code] for code in np.argsort(-counts, kind="stable") if counts[code]]


def draw_averages(path: Path, retrieval: RetrievalEvaluation) -> None:
    """Draw precision@10 of every space and baseline, by labelling, with intervals; a line shows the best possible."""
    columns: dict[str, RankingQuality] = {**retrieval.spaces, AUTO: retrieval.auto, **retrieval.baselines}
    best = columns.pop(CEILING)
    titles = [labelling.title for labelling in retrieval.labellings]
    figure = import_matplotlib().Figure(figsize=(max(7, 2.2 * len(titles) + 3), 4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(columns)
    for column, (name, colour) in enumerate(_coloured(columns)):
        micro = [columns[name].averages[title][0].micro for title in titles]
        values = [average.value for average in micro]
        errors = [
            [average.value - average.low for average in micro],
            [average.high - average.value for average in micro],
        ]
        x = np.arange(len(titles)) + column * width
        axes.bar(x, values, width, yerr=errors, color=colour, label=name, ecolor="#555555")
    left = np.arange(len(titles)) - width / 2
    heights = [best.averages[title][0].micro.value for title in titles]
    axes.hlines(heights, left, left + 0.85, colors="#cc3311", linestyles="dashed", label=CEILING)
    axes.set_xticks(left + 0.425, list(map(_ascii, titles)))
    axes.set(ylabel="precision@10", ylim=(0, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def draw_precision(path: Path, retrieval: RetrievalEvaluation, labelling: Labelling) -> None:
    """Draw precision@10 by label and space, of the most frequent labels."""
    labels = labels_by_frequency(labelling)[:_BARS]
    figure = import_matplotlib().Figure(figsize=(8, 1.2 + 0.38 * len(labels)), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(retrieval.spaces)
    for column, (name, colour) in enumerate(_coloured(retrieval.spaces)):
        values = [retrieval.spaces[name].by_label[labelling.title][label][0] for label in labels]
        axes.barh(np.arange(len(labels)) + column * height, values, height, color=colour, label=name)
    names = [plot_label(labelling, label, number) for number, label in enumerate(labels, 1)]
    axes.set_yticks(np.arange(len(labels)) + 0.4 - height / 2, names)
    axes.set_ylim(len(labels) - 0.1, -0.5)
    axes.set(xlabel=f"precision@10 by {_ascii(labelling.title)}", xlim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def draw_confusion_matrices(path: Path, retrieval: RetrievalEvaluation, labelling: Labelling) -> None:
    """Draw for each space, and each label of queries, the shares of labels among the ten nearest."""
    labels = labels_by_frequency(labelling)[:_MATRIX_LABELS]
    names = [plot_label(labelling, label, number) for number, label in enumerate(labels, 1)]
    spaces = retrieval.spaces
    size = (2.6 + 3.6 * len(spaces), 2.6 + 0.28 * len(labels))
    figure = import_matplotlib().Figure(figsize=size, dpi=_DPI, layout="constrained")
    for panel, (name, axes) in enumerate(zip(spaces, np.atleast_1d(figure.subplots(1, len(spaces))), strict=True)):
        matrix = confusion_matrix(spaces[name].nearest, labelling, labels)
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(labels) + 1), [*names, "others"], rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), names if panel == 0 else [], fontsize=7)
        axes.set_title(f"{name}: share of the 10 nearest", fontsize=9)
        for row, column in zip(*np.nonzero(matrix >= 0.005), strict=True):
            shade = "white" if matrix[row, column] > 0.5 else "black"
            text = f"{100 * matrix[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=shade)
    figure.colorbar(image, ax=figure.axes, shrink=0.7)
    _save(figure, path)


def draw_reliability(path: Path, classification: ClassificationEvaluation) -> None:
    """Draw accuracy by confidence, of bins with at least ten answers; on the diagonal, confidence is calibrated."""
    figure = import_matplotlib().Figure(figsize=(7, 4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for method, (name, quality) in enumerate(classification.methods.items()):
        bins = [b for b in quality.bins if b.answers >= _MIN_ANSWERS]
        confidences, accuracies = [b.confidence for b in bins], [b.accuracy for b in bins]
        style = "dashed" if "neighbours" in name else "solid"
        colour = _LINES[method % len(_LINES)]
        axes.plot(
            confidences, accuracies, color=colour, linestyle=style, label=f"{name}, ECE {quality.calibration_error:.3f}"
        )
        sizes = [4 + 200 * b.answers / classification.test_products for b in bins]
        axes.scatter(confidences, accuracies, sizes, color=colour)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def draw_neighbours(
    path: Path,
    retrieval: RetrievalEvaluation,
    labelling: Labelling,
    products: Sequence[Product],
    photos: Sequence[Path | None],
    *,
    queries: Sequence[int],
) -> None:
    """Draw each query, and its nearest in each space and by TF-IDF, a row each, with what they have in common.

    A frame is green for the same product, blue for the query's label, red for another.
    """
    columns = {query: neighbours_in_common(products, retrieval, query, NEIGHBOURS) for query in queries}
    rows = len(next(iter(columns.values()), {}))
    row_px, tile_px = _SIDE_PX + _CAPTION_PX + _GAP_PX, _SIDE_PX + _GAP_PX
    query_px = rows * row_px + 2 * _GAP_PX  # Height of a query.
    width_px = _NAME_PX + (1 + NEIGHBOURS) * tile_px + 2 * _GAP_PX
    sheet = Image.new("RGB", (width_px, max(len(queries) * query_px, 1)), "white")
    pen = ImageDraw.Draw(sheet)
    with image_decoder(1, _SIDE_PX - 2 * _FRAME_PX) as decode:
        for number, query in enumerate(queries):
            for row, (name, neighbours) in enumerate(columns[query].items()):
                top = number * query_px + row * row_px + _GAP_PX
                pen.text((_GAP_PX, top + _SIDE_PX // 2), name.partition(" of ")[0], fill="black")
                if row == 0:
                    sheet.paste(_tile(photos[query], _QUERY, decode), (_NAME_PX, top))
                for rank, (neighbour, common) in enumerate(neighbours, 1):
                    relevant = labelling.codes[neighbour] == labelling.codes[query]
                    frame = SAME if SAME_PRODUCT in common else RELEVANT if relevant else IRRELEVANT
                    left = _NAME_PX + rank * tile_px + 2 * _GAP_PX
                    sheet.paste(_tile(photos[neighbour], frame, decode), (left, top))
                    caption = _ascii(", ".join(common))[:_CAPTION_CHARS]
                    pen.text((left, top + _SIDE_PX), caption, fill="#555555")
    sheet.quantize(256).save(path, optimize=True)  # 256 colours take a third of the bytes.


def _tile(photo: Path | None, frame: str, decode: Decode) -> Image.Image:
    """The photo as the image encoder sees it, reduced, in a frame; grey if there is none that can be decoded."""
    pixels = None if photo is None else pixels_or_none(photo, decode)
    side_px = _SIDE_PX - 2 * _FRAME_PX
    inner = Image.new("RGB", (side_px, side_px), "#dddddd") if pixels is None else Image.fromarray(pixels)
    tile = Image.new("RGB", (_SIDE_PX, _SIDE_PX), frame)
    tile.paste(inner, (_FRAME_PX, _FRAME_PX))
    return tile


def _coloured(columns: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each name with its colour."""
    others = [name for name in columns if name not in COLOURS]
    return [(name, COLOURS.get(name) or _GREYS[others.index(name) % len(_GREYS)]) for name in columns]


def _ascii(text: str) -> str:
    """ASCII text without formulas: fonts may lack other characters, and matplotlib takes "$" for a formula."""
    return text.encode("ascii", "replace").decode().replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # The same numbers give the same bytes.
