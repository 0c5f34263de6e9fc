"""Numbers as the page writes them."""

from ..card import METRIC_NAMES
from ..progress import clock

NAMES = METRIC_NAMES | {
    "bytes_on_disk": "bytes on disk",
    "tokens_per_second": "tokens/s",
    "sentences_per_second": "sentences/s",
}


def percent(share: float) -> str:
    """``"12 %"``, with a decimal below ten."""
    value = 100 * share
    return (
        f"{value:.0f}\N{NARROW NO-BREAK SPACE}%"
        if value >= 9.95 or not value
        else f"{value:.1f}\N{NARROW NO-BREAK SPACE}%"
    )


def signed(value: float, digits: int) -> str:
    """With its sign and a real minus; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def plain(value: float, digits: int) -> str:
    """With a real minus; what rounds to zero has none."""
    return signed(value, digits).removeprefix("+")


def amount(value: float) -> str:
    """A whole number, or two decimals of a small one."""
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.2f}"


def millions(value: float) -> str:
    """``"6.56 M"``, ``"1.37 B"``."""
    if value < 1e5:
        return f"{value:,.0f}"
    divisor, unit = (1e9, "B") if value >= 9.995e8 else (1e6, "M")
    return f"{value / divisor:.3g}\N{NARROW NO-BREAK SPACE}{unit}"


def times(ratio: float) -> str:
    """``"3.5×"``."""
    return f"{ratio:.1f}\N{MULTIPLICATION SIGN}"


def duration(seconds: float) -> str:
    """``"4.2 s"``, from a minute on ``"1:05"``."""
    return f"{seconds:.1f}\N{NARROW NO-BREAK SPACE}s" if seconds < 59.95 else clock(seconds)


def quantity(name: str) -> str:
    """A score or a measure as people write it."""
    return NAMES.get(name, name)


def search(num_beams: int) -> str:
    """``"greedy"`` or ``"beam 5"``."""
    return "greedy" if num_beams == 1 else f"beam {num_beams}"


def way(row: dict) -> str:
    """How a row of a comparison was decoded; empty where that has no part in it."""
    parts = [search(row["num_beams"])] if row["num_beams"] else []
    parts += [f"batch {row['batch_size']}"] if row["batch_size"] else []
    return ", ".join(parts)
