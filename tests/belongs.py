"""Which test files belong to a folder of nbs/, for `make test CHAPTER=...`.

    python tests/belongs.py 52_csi      (or csi; prints the files; without a folder all of them)

The rule: a test file belongs to every folder of which it imports a module. What imports of none,
such as
the tests of the book and of the house, belongs to 00_core, with what imports modules of the top
level.
"""
import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.name for path in (ROOT / "nbs").glob("[0-9][0-9]_*"))
CORE = "00_core"


def imported(source: str) -> set[str]:
    "Dotted names that a piece of source imports, at its top or inside of functions."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folders(source: str) -> set[str]:
    "The folders that a test file belongs to."
    packages = {folder.partition("_")[2]: folder for folder in FOLDERS}
    names = {name for name in imported(source) if name.split(".")[0] == "mimo_jax"}
    return {packages.get((name.split(".") + [""])[1], CORE) for name in names} or {CORE}


def files(chapter: str = "") -> list[pathlib.Path]:
    """The test files of a folder, by its name with or without number; all without a folder.

    Raises `ValueError` if there is no such folder.
    """
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    if not chapter:
        return tests
    known = [folder for folder in FOLDERS if chapter in (folder, folder.partition("_")[2])]
    if not known:
        raise ValueError(f"CHAPTER={chapter}: no such folder; choose one of {' '.join(FOLDERS)}")
    return [path for path in tests if known[0] in folders(path.read_text("utf8"))]


if __name__ == "__main__":
    try:
        print(*(path.relative_to(ROOT) for path in files(*sys.argv[1:])))
    except ValueError as wrong:
        sys.exit(str(wrong))
