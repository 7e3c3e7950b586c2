"""Execute pages of the book, keep their outputs, clean them, export the package, remake the
table of contents and README.md.

    python book/pages.py [nbs/.../page.ipynb ...]      (without a page: all of them)
"""
import argparse
import os
import pathlib
import subprocess
import sys
import time

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNEL = [
    "--InlineBackend.figure_formats={'svg'}",
    "--InlineBackend.print_figure_kwargs={'bbox_inches': 'tight', 'metadata': {'Date': None}}",
]


def execute(path: pathlib.Path):
    """Run one notebook from top to bottom and write it back whole, with outputs and without
    execution counts."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and "eval: false" not in cell.source:
            cell.outputs = []
    NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=KERNEL,
        skip_cells_with_tag="slow",
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}
    }
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags",)}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    part = path.with_suffix(".tmp")
    nbformat.write(notebook, part)
    os.replace(part, path)


def run(*command: str):
    "One of nbdev's commands, stopping here when it fails."
    subprocess.run(
        [str(pathlib.Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, check=True
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "pages", nargs="*", type=pathlib.Path, help="notebooks to execute (default: all)"
    )
    pages = parser.parse_args().pages or sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    )
    os.environ.setdefault("MATPLOTLIBRC", str(ROOT / "book" / "matplotlibrc"))
    run("nbdev_export")
    for page in pages:
        start = time.time()
        execute(page)
        print(
            f"{page}  {time.time() - start:.0f} s  {page.stat().st_size / 1e3:.0f} kB", flush=True
        )
    run("nbdev_clean")
    run("nbdev_export")
    for script in ("contents.py", "readme.py"):
        subprocess.run([sys.executable, str(ROOT / "book" / script)], check=True)


if __name__ == "__main__":
    main()
