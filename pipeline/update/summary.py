"""The report of an update as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from index.building.auto_recipe import describe
from index.building.inspect import describe_duplicates
from pipeline.duplicate_scores import PRECISION
from pipeline.update.report import UpdateReport


def summary(report: UpdateReport, *, with_images: bool) -> str:
    """The report as text. with_images: whether there was an image encoder."""
    lines = [f"version {report.version}: {report.catalogue}"]
    for name, space in report.spaces.items():
        lines.append(f"  {name + ' space':<12} {space['vectors']:,} vectors by {space['encoder']}")
        if (choice := report.choices[name]) is not None:
            lines += [f"    {line}" for line in describe(choice)]
    if report.text_shares:
        shares = " and ".join(f"{share:.0%} {name}" for name, share in report.text_shares.items())
        lines.append(f"  words alone are searched by: {shares}")
    lines += [f"  {line}" for line in _duplicates(report)]
    if "image" not in report.spaces:
        lines.append(
            f"  no image space: {'no product has a photo' if with_images else 'no --models or --model-server'}"
        )
    if "text" not in report.spaces:
        lines.append("  no text space: no product has a title or description with a word")
    if report.no_product_space_reason:
        lines.append(f"  no product space: {report.no_product_space_reason}")
    lines += [
        f"  {inputs + ' encoded':<15} {count:,} ({count / report.seconds[inputs]:,.0f} a second)"
        for inputs, count in report.encoded.items()
        if count and report.seconds[inputs] > 0
    ]
    lines.append("  seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items()))
    if report.text_artifact:
        done = "trained" if report.text_trained else "kept"
        lines.append(f"  text encoder {done}: {report.text_artifact} ({report.text_reason})")
        if fit := report.text_fit:
            figures = ", ".join(
                f"{name} {fit['trained'].get(name, 0):.4f} to {now:.4f}" for name, now in fit["now"].items()
            )
            lines.append(
                f"    {fit['changed']:.1%} of texts changed, {fit['unseen_words']:.1%} of their words unseen; {figures}"
            )
    if report.product_artifact:
        lines.append(f"  product encoder: {report.product_artifact}")
    return "\n".join(lines)


def _duplicates(report: UpdateReport) -> Iterator[str]:
    """A line for each space on the score from which products are near-duplicates."""
    for name, threshold in report.duplicates.items():
        if threshold is None:
            yield f"{name}: score of duplicates not measured: too few groups are stated, or products to copy"
        else:
            reached = "" if threshold.precision >= PRECISION else f"; no score reaches precision {PRECISION}"
            yield f"{name}: {describe_duplicates(threshold)}{reached}"
