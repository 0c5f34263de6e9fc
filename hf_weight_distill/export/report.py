"""What an export was found to be, as a table, as Markdown and as plain values."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .parity import Agreement


@dataclass(frozen=True)
class ExportRow:
    """One of the models compared.

    Args:
        model: ``"PyTorch"``, or format and quantization.
        bytes_on_disk: of the files that hold the model, without the tokenizer's.
        tokens_per_second: of greedy search, by batch size.
        agreement: with the PyTorch student; ``None`` for itself.
    """

    model: str
    bytes_on_disk: int
    tokens_per_second: dict[int, float]
    agreement: Agreement | None = None


@dataclass(frozen=True)
class ExportReport:
    """The PyTorch student and what it became, float32 and int8.

    Args:
        rows: PyTorch, float32, int8.
        written: which of the two was written.
        compared: what the largest difference is one of.
        tolerance: for the largest difference in float32.
        largest_loss: for int8, in nats a token.
        environment: device, threads and versions; the speeds hold for it alone.
    """

    rows: tuple[ExportRow, ...]
    written: str
    compared: str
    tolerance: float
    largest_loss: float
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return dataclasses.asdict(self)

    def to_markdown(self) -> str:
        """The table and what its columns mean."""
        lines = ["| " + " | ".join(self._headings()) + " |", "|---" + "|---:" * (len(self._headings()) - 1) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self._cells()]
        return "\n".join([*lines, "", self._notes()]) + "\n"

    def __str__(self) -> str:
        table = Table(title=f"the PyTorch student and its export; written: {self.written}")
        for number, heading in enumerate(self._headings()):
            table.add_column(heading, justify="right" if number else "left")
        for cells in self._cells():
            table.add_row(*cells)
        console = Console(file=io.StringIO(), width=120, highlight=False)
        console.print(table)
        console.print(self._notes())
        return console.file.getvalue()

    def _headings(self) -> list[str]:
        speeds = [f"tokens/s, batch {size}" for size in self.rows[0].tokens_per_second]
        return ["", "same output", "difference", "nats lost", "MB", *speeds]

    def _cells(self) -> list[list[str]]:
        cells = []
        for row in self.rows:
            found = row.agreement
            parity = ["", "", ""] if found is None else [_share(found), f"{found.difference:.1e}", f"{found.loss:.4f}"]
            speeds = [f"{speed:,.0f}" for speed in row.tokens_per_second.values()]
            cells.append([row.model, *parity, f"{row.bytes_on_disk / 1e6:.1f}", *speeds])
        return cells

    def _notes(self) -> str:
        checked = next(row.agreement for row in self.rows if row.agreement is not None)
        setting = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        return (
            f"Greedy search over {checked.sentences} sentences. Difference: the largest of {self.compared}, at most "
            f"{self.tolerance:g} in float32. Nats lost: how much less probable a token of the PyTorch student's output "
            f"is, on average; at most {self.largest_loss:g} in int8. Speeds: {setting}."
        )


def _share(found: Agreement) -> str:
    ties = f", {found.ties} at a tie" if found.ties else ""
    return f"{found.identical} of {found.sentences}{ties}"
