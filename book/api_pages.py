"""One API page per module, written from the source of the package: a new module appears by
itself, and nothing is imported.

Docstrings are in the pages' own Markdown, with formulas and references, so they go through the
same translation as the pages.
"""

import ast
import copy
import pathlib
import re
from itertools import groupby

import docments
import quarto_to_myst

FOLDER = "book/api/"
CALLED = ("__init__", "__call__")  # the two special methods that users of a network need


def write(root: pathlib.Path, exports: list[docments.Export]):
    "Write book/api/: an index and a page per module; remove the pages of modules that are gone."
    modules = {module: list(group) for module, group in groupby(exports, key=lambda e: e.module)}
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    sources = {module: source_of(root, module) for module in modules}
    pages = {
        f"{m}.md": module_page(m, sources[m], names, docments.linker(exports, m))
        for m, names in modules.items()
    }
    pages["index.md"] = index_page(sources)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text("utf8") != text:
            (folder / name).write_text(text, "utf8")


def source_of(root: pathlib.Path, module: str) -> str:
    "The source of a module of the package."
    path = root.joinpath(*module.split("."))
    return (
        path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    ).read_text("utf8")


def index_page(sources: dict[str, str]) -> str:
    "Every module with its one line."
    rows = "\n".join(
        f"* - {{py:mod}}`{module}`\n  - {told(source, str)}" for module, source in sources.items()
    )
    return (
        f"# API reference\n\nThe package is exported from the pages of this book: one page, one "
        f"module.\n\n"
        f"```{{list-table}}\n:class: parameters\n:header-rows: 1\n\n* - module\n  - what it holds\n"
        f"{rows}\n```\n"
    )


def told(source: str, text) -> str:
    "The docstring of a module, function or class, translated."
    node = ast.parse(source) if isinstance(source, str) else source
    return text(ast.get_docstring(node) or "")


def module_page(module: str, source: str, exports: list[docments.Export], link) -> str:
    "One module: its docstring, the page that tells it, and all it exports."
    def text(markdown): return quarto_to_myst.myst(markdown, link)
    page = re.search(r"File to edit: (?:\.\./)*(nbs/.+)\.ipynb", source)
    where = f"\n\nExplained on the page {{doc}}`/{page[1]}`." if page else ""
    notes = docments.comments(source)
    known = imported(source, module) | {
        e.node.name: f"{module}.{e.node.name}" for e in exports if isinstance(e.node, ast.ClassDef)
    }
    parts = [entry(e.node, notes, text, known) for e in exports]
    return (
        f"# {module.partition('.')[2] or module}\n\n```{{py:module}} {module}\n```\n\n"
        f"{told(source, text)}{where}\n\n"
        + "\n\n".join(parts)
        + "\n"
    )


def imported(source: str, module: str) -> dict[str, str]:
    """Names that a module imports from the package, by where they are from: chapters may call
    different things by one name."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            origin = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            found |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    return found


class Qualified(ast.NodeTransformer):
    "Writes names out in full."

    def __init__(self, known: dict[str, str]):
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.known.get(node.id, node.id))


def entry(node: ast.AST, notes: dict, text, known: dict[str, str], kind: str = "function") -> str:
    """One function, class or constant with docstring and parameters; a class with its public
    methods."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        value = f":value: {ast.unparse(node.value)[:200]}\n\n" if node.value else ""
        return fenced(
            "data", docments.name_of(node), value + text(notes.get(node.end_lineno, (0, ""))[1])
        )
    inner = [told(node, text)]
    rows = docments.parameters(node, notes)
    with_table = any(row.meaning for row in rows)
    if with_table:
        inner.append(
            docments.as_table(
                "field" if isinstance(node, ast.ClassDef) else "parameter", rows, text
            )
        )
    if isinstance(node, ast.ClassDef):
        inner += [entry(method, notes, text, known, "method") for method in methods(node)]
    if kind == "method" and any(
        "property" in ast.unparse(decorator) for decorator in node.decorator_list
    ):
        returns = Qualified(known).visit(copy.deepcopy(node.returns)) if node.returns else None
        return fenced(
            "property",
            node.name,
            (f":type: {docments.as_written(returns)}\n\n" if returns else "") + "\n\n".join(inner),
        )
    kind = "class" if isinstance(node, ast.ClassDef) else kind
    return fenced(kind, signature(node, with_table, known), "\n\n".join(inner))


def methods(node: ast.ClassDef) -> list[ast.AST]:
    "Methods worth showing: public ones and the two that build and call a network."
    found = [f for f in node.body if isinstance(f, ast.FunctionDef)]
    return [f for f in found if f.name in CALLED or not f.name.startswith("_")]


def signature(node: ast.AST, told: bool, known: dict[str, str]) -> str:
    "Name, parameters and what is returned; types of parameters only where no table tells them."
    if isinstance(node, ast.ClassDef):
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
        shown = [ast.unparse(f.target) + (f"={default(f.value)}" if f.value else "")
                 for f in fields]
        return f"{node.name}({', '.join(shown)})" if fields else node.name
    args = copy.deepcopy(node.args)
    for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if arg and arg.annotation:
            arg.annotation = None if told else Qualified(known).visit(arg.annotation)
    returns = Qualified(known).visit(copy.deepcopy(node.returns)) if node.returns else None
    back = f" -> {ast.unparse(returns)}" if returns else ""
    return f"{node.name}({re.sub('^(self|cls)(, )?', '', ast.unparse(args))}){back}"


def default(value: ast.AST) -> str:
    "A field's default; `...` where it unpacks other tuples, which Sphinx cannot parse."
    unpacks = any(isinstance(part, ast.Starred) for part in ast.walk(value))
    return "..." if unpacks else ast.unparse(value)


def fenced(kind: str, head: str, body: str) -> str:
    "A directive of Sphinx's Python domain, fenced by more colons than anything inside it."
    colons = ":" * max([4] + [1 + len(run) for run in re.findall(r"^:{3,}", body, re.M)])
    return f"{colons}{{py:{kind}}} {head}\n{body}\n{colons}"
