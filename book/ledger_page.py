"""The ledger of claims as a page that sorts and filters without a network: a table of the stored
results, and book/static/ledger.js."""

import html
import importlib
import pathlib

from mimo_jax.cli.main import CHAPTERS
from mimo_jax.ledger import VERDICTS, group, ledger, tally

PAGE = "book/ledger.md"
COLUMNS = ("chapter", "place", "claim", "allowed", "ours", "verdict", "kind")
FILTERS = ("chapter", "kind", "verdict")
INTRODUCTION = """# The ledger

> Every number and every comparing sentence of the papers has a rule, our value with its interval,
> and a verdict that follows from them.

Formulas, measurements and comparing sentences are counted apart, and so are stand-ins: rows that
were tested under other conditions than the paper's. Under our value stands its 95 % interval, under
what is allowed the reason. Click a column to sort by it; the fields above the table filter it. The
rules are those of
[the page on the ledger](../nbs/00_core/05_ledger.ipynb); `mimo-jax report` prints the same rows.
"""


def write(root: pathlib.Path) -> None:
    "Write book/ledger.md from the stored results of every chapter."
    ledgers = {chapter: rows_of(root, chapter) for chapter in CHAPTERS}
    counts = "\n\n".join(count_table(chapter, rows) for chapter, rows in ledgers.items())
    rows = [row for chapter in ledgers.values() for row in chapter]
    text = f"{INTRODUCTION}\n{counts}\n\n```{{raw}} html\n{table(rows)}\n```\n"
    path = root / PAGE
    if not path.exists() or path.read_text("utf8") != text:
        path.write_text(text, "utf8")


def rows_of(root: pathlib.Path, chapter: str) -> list[dict]:
    "The judged rows of a chapter."
    experiment = importlib.import_module(f"mimo_jax.{chapter}.experiment").experiment
    return ledger(experiment, root=root / "results")


def count_table(chapter: str, rows: list[dict]) -> str:
    "How many rows of each group have each verdict, as Markdown."
    counted = tally(rows)
    names = list(counted[0])
    lines = [f"| {chapter} | " + " | ".join(names[1:]) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in counted]
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def cells(row: dict) -> list[str]:
    "What a row of the table shows, by column."
    ours = f"{number(row['value'])} {row['unit']}".strip() if row["value"] is not None else ""
    return [row["chapter"], row["place"], row["quantity"], row["rule"], ours, row["verdict"],
            group(row)]


def interval(row: dict) -> str:
    "The interval of a measured value."
    wide = row["low"] is not None and row["low"] != row["high"]
    return f"{number(row['low'])} … {number(row['high'])}" if wide else ""


def table(rows: list[dict]) -> str:
    "The rows as HTML; each carries its notes as a second line of the claim."
    head = "".join(
        f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS)
    body = "\n".join(line(row) for row in rows)
    return (f'<div class="ledger">\n{controls(rows)}\n<div class="ledger-scroll"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></div>\n"
            '<script src="../_static/ledger.js"></script>')


def line(row: dict) -> str:
    "One row of the table."
    shown = dict(zip(COLUMNS, map(html.escape, cells(row)), strict=True))
    stand_in = row["stand_in"] and f"stand-in: {row['stand_in']}"
    shown["claim"] += small(row["reason"]) + small(stand_in)
    bound, _, why = row["rule"].partition(" (")
    shown["allowed"] = html.escape(bound) + small(why[:-1])
    shown["ours"] += small(interval(row))
    place = VERDICTS.index(row["verdict"])
    return f'<tr class="verdict-{place}">' + "".join(
        f"<td>{text}</td>" for text in shown.values()) + "</tr>"


def small(note: str | None) -> str:
    "A second line of a cell."
    return f"<small>{html.escape(note)}</small>" if note else ""


def controls(rows: list[dict]) -> str:
    "A field to search in, and a choice for each column that has few values."
    found = ['<input type="search" placeholder="Search" aria-label="Search the ledger">']
    for name in FILTERS:
        values = sorted({cells(row)[COLUMNS.index(name)] for row in rows})
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        found.append(f'<select data-column="{COLUMNS.index(name)}" aria-label="{name}">'
                     f'<option value="">every {name}</option>{options}</select>')
    return "\n".join([*found, '<output aria-live="polite"></output>'])
