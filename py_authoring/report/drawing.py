"""matplotlib → SVG that belongs to the page: its colours are the page's, its text is the reader's font.

matplotlib knows no CSS variables. So it draws with stand-in colours, which are then replaced: the same drawing is right
in light, in dark and on paper.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Stand-ins, and the CSS variables of templates/style.css that they become.
INK, MUTED, GRID, PAPER, ON_COLOR = "#a1b0c0", "#a1b0c1", "#a1b0c2", "#a1b0c3", "#a1b0c4"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    ON_COLOR: "var(--on-color, var(--paper))",
}
#: How many colours there are for series, each with a line style of its own: nobody has to tell them by colour alone.
SERIES = 6
LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1.2, 1.4)),
    (0, (7, 2, 1.5, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (10, 3)),
)
_FACE = re.compile(r"font: ([\d.]+px) [^;\"]+")
_NOISE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_SERIES_COLOR = re.compile(r"#a2b0c([0-9])")
_HEAT_COLOR = re.compile(r"#a3b0([0-9a-f]{2})")


@dataclass(frozen=True)
class Table:
    """The text alternative of a chart, or a table of its own.

    The first column names the row; the first `left` columns hold words, the others numbers.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    left: int = 1

    @property
    def name_width(self) -> int:
        """How many characters the first column needs, up to where it may break its words."""
        return name_width(row[0] for row in self.rows)


@dataclass(frozen=True)
class Chart:
    """A drawing with what it says in words.

    Attributes:
        id: unique on the page.
        title: what is drawn.
        description: what is to be seen there, for those who cannot see it.
        svg: the element, ready for the page.
        table: the numbers, where a page should offer them.
        wide: whether it needs the place of two.
    """

    id: str
    title: str
    description: str
    svg: str
    table: Table | None = None
    wide: bool = False


def series_color(number: int) -> str:
    """The stand-in for the colour of the nth series."""
    return f"#a2b0c{number % SERIES}"


def series_line(number: int) -> str | tuple[int, tuple[float, ...]]:
    """The line style of the nth series; together with the colour it repeats after 36."""
    return LINES[(number + number // SERIES) % len(LINES)]


def heat_color(share: float) -> str:
    """The stand-in for a cell's colour: 0 is the page's, 1 the strongest."""
    return f"#a3b0{round(min(max(share, 0.0), 1.0) * 100):02x}"


def draw(
    identifier: str, title: str, description: str, paint: Callable[[Axes], None], size: tuple[float, float] = (4.2, 2.8)
) -> str:
    """Lets `paint` draw on axes, and gives the SVG element.

    Args:
        identifier: prefix of every id in it, so that several drawings can stand on one page.
        title: becomes its `<title>`.
        description: becomes its `<desc>`.
        paint: draws; texts need no escaping, `$` means nothing.
        size: inches; text has 9 points, and the page scales the whole.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_settings()), of_any_text():
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        canvas.print_svg(buffer, metadata=nothing)  # type: ignore[no-untyped-call]
    return _for_page(buffer.getvalue(), identifier, title, description)


def name_width(names: Iterable[str]) -> int:
    """How many characters a column of names needs, up to where it may break its words."""
    return min(max(map(len, names), default=0), 13)


def plain(text: object, longest: int | None = None) -> str:
    """Text that any page and file can hold: no control characters, no halves of characters, not too long.

    Example:
        >>> plain("a\\x00b"), plain("a" * 20, 8)
        ('a\ufffdb', 'aaaaaaa…')
    """
    clean = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in str(text))
    return clean if longest is None or len(clean) <= longest else clean[: longest - 1] + "…"


def _for_page(svg: str, identifier: str, title: str, description: str) -> str:
    svg = _NOISE.sub("", svg).strip()
    opening = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert opening is not None and box is not None
    body = svg[opening.end() :]
    body = re.sub(r'\bid="', f'id="{identifier}-', body)
    body = re.sub(r'href="#', f'href="#{identifier}-', body)
    body = body.replace("url(#", f"url(#{identifier}-")
    body = _FACE.sub(r"font-size: \1", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    body = _SERIES_COLOR.sub(r"var(--series-\1)", body)
    body = _HEAT_COLOR.sub(
        lambda found: f"color-mix(in srgb, var(--series-0) {int(found[1], 16)}%, var(--paper))", body
    )
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{identifier}-title {identifier}-desc">\n'
        f'<title id="{identifier}-title">{escape(plain(title))}</title>\n'
        f'<desc id="{identifier}-desc">{escape(plain(description))}</desc>{body}'
    )


def _settings() -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "py-authoring",
        "font.size": 9,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 8.5,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "ytick.major.size": 0,
        "text.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.7,
        "lines.markersize": 4,
        "path.simplify": True,
    }


@contextmanager
def of_any_text() -> Iterator[None]:
    """Draws every text as it is: `$` begins no formula, and a script that matplotlib's own font lacks is no warning."""
    from matplotlib import rc_context

    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), rc_context({"text.parse_math": False, "text.usetex": False}):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
