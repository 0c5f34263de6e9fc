"""Charts as inline SVG: text stays text, colours come from the page's style and follow its colour scheme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 22, 36
MOST_POINTS = 600  # of a curve; more cannot be seen
LOGARITHMIC_FROM = 50  # largest value divided by smallest

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A scale: values to places between ``start`` and ``end`` of the picture.

    Args:
        low, high: values at the ends.
        start, end: places of the ends.
        logarithmic: whether equal ways are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        change = math.log if self.logarithmic else float
        share = (change(value) - change(self.low)) / (change(self.high) - change(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values within the ends."""
        if not self.logarithmic:
            found = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        else:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = self.high / self.low > 1000
            found = [digit * 10.0**power for power in powers for digit in ((1,) if wide else (1, 2, 5))]
        margin = 1e-9 * (self.high - self.low)
        return [float(value) for value in found if self.low - margin <= value <= self.high + margin]


def number(value: float) -> str:
    """Short, for the label of a tick."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value / 1e3:g}k" if size >= 1e4 else f"{value:,.4g}"


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about so many points: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = [points[0]]
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [*kept, points[-1]]


def _vertical(values: Sequence[float], may_be_logarithmic: bool) -> Axis:
    low, high = min(values), max(values)
    logarithmic = may_be_logarithmic and low > 0 and high / low > LOGARITHMIC_FROM
    if logarithmic:
        low, high = low / 1.2, high * 1.2
    else:
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        low, high = (0.0 if 0 <= low < 0.35 * high else low - margin), high + margin
    return Axis(low, high, HEIGHT - BOTTOM, TOP, logarithmic)


def _grid(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    """Tick lines, their numbers, and what the axes are."""
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(LEFT, WIDTH - RIGHT, y(value))
        + Markup('<text class="tick" text-anchor="end" x="{}" y="{}">{}</text>').format(
            LEFT - 6, y(value) + 4, number(value)
        )
        for value in y.ticks()
    ]
    parts += [
        Markup('<text class="tick" text-anchor="middle" x="{}" y="{}">{}</text>').format(
            x(value), HEIGHT - BOTTOM + 15, number(value)
        )
        for value in x.ticks()
    ]
    y_label += ", logarithmic" if y.logarithmic else ""
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        Markup('<text class="axis" text-anchor="middle" x="{}" y="{}">{}</text>').format(middle, HEIGHT - 4, x_label)
    )
    parts.append(Markup('<text class="axis" x="4" y="12">{}</text>').format(y_label))
    return Markup("").join(parts)


def _picture(name: str, title: str, description: str, body: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-title {n}-about">'
        '<title id="{n}-title">{title}</title><desc id="{n}-about">{about}</desc>{body}</svg>'
    ).format(w=WIDTH, h=HEIGHT, n=name, title=title, about=description, body=body)


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Sequence[Point]],
    y_label: str,
    bounds: Sequence[float],
    may_be_logarithmic: bool = True,
) -> Markup:
    """Curves over updates, one a phase.

    Args:
        name: start of the ids, unique on the page.
        title: what is drawn, for those who do not see it.
        lines: points (update, value) of each phase, not finite values left out; one of them may be empty.
        y_label: the quantity, with its unit.
        bounds: the first update, the end of phase 1 where there are two phases, the last update.
        may_be_logarithmic: whether values of very different size get a logarithmic scale.
    """
    x = Axis(bounds[0], max(bounds[-1], bounds[0] + 1), LEFT, WIDTH - RIGHT)
    y = _vertical([value for line in lines for _, value in line], may_be_logarithmic)
    parts = [_phases(x, bounds)] if len(bounds) == 3 else []
    parts.append(_grid(x, y, "updates", y_label))
    for index, line in enumerate(lines):
        places = [f"{x(step)},{y(value)}" for step, value in thinned(line)]
        if len(places) > 1:
            parts.append(Markup('<polyline class="line phase{}" points="{}"/>').format(index + 1, " ".join(places)))
        if len(line) <= 40:
            parts += [_dot(x, y, point, index + 1) for point in line]
    ends = [f"{number(line[0][1])} to {number(line[-1][1])}" for line in lines if line]
    return _picture(name, title, f"{title}: {', then '.join(ends)}.", Markup("").join(parts))


def _dot(x: Axis, y: Axis, point: Point, phase: int) -> Markup:
    step, value = point
    return Markup('<circle class="dot phase{}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>').format(
        phase, x(step), y(value), f"update {step:,.0f}: {value:.4g}"
    )


def _phases(x: Axis, bounds: Sequence[float]) -> Markup:
    """Phase 1 on a ground of its own."""
    width = x(bounds[1]) - LEFT
    ground = Markup('<rect class="ground" x="{}" y="{}" width="{}" height="{}"/>').format(
        LEFT, TOP, width, HEIGHT - BOTTOM - TOP
    )
    label = Markup('<text class="tick" text-anchor="middle" x="{}" y="{}">{}</text>')
    names = [(bounds[0], bounds[1], "phase 1"), (bounds[1], bounds[2], "phase 2")]
    wide = [(low, high, text) for low, high, text in names if x(high) - x(low) > 50]
    return ground + Markup("").join(label.format((x(low) + x(high)) / 2, TOP + 13, text) for low, high, text in wide)


@dataclass(frozen=True)
class Setting:
    """One way to decode: a letter for the picture, and (speed, quality) of teacher and student."""

    letter: str
    label: str
    teacher: Point
    student: Point


def speed_chart(name: str, title: str, settings: Sequence[Setting], quality: str, speed: str) -> Markup:
    """An arrow from teacher to student for each way to decode; speed is logarithmic, so that arrows compare."""
    points = [point for setting in settings for point in (setting.teacher, setting.student)]
    speeds = [point[0] for point in points]
    x = Axis(min(speeds) / 1.3, max(speeds) * 1.3, LEFT, WIDTH - RIGHT, logarithmic=True)
    y = Axis(0, 1.12 * max([1.0, *(value for _, value in points)]), HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, f"{speed}, logarithmic", quality)]
    parts += [_arrow(x, y, setting) for setting in settings]
    about = "; ".join(
        f"{s.label}: teacher {s.teacher[1]:.1f} at {s.teacher[0]:,.0f} {speed}, "
        f"student {s.student[1]:.1f} at {s.student[0]:,.0f}"
        for s in settings
    )
    return _picture(name, title, about, Markup("").join(parts))


def _arrow(x: Axis, y: Axis, setting: Setting) -> Markup:
    (x1, y1), (x2, y2) = ((x(speed), y(value)) for speed, value in (setting.teacher, setting.student))
    line = Markup('<line class="way" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, y1, x2, y2)
    mark = Markup(
        '<g class="{side}"><circle cx="{x}" cy="{y}" r="8"/>'
        '<text text-anchor="middle" x="{x}" y="{low}">{letter}</text><title>{about}</title></g>'
    )
    marks = [
        mark.format(side=side, x=place[0], y=place[1], low=place[1] + 3.6, letter=setting.letter, about=about)
        for side, place, about in (
            ("teacher", (x1, y1), f"teacher, {setting.label}"),
            ("student", (x2, y2), f"student, {setting.label}"),
        )
    ]
    return line + Markup("").join(marks)


def histogram(
    name: str, title: str, values: Sequence[float], x_label: str, *, high: float = 2.0, bins: int = 20
) -> Markup:
    """How many values lie where; the last bar holds all beyond ``high``."""
    counts = [0] * (bins + 1)
    for value in values:
        counts[min(int(value / high * bins + 1e-9), bins)] += 1
    step = high / bins
    x = Axis(0, high + step, LEFT, WIDTH - RIGHT)
    y = Axis(0, 1.08 * max(counts), HEIGHT - BOTTOM, TOP)
    bars = [_grid(x, y, x_label, "sentences")]
    for index, count in enumerate(counts):
        span = f"{index * step:.1f} to {(index + 1) * step:.1f}" if index < bins else f"{high:g} and more"
        bars.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                round(x(index * step) + 0.5, 1),
                y(count),
                round(x(step) - x(0) - 1, 1),
                round(y(0) - y(count), 1),
                f"{span}: {count}",
            )
        )
    one = Markup('<line class="way" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(1), TOP, HEIGHT - BOTTOM)
    near = sum(0.9 <= value < 1.1 for value in values)
    about = f"{near} of {len(values)} outputs are within a tenth of the teacher's length."
    return _picture(name, title, about, Markup("").join(bars) + one)
