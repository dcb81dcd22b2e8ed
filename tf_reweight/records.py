"""What functions report of their work: one base, so that every report can be read, printed and stored alike."""

import abc
import dataclasses

import numpy as np


class Report(abc.ABC):
    """A report, a frozen dataclass: `str` prints it, `to_tables` lays it out for a terminal, `to_dict` is for files."""

    def to_dict(self):
        """Every figure, as plain types."""
        return dataclasses.asdict(self)

    def to_tables(self):
        """The same as rich tables: one with the single figures, and one for each list of entries."""
        return tables_of(self.to_dict(), type(self).__name__)

    def __str__(self):
        return printed(self.to_tables())


def tables_of(figures, title):
    """Rich tables of a report's figures.

    Args:
        figures: mapping of names to numbers, words, mappings, or lists of dicts with the same keys.
        title: of the table with the single figures.
    """
    from rich.table import Table

    entries = {name: value for name, value in figures.items() if _is_list_of_dicts(value)}
    single = Table("figure", "value", title=title)
    for name, value in figures.items():
        if name not in entries and value not in ([], (), {}, None):
            single.add_row(name, _cell(value))
    tables = [single] if single.row_count else []
    for name, rows in entries.items():
        table = Table(*rows[0], title=name)
        for row in rows:
            table.add_row(*map(_cell, row.values()))
        tables.append(table)
    return tables


def fields_of(record):
    """The fields of a dataclass, by name; numbers of NumPy as Python's."""
    return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def plain(value):
    """A number of NumPy, alone or in lists and tuples, as Python's, which configurations and JSON hold; all else as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, np.integer):
        return int(value)
    return float(value) if isinstance(value, np.floating) else value


def printed(tables):
    """Rich tables as plain text."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, no_color=True)
    for table in tables:
        console.print(table)
    return console.file.getvalue().rstrip("\n")


def _is_list_of_dicts(value):
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(item, dict) for item in value)


def _cell(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_cell(item)}" for name, item in value.items())
    return ", ".join(map(_cell, value)) if isinstance(value, (list, tuple)) else str(value)
