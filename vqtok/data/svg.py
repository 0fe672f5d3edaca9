"""Plots as SVG, in as little as a report needs: bars, and lines over two axes."""

import html
import math
from collections.abc import Callable, Sequence

WIDTH, BAR, LABEL = 720, 22, 170
HEIGHT, LEFT, BOTTOM = 260, 70, 40
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # so that lines differ without colour


def escape(value: object) -> str:
    """Text for HTML; what does not print, as its code, so that nobody's name rewrites the page."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return html.escape(text)


def bars(rows: Sequence[tuple[str, float, str]], full: float | None = None) -> str:
    """Label, value and text of each row as a bar; `full` is what the longest bar stands for."""
    if not rows:
        return ""
    full = full or max(value for _, value, _ in rows) or 1.0
    drawn = []
    for index, (label, value, text) in enumerate(rows):
        y, length = index * BAR, (WIDTH - 2.4 * LABEL) * max(value, 0.0) / full
        drawn.append(
            f"<text x='0' y='{y + 15}'>{escape(label)}</text>"
            f"<rect x='{LABEL}' y='{y + 3}' width='{length:.1f}' height='{BAR - 6}'/>"
            f"<text x='{LABEL + length + 6:.1f}' y='{y + 15}'>{escape(text)}</text>"
        )
    return canvas(BAR * len(rows), drawn)


def lines(
    curves: Sequence[tuple[str, Sequence[Sequence[float]]]],
    across: str,
    up: str,
    logarithmic: bool = False,
    even: float | None = None,
) -> str:
    """Curves of points (x, y) over one pair of axes from 0.

    Args:
        curves: name and points of each.
        across: what x is.
        up: what y is.
        logarithmic: y by powers of ten; what is 0 is left out.
        even: a height to mark.
    """
    shown = [
        (name, [(x, y) for x, y in points if y > 0 or not logarithmic]) for name, points in curves
    ]
    shown = [(name, points) for name, points in shown if len(points) > 1]
    if not shown:
        return "<p>none</p>"
    most_x = max(x for _, points in shown for x, _ in points) or 1.0
    ys = [y for _, points in shown for _, y in points] + ([] if even is None else [even])
    low, high, heights = scale(ys, logarithmic)

    def place(x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if logarithmic else y
        return (
            LEFT + (WIDTH - LEFT - 20) * x / most_x,
            10 + (HEIGHT - BOTTOM - 10) * (high - y) / (high - low),
        )

    drawn = axes(place, [most_x * i / 4 for i in range(5)], heights, across, up)
    if even is not None:
        y = place(0, even)[1]
        drawn.append(
            f"<line class='even' x1='{LEFT}' x2='{WIDTH - 20}' y1='{y:.1f}' y2='{y:.1f}'/>"
        )
    for index, (name, points) in enumerate(shown):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        dash = DASHES[index % len(DASHES)]
        drawn.append(f"<polyline points='{path}' stroke-dasharray='{dash}'/>")
        x, y = place(*points[len(points) // 4])
        drawn.append(
            f"<text x='{x + 4:.1f}' y='{y - 6 + 14 * (index % 4):.1f}'>{escape(name)}</text>"
        )
    return canvas(HEIGHT, drawn)


def scale(values: Sequence[float], logarithmic: bool) -> tuple[float, float, list[float]]:
    """Lowest and highest height of a plot (powers of ten, if logarithmic), and values to mark."""
    if logarithmic:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        high = max(high, low + 1)
        return low, high, [10.0**power for power in range(low, high + 1)]
    high = max(values) or 1.0
    return 0.0, high, [high * part / 4 for part in range(5)]


def axes(
    place: Callable[[float, float], tuple[float, float]],
    xs: Sequence[float],
    ys: Sequence[float],
    across: str,
    up: str,
) -> list[str]:
    """Lines, numbers and names of both axes."""
    drawn = []
    right, foot = WIDTH - 20, HEIGHT - BOTTOM + 18
    for y in ys:
        height = place(0, y)[1]
        drawn.append(
            f"<line class='axis' x1='{LEFT}' x2='{right}' y1='{height:.1f}' y2='{height:.1f}'/>"
            f"<text x='{LEFT - 6}' y='{height + 4:.1f}' text-anchor='end'>{short(y)}</text>"
        )
    for x in xs:
        left = place(x, ys[-1])[0]
        drawn.append(f"<text x='{left:.1f}' y='{foot}' text-anchor='middle'>{short(x)}</text>")
    middle = (LEFT + WIDTH) / 2
    drawn.append(
        f"<text x='{middle}' y='{HEIGHT - 4}' text-anchor='middle'>{escape(across)}</text>"
        f"<text x='{LEFT + 6}' y='22'>{escape(up)}</text>"
    )
    return drawn


def short(number: float) -> str:
    """A number of an axis, as a person writes it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def canvas(height: float, drawn: Sequence[str]) -> str:
    """An SVG as wide as the page."""
    return f"<svg viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' role='img'>{''.join(drawn)}</svg>"
