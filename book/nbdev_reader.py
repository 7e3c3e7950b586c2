"""The book's Sphinx extension: reads nbdev pages in memory, writes the API pages from the
package, numbers pages by chapter.

A page's cells are changed on the way into Sphinx only; the notebooks stay as they are, and
nothing is executed.
"""

import ast
import pathlib
import re
import sys

import nbformat
import yaml

sys.path.append(str(pathlib.Path(__file__).parent))
import api_pages
import docments
import quarto_to_myst

DIRECTIVE = re.compile(r"[ \t]*#[ \t]*\|[ \t]?(.*)")
EXPORTED, HIDDEN = {"export", "exporti", "exports"}, {"hide", "default_exp"}
CONTINUED = re.compile(r"^[ \t]+|^[\w-]+:")


def page(
    notebook: nbformat.NotebookNode,  # as nbformat reads it; changed in place
    exports: list[docments.Export] = (),  # what the package exports, for links
    numbers: dict[str, str] | None = None,  # label of an equation -> its number
) -> nbformat.NotebookNode:
    "An nbdev page as MyST-NB wants it. Raises `QuartoError` for what it cannot show."
    home = next(
        (
            m[1]
            for cell in notebook.cells
            if (m := re.search(r"^#\| *default_exp +(\S+)", cell.source, re.M))
        ),
        "",
    )
    link = docments.linker(exports, f"mimo_jax.{home}")
    cells = []
    for cell in notebook.cells:
        cells += code_cell(cell, link, numbers or {}) if cell.cell_type == "code" else [cell]
        if cell.cell_type == "markdown":
            cell.source = quarto_to_myst.myst(cell.source, link)
    notebook.cells = joined_imports(cells)
    return notebook


def directives(source: str) -> tuple[dict, str]:
    "nbdev's flags and Quarto's options at the head of a cell, and the code without them."
    lines = source.split("\n")
    count = next((i for i, line in enumerate(lines) if not DIRECTIVE.match(line)), len(lines))
    told = [DIRECTIVE.match(line)[1] for line in lines[:count]]
    options = yaml.safe_load("\n".join(line for line in told if CONTINUED.match(line))) or {}
    flags = {line.split()[0]: True for line in told if line.strip() and not CONTINUED.match(line)}
    return flags | options, "\n".join(lines[count:]).strip("\n")


def code_cell(cell, link, numbers) -> list[nbformat.NotebookNode]:
    "No cell, one, or one and the tables of parameters of the functions that it exports."
    options, source = directives(cell.source)
    if (
        HIDDEN & options.keys()
        and (not source or "hide" in options)
        or options.get("include") is False
        or not source
    ):
        return []
    tables = docments.documented(source) if EXPORTED & options.keys() else []
    cell.source = referred(docments.bare(source) if tables else source, numbers)
    cell.metadata = nbformat.NotebookNode(
        tags=[*cell.metadata.get("tags", []), *tags(options, source)], mystnb=figure(options, link)
    )
    return [cell] + [table_cell(cell, names, rows, link) for names, rows in tables]


def referred(source: str, numbers: dict[str, str]) -> str:
    "Code in which docstrings and comments refer to equations by number, as readers see them."
    def number(match): return f"Eq. {numbers.get(match[1], match[1].removeprefix('eq-'))}"
    return re.sub(r"(?<![\w@])@(eq-[\w-]*\w)", number, source)


def equation_numbers(root: pathlib.Path) -> dict[str, str]:
    "The number of every labeled equation: those of its page, and its place on the page."
    found = {}
    for path in sorted(root.glob("nbs/*/*.ipynb")):
        docname = str(path.relative_to(root).with_suffix(""))
        where = (*chapter(docname), int(path.name[:2]))
        cells = nbformat.read(path, as_version=4).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for place, label in enumerate(re.findall(r"\$\$\s*\{#(eq-[\w-]+)\}", prose), 1):
            found[label] = ".".join(map(str, (*where, place)))
    return found


def table_cell(cell, names, rows, link) -> nbformat.NotebookNode:
    "The parameters of one function, or of several that take the same, as a Markdown cell."
    def text(markdown): return quarto_to_myst.myst(markdown, link)
    title = text(" ".join(f"`{name}`" for name in names))
    return nbformat.v4.new_markdown_cell(
        docments.as_table(title, rows, text), id=f"{cell.id}-{names[0]}"[:64]
    )


def tags(options: dict, source: str) -> list[str]:
    "MyST-NB's tags for what to fold and what to leave out."
    rules = {
        "hide-input": imports_only(source) or options.get("code-fold") in (True, "show"),
        "remove-input": options.get("echo") is False or "hide_input" in options,
        "remove-output": options.get("output") is False or "hide_output" in options,
    }
    return [tag for tag, holds in rules.items() if holds]


