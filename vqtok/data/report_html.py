"""The report of a run as one page of HTML: no script, no other file, plots as SVG.

Everything that comes from a run (names of files, errors of libraries) is escaped, and the page's
own security policy lets a browser load nothing at all.
"""

from collections.abc import Iterable, Sequence

from vqtok.data.report import RunReport
from vqtok.data.svg import bars, escape, lines

STYLE = """
:root{color-scheme:light dark;--line:#8886;--bar:#3b6ea5;--soft:#8883}
@media(prefers-color-scheme:dark){:root{--bar:#79a8dd}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;overflow-wrap:anywhere} h2{font-size:1.15rem;margin-top:2.2rem}
.verdict{border-left:4px solid var(--bar);background:var(--soft);padding:.6rem 1rem}
.wide{overflow-x:auto} table{border-collapse:collapse;margin:.5rem 0 1rem}
td,th{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere} td.n{text-align:right;font-variant-numeric:tabular-nums}
svg{display:block;max-width:100%;height:auto;margin:.5rem 0}
svg text{font:13px system-ui,sans-serif;fill:currentColor}
svg rect,svg circle{fill:var(--bar)} svg polyline{fill:none;stroke:var(--bar);stroke-width:2}
svg .axis{stroke:var(--line)} svg .even{stroke:currentColor;stroke-dasharray:4 4}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(report: RunReport) -> str:
    """HTML of a run's report."""
    title = escape(report.out)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        f"<p class='verdict'>{escape(report.verdict)}</p>",
        table(["", ""], facts(report)),
        *stages(report),
        *codebooks(report),
        *workers(report),
        *bad_inputs(report),
        "<h2>Software</h2>",
        table(["", ""], report.software.items()),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def facts(report: RunReport) -> list[tuple[str, str]]:
    """What a run is and came to."""
    per_token = "-"
    if report.bytes_per_token is not None:
        times = report.bytes_per_token / report.least_bytes_per_token
        per_token = f"{report.bytes_per_token:.3f}, {times:.2f} times log2 K / 8"
    state = "finished" if report.finished else "not finished"
    share = report.rows / max(report.rows_planned, 1)
    bad = sum(report.bad.values())
    return [
        ("tokenizer", f"{report.tokenizer} ({report.modality})"),
        ("numerics", report.numerics),
        ("state", f"{state}, {report.units:,} of {report.units_planned:,} files"),
        ("rows", f"{report.rows:,} of {report.rows_planned:,} ({share:.1%})"),
        ("bad inputs", f"{bad:,} ({bad / max(report.rows, 1):.2%})"),
        ("tokens", f"{report.tokens:,}"),
        ("bytes", f"{report.bytes:,}"),
        ("bytes per token", per_token),
        ("time", f"{duration(report.wall_seconds)}; {duration(report.seconds)} of workers"),
        ("speed of a worker", speed(report)),
        ("made again", f"{report.worker_ends:,} times a worker ended on a unit"),
    ]


def speed(report: RunReport) -> str:
    """Rows, tokens and real time a second of a worker, as far as they are known."""
    if report.rows_per_second is None:
        return "-"
    text = f"{report.rows_per_second:,.1f} rows/s, {report.tokens_per_second:,.0f} tokens/s"
    if report.times_real_time is not None:
        text += f", {report.times_real_time:,.1f} times real time"
    return text


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash for what is not known."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def stages(report: RunReport) -> list[str]:
    """Where the time went, and the progress over time."""
    head = ["stage", "where", "seconds", "share", "p50 a unit", "p95 a unit", "slowest unit"]
    rows = [
        (
            r["stage"],
            r["where"],
            *(f"{r['seconds']:,.2f}", f"{r['share']:.1%}"),
            *(f"{r[name]:.3g} s" for name in ("median", "p95", "slowest")),
        )
        for r in report.stages
    ]
    return [
        "<h2>Time by stage</h2>",
        bars([(r["stage"], r["seconds"], f"{r['share']:.1%}") for r in report.stages]),
        table(head, rows),
        "<h2>Rows over time</h2>",
        lines([("", report.timeline)], "seconds of work", "rows"),
    ]


def codebooks(report: RunReport) -> list[str]:
    """How the codes are used."""
    named = list(enumerate(report.codebooks))
    used = [
        (f"level {i}", book["usage"], f"{book['usage']:.1%} of {book['codebook_size']:,} codes")
        for i, book in named
    ]
    entropy = [
        (
            f"level {i}",
            book["normalized_entropy"],
            f"{book['entropy_bits']:.2f} bits, perplexity {book['perplexity']:,.1f}",
        )
        for i, book in named
    ]
    curves = [(f"level {i}", curve) for i, curve in enumerate(report.curves)]
    return [
        f"<h2>Codebooks in use</h2><p>Counted in {escape(report.codebooks_from)}.</p>",
        "<h3>Codes that occur</h3>",
        bars(used, 1.0),
        "<h3>Entropy, of what an even use has</h3>",
        bars(entropy, 1.0),
        "<h3>How often codes occur, the most frequent first; 1 is even use</h3>",
        lines(curves, "share of the codebook", "times even use", logarithmic=True, even=1.0),
    ]


def workers(report: RunReport) -> list[str]:
    """Who made what, and which units took long."""
    slow = ["unit", "worker", "rows", "seconds", "times the median a row"]
    return [
        "<h2>Workers</h2>",
        table(
            ["worker", "units", "rows", "seconds"],
            [(r["worker"], r["units"], r["rows"], r["seconds"]) for r in report.workers],
        ),
        "<h2>Stragglers</h2>",
        table(slow, [tuple(row.values()) for row in report.stragglers]),
    ]


def bad_inputs(report: RunReport) -> list[str]:
    """How many, which and why."""
    first = f" (the first {len(report.examples)})" if report.examples else ""
    return [
        "<h2>Bad inputs</h2>",
        bars([(status, count, f"{count:,}") for status, count in report.bad.items()]),
        f"<h3>Which{first}</h3>",
        table(
            ["input", "row", "status", "error"],
            [(r["src"], r["src_row"], r["status"], r["error"]) for r in report.examples],
        ),
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as an HTML table; nothing at all where there are none."""
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    if not body:
        return "<p>none</p>"
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    top = f"<tr>{titles}</tr>" if any(head) else ""
    return f"<div class='wide'><table>{top}{body}</table></div>"


def cell(value: object) -> str:
    kind = " class='n'" if isinstance(value, (int, float)) else ""
    return f"<td{kind}>{escape(value)}</td>"
