"""The report of a run as one page of HTML: no script, no other file, plots as SVG."""

import html
from collections.abc import Iterable, Sequence

from vqtok.data.report import RunReport

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{border:1px solid #bbb;padding:.25rem .6rem;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
rect{fill:#3b6ea5} text{font:13px system-ui,sans-serif} svg{margin:.5rem 0}
"""
WIDTH, BAR, LABEL = 640, 22, 170


def report_page(report: RunReport) -> str:
    """HTML of a run's report."""
    state = "finished" if report.finished else "not finished"
    least = f"{report.least_bytes_per_token:.3f}"
    per_token = "-" if report.bytes_per_token is None else f"{report.bytes_per_token:.3f}"
    facts = [
        ("tokenizer", report.tokenizer),
        ("modality", report.modality),
        ("state", state),
        ("rows", f"{report.rows:,}"),
        ("tokens", f"{report.tokens:,}"),
        ("bytes", f"{report.bytes:,}"),
        ("bytes per token", f"{per_token} (log2 K / 8 = {least})"),
        ("seconds of work", f"{report.seconds:,.1f}"),
        ("what bounds it", report.verdict),
    ]
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{escape(report.out)}</title>",
        f"<style>{STYLE}</style><h1>{escape(report.out)}</h1>",
        table(["", ""], facts),
        "<h2>Time by stage</h2>",
        bars([(row["stage"], row["seconds"], f"{row['seconds']:,.2f} s") for row in report.stages]),
        table(
            ["stage", "where", "seconds", "share", "median", "95 %"],
            [
                (r["stage"], r["where"], r["seconds"], f"{r['share']:.1%}", r["median"], r["p95"])
                for r in report.stages
            ],
        ),
        "<h2>Codebooks in use</h2>",
        bars(
            [
                (f"level {i}", book["usage"], f"{book['usage']:.1%} of {book['codebook_size']:,}")
                for i, book in enumerate(report.codebooks)
            ],
            1.0,
        ),
        bars(
            [
                (f"entropy {i}", book["normalized_entropy"], f"{book['entropy_bits']:.2f} bits")
                for i, book in enumerate(report.codebooks)
            ],
            1.0,
        ),
        "<h2>Workers</h2>",
        table(
            ["worker", "units", "seconds"],
            [(row["worker"], row["units"], row["seconds"]) for row in report.workers],
        ),
        "<h2>Bad inputs</h2>",
        bars([(status, count, f"{count:,}") for status, count in report.bad.items()]),
        table(
            ["input", "row", "status", "error"],
            [(r["src"], r["src_row"], r["status"], r["error"]) for r in report.examples],
        ),
        "<h2>Software</h2>",
        table(["", ""], report.software.items()),
    ]
    return "\n".join(parts) + "\n"


def escape(value: object) -> str:
    return html.escape(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as an HTML table; nothing at all where there are none."""
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    if not body:
        return "<p>none</p>"
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{body}</table>"


def cell(value: object) -> str:
    kind = " class='n'" if isinstance(value, (int, float)) else ""
    return f"<td{kind}>{escape(value)}</td>"


def bars(rows: Sequence[tuple[str, float, str]], full: float | None = None) -> str:
    """Label, value and text of each row as a bar; `full` is what the longest bar stands for."""
    if not rows:
        return ""
    full = full or max(value for _, value, _ in rows) or 1.0
    lines = []
    for index, (label, value, text) in enumerate(rows):
        y, length = index * BAR, (WIDTH - 2 * LABEL) * value / full
        lines.append(
            f"<text x='0' y='{y + 15}'>{escape(label)}</text>"
            f"<rect x='{LABEL}' y='{y + 3}' width='{length:.1f}' height='{BAR - 6}'/>"
            f"<text x='{LABEL + length + 6:.1f}' y='{y + 15}'>{escape(text)}</text>"
        )
    return f"<svg width='{WIDTH}' height='{BAR * len(rows)}'>{''.join(lines)}</svg>"