def figure(options: dict, link) -> dict:
    "`label` and `fig-cap` make the cell's picture a numbered figure; `fig-alt` says what it shows."
    label, caption = options.get("label"), options.get("fig-cap")
    if bool(label) != bool(caption) or label and not str(label).startswith("fig-"):
        raise quarto_to_myst.QuartoError(
            f"label={label!r}, fig-cap={caption!r}: a cell needs both or neither, and a label that "
            f"starts with fig-"
        )
    image = {"alt": options["fig-alt"]} if "fig-alt" in options else {}
    return {"image": image} | (
        {"figure": {"name": label, "caption": quarto_to_myst.myst(str(caption), link)}}
        if label
        else {}
    )


def imports_only(source: str) -> bool:
    "Whether a cell does nothing but import. IPython's magics are no Python, so no imports."
    try:
        return all(
            isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body
        )
    except SyntaxError:
        return False


def joined_imports(cells: list) -> list:
    "Neighboring import cells as one fold."
    kept = []
    for cell in cells:
        folds = cell.cell_type == "code" and not cell.outputs and imports_only(cell.source)
        if (
            folds
            and kept
            and kept[-1].metadata.get("mystnb", {}).get("code_prompt_show") == "Imports"
        ):
            kept[-1].source += "\n\n" + cell.source
        else:
            kept.append(cell)
        if folds:
            kept[-1].metadata.mystnb = {
                "code_prompt_show": "Imports",
                "code_prompt_hide": "Imports",
            }
    return kept


def read(app, docname: str, source: list[str]):
    """Sphinx's event `source-read`: translate a page before it is parsed; what cannot be shown is a
    warning, and so an error."""
    from sphinx.util import logging

    path = pathlib.Path(app.env.doc2path(docname))
    try:
        if path.suffix == ".ipynb":
            source[0] = nbformat.writes(
                page(
                    nbformat.reads(source[0], as_version=4),
                    app.config.exported_names,
                    app.config.equation_numbers,
                )
            )
        elif not docname.startswith(api_pages.FOLDER):
            source[0] = quarto_to_myst.myst(source[0], docments.linker(app.config.exported_names))
    except quarto_to_myst.QuartoError as error:
        logging.getLogger(__name__).warning(str(error), location=docname)


def collect(app, config):
    "Sphinx's event `config-inited`: write the API pages and the ledger from package and results."
    root = pathlib.Path(app.srcdir)
    config.exported_names = (
        docments.exports(root / "mimo_jax") if (root / "mimo_jax").is_dir() else []
    )
    config.equation_numbers = equation_numbers(root)
    if config.exported_names:
        api_pages.write(root, config.exported_names)
    if config.exported_names and (root / "results").is_dir():
        import ledger_page  # imports the package, which a book of pages alone does not need

        ledger_page.write(root)


CHAPTERS_PART = 5  # first digit of the folders of chapters
LETTERS = "ABCDE-----"  # of the folders before them, by their first digit


def chapter(docname: str) -> tuple[int | str, ...]:
    """What a page's number begins with: 1 in nbs/51_autoencoder, a letter in the folders before the
    chapters (B in nbs/10_phy)."""
    found = re.match(r"nbs/(\d)(\d)_\w+/", docname)
    if found is None:
        return ()
    part, number = (int(digit) for digit in found.groups())
    return (number if part == CHAPTERS_PART else LETTERS[part],)


def number_by_chapter(collector, env):
    """Sphinx numbers all pages 1, 2, 3 ...; put chapter and position in the chapter in place of
    that, everywhere."""
    from sphinx.addnodes import compact_paragraph
    from sphinx.environment.collectors.toctree import TocTreeCollector

    changed, first = TocTreeCollector.assign_section_numbers(collector, env), {}
    for docname, numbers in env.toc_secnumbers.items():
        where = chapter(docname)
        start = first.setdefault(where, env.titles[docname]["secnumber"][0])

        def place(number, where=where, start=start):
            return number and (*where, number[0] - start + 1, *number[1:])

        env.toc_secnumbers[docname] = {anchor: place(number) for anchor, number in numbers.items()}
        for titled in [
            env.titles[docname],
            *(entry[0] for entry in env.tocs[docname].findall(compact_paragraph)),
        ]:
            titled["secnumber"] = place(titled.get("secnumber"))
    return changed


def setup(app):
    "Hook everything in."
    from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

    TocTreeCollectorWithStyles.assign_section_numbers = (
        number_by_chapter  # numbering styles of the table of contents are not used here
    )
    app.add_config_value("exported_names", [], "")
    app.add_config_value("equation_numbers", {}, "")
    app.connect("config-inited", collect, priority=100)
    app.connect("source-read", read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
