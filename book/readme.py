"""README.md is nbs/index.ipynb in plain Markdown: no Quarto needed, and the figure is a small
file beside it.

    python book/readme.py [--check]      (--check: exit with 1 and say so when README.md is
    out of step)
"""
import argparse
import pathlib
import re
import sys

import nbformat

sys.path.append(str(pathlib.Path(__file__).parent))
import nbdev_reader
import quarto_to_myst

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = "book/figures/readme.svg"
NAMES = {"eq": "the equation", "fig": "the figure", "tbl": "the table", "sec": "the section"}


def readme(
    notebook: nbformat.NotebookNode,  # the map of the book
    bibliography: str,  # BibTeX
) -> tuple[str, str]:
    "README.md and its figure as SVG."
    figures, parts = [], []
    for cell in notebook.cells:
        parts += (
            [plain(cell.source, bibliography)]
            if cell.cell_type == "markdown"
            else code(cell, figures, bibliography)
        )
    note = (
        "<!-- Made from nbs/index.ipynb by book/readme.py: edit that page and run `make pages`. -->"
    )
    return "\n\n".join([note, *parts]) + "\n", "".join(figures[:1])


def code(cell, figures: list[str], bibliography: str) -> list[str]:
    """A code cell as a fence with its output; of a cell that draws, only the first figure, with its
    caption."""
    options, source = nbdev_reader.directives(cell.source)
    pictures = [
        "".join(o.data["image/svg+xml"])
        for o in cell.outputs
        if "image/svg+xml" in o.get("data", {})
    ]
    if pictures:
        figures += pictures
        caption = plain(str(options.get("fig-cap", "")), bibliography)
        return (
            [f"![{options.get('fig-alt', caption)}]({FIGURE})", caption]
            if len(figures) == 1
            else []
        )
    if not source or nbdev_reader.HIDDEN & options.keys():
        return []
    shown = [f"```python\n{source}\n```"] if options.get("echo") is not False else []
    texts = [text(output) for output in cell.outputs if text(output)]
    return shown + ([f"```text\n{''.join(texts).rstrip()}\n```"] if texts else [])


def text(output) -> str:
    "What one output says in plain text."
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", ""))


def plain(markdown: str, bibliography: str) -> str:
    """Quarto's Markdown without its references, citations, labels and callouts; links from the top
    of the repository."""
    def citation(inner: str) -> str:
        return "; ".join(
            re.sub(r"-?@([\w:-]+)", lambda key: reference(key[1], bibliography), part).strip()
            for part in inner.split(";")
        )

    def translated(token: re.Match) -> str:
        match token.lastgroup:
            case "equation": return f"$${token['tex']}$$"
            case "heading": return f"{token['hashes']} {token['title']}"
            case "cites": return f"({citation(token['inner'])})"
            case "bare": return reference(token["key"], bibliography)
            case "link":
                return re.sub(
                    r"\]\((?![a-z]+:|#|/)(?:\.\./)?",
                    lambda at: "](" if "../" in at[0] else "](nbs/",
                    token[0],
                )
        return token[0]

    return quarto_to_myst.TOKEN.sub(translated, markdown)


def reference(key: str, bibliography: str) -> str:
    """A cross reference or a citation in words; a key that the bibliography lacks ends the program
    with a message."""
    if quarto_to_myst.cross_reference(key):
        return NAMES[key.partition("-")[0].lower()]
    entry = re.search(rf"^@\w+\{{{re.escape(key)},(.*?)^\}}", bibliography, re.M | re.S)
    if not entry:
        sys.exit(f"{key}: no such entry in book/references.bib")
    authors = [
        name.partition(",")[0].strip(" {}")
        for name in re.split(r"\s+and\s+", field(entry[1], "author"))
    ]
    named = authors[0] + (
        " et al." if len(authors) > 2 else f" and {authors[1]}" if len(authors) == 2 else ""
    )
    return f"{named} {field(entry[1], 'year')}".strip()


def field(entry: str, name: str) -> str:
    "One field of a BibTeX entry, or nothing."
    found = re.search(rf"^\s*{name}\s*=\s*\{{(.*?)\}},?\s*$", entry, re.M | re.S)
    return found[1] if found else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit with 1 when README.md is out of step",
    )
    check = parser.parse_args().check
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    made = dict(
        zip(
            ("README.md", FIGURE),
            readme(notebook, (ROOT / "book" / "references.bib").read_text("utf8")),
            strict=True,
        )
    )
    stale = [
        name
        for name, content in made.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text("utf8") != content
    ]
    if check and stale:
        sys.exit(
            f"{' and '.join(stale)} out of step with nbs/index.ipynb: run `python book/readme.py` "
            f"and commit"
        )
    for name in stale:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(made[name], "utf8")


if __name__ == "__main__":
    main()
