"""What stands in the source of the package: exported names, and per-parameter comments (docments)
as tables. Nothing is imported."""

import ast
import io
import pathlib
import re
import tokenize
from typing import NamedTuple

WIDTH = 96  # a signature that fits into so many characters is shown on one line


class Parameter(NamedTuple):
    "One row of a table of parameters."

    name: str  # parameter, field, or "returns"
    kind: str  # its annotation, as written
    default: str  # its default, as written
    meaning: str  # the comment beside it


class Export(NamedTuple):
    "One name that a module of the package exports."

    name: str  # as written in `__all__`
    module: str  # full name of its module
    node: ast.AST  # its definition


def comments(source: str) -> dict[int, tuple[int, str]]:
    "Line number -> column and text of the comment on that line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        t.start[0]: (t.start[1], t.string.lstrip("# "))
        for t in tokens
        if t.type == tokenize.COMMENT
    }


def parameters(
    node: ast.AST,  # a function or a class
    notes: dict[int, tuple[int, str]],  # the comments of its source
) -> list[Parameter]:
    """The parameters of a function, or the fields of a class, each with the comment on the line
    where it ends."""
    if isinstance(node, ast.ClassDef):
        fields = [
            (f.target.id, f.annotation, f.value, f.end_lineno)
            for f in node.body
            if isinstance(f, ast.AnnAssign)
        ]
        return [_row(*field, notes) for field in fields]
    body = node.body[0].lineno
    rows = [
        (star + p.arg, p.annotation, d, max(p.end_lineno, getattr(d, "end_lineno", 0)))
        for star, p, d in arguments(node.args)
    ]
    if node.returns is not None:
        rows.append(("returns", node.returns, None, node.returns.end_lineno))
    last = {
        line: name for name, *_, line in rows
    }  # a comment belongs to the last parameter on its line
    return [
        _row(name, kind, default, line if line < body and last[line] == name else 0, notes)
        for name, kind, default, line in rows
    ]


def arguments(a: ast.arguments) -> list[tuple[str, ast.arg, ast.AST | None]]:
    "Stars, argument and default of every argument, as written, but for self and cls."
    plain = a.posonlyargs + a.args
    found = list(
        zip(
            [""] * len(plain),
            plain,
            [None] * (len(plain) - len(a.defaults)) + a.defaults,
            strict=True,
        )
    )
    found += [("*", a.vararg, None)] * bool(a.vararg) + list(
        zip([""] * len(a.kwonlyargs), a.kwonlyargs, a.kw_defaults, strict=True)
    )
    return [
        row
        for row in found + [("**", a.kwarg, None)] * bool(a.kwarg)
        if row[1].arg not in ("self", "cls")
    ]


def _row(name, kind, default, line, notes) -> Parameter:
    kind, help_text = annotated(kind)
    return Parameter(
        name,
        *("" if part is None else as_written(part) for part in (kind, default)),
        notes.get(line, (0, help_text))[1],
    )


def annotated(kind: ast.AST | None) -> tuple[ast.AST | None, str]:
    """Type and help text of `Annotated[type, typer.Option(help=...)]`, as the commands have it;
    what the text computes is left out."""
    if not (
        isinstance(kind, ast.Subscript)
        and ast.unparse(kind.value) == "Annotated"
        and isinstance(kind.slice, ast.Tuple)
    ):
        return kind, ""
    texts = [
        word.value
        for node in kind.slice.elts[1:]
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "help"
    ]
    parts = [
        part
        for text in texts[:1]
        for part in (text.values if isinstance(text, ast.JoinedStr) else [text])
    ]
    return kind.slice.elts[0], "".join(
        part.value if isinstance(part, ast.Constant) else "…" for part in parts
    )


def as_written(node: ast.AST) -> str:
    "An expression in the quotes of the house, which are double."
    text = ast.unparse(node)
    return text if '"' in text else text.replace("'", '"')


def definitions(source: str) -> list[ast.AST]:
    "Functions and classes at the top of a piece of source."
    return [
        node
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]


def documented(source: str) -> list[tuple[list[str], list[Parameter]]]:
    """The public functions and classes of a cell with at least one such comment, and their
    parameters; those with the same ones together."""
    notes = comments(source)
    found: dict[tuple, list[str]] = {}
    for node in definitions(source):
        if not node.name.startswith("_"):
            found.setdefault(tuple(parameters(node, notes)), []).append(node.name)
    return [
        (names, list(rows)) for rows, names in found.items() if any(row.meaning for row in rows)
    ]


def bare(source: str) -> str:
    """The same code without the comments that the table shows, and with signatures on one line
    where they fit."""
    notes, lines = comments(source), source.split("\n")
    for node in reversed(definitions(source)):
        if isinstance(node, ast.ClassDef):
            numbers = [field.end_lineno for field in node.body if isinstance(field, ast.AnnAssign)]
        else:
            numbers = range(node.lineno, node.body[0].lineno)
        for number in numbers if not node.name.startswith("_") else []:
            if number in notes:
                lines[number - 1] = lines[number - 1][: notes[number][0]].rstrip()
        if not isinstance(node, ast.ClassDef):
            head = slice(node.lineno - 1, max(node.lineno, node.body[0].lineno - 1))
            lines[head] = one_line(lines[head])
    return "\n".join(lines)


def one_line(head: list[str]) -> list[str]:
    "A signature on one line, if it holds no comment and fits."
    whole = re.sub(
        r",? \)", ")", re.sub(r"\( ", "(", " ".join(line.strip() for line in head).rstrip())
    )
    return (
        [whole]
        if len(whole) <= WIDTH and "#" not in whole and len(head) > 1 and not head[-1].strip() == ""
        else head
    )


def exports(package: pathlib.Path) -> list[Export]:
    "Every name in an `__all__` of the package, in the order of the source."
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text("utf8"))
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        public = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and name_of(node) == "__all__"
        ]
        found += [
            Export(name_of(node), module, node)
            for node in tree.body
            if public and name_of(node) in public[0]
        ]
    return found


def name_of(node: ast.AST) -> str:
    "What a definition or an assignment defines."
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return getattr(node, "name", "") or getattr(targets[0], "id", "")


def linker(found: list[Export], here: str = ""):
    """A function name -> full name: short if it is unique or exported by the module `here`, else
    only with its module before it."""
    full = {f"{e.module}.{e.name}": f"{e.module}.{e.name}" for e in found} | {
        e.module: e.module for e in found
    }

    def link(name: str) -> str | None:
        homes = [
            e.module for e in found if name in (e.name, f"{e.module.rpartition('.')[2]}.{e.name}")
        ]
        home = here if here in homes else homes[0] if len(set(homes)) == 1 else None
        return full.get(name) or (f"{home}.{name.rpartition('.')[2]}" if home else None)

    return link


def as_table(
    title: str,  # what the table belongs to
    rows: list[Parameter],  # its parameters
    text=lambda markdown: markdown,  # translates the comments, which are Markdown
) -> str:
    "A table of parameters in MyST."
    cells = [(title, "type", "meaning")] + [
        (_code(r.name, r.default), f"`{r.kind}`" if r.kind else "", text(r.meaning))
        for r in rows
        if _told(r)
    ]
    body = "\n".join("* - " + "\n  - ".join(row) for row in cells)
    return f"```{{list-table}}\n:class: parameters\n:header-rows: 1\n\n{body}\n```"


def _told(row: Parameter) -> bool:
    return row.name != "returns" or bool(row.meaning)


def _code(name: str, default: str) -> str:
    return (
        "*returns*" if name == "returns" else f"`{name}`" + (f" `= {default}`" if default else "")
    )
