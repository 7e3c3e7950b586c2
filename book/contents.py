"""The table of contents, for jupyter-book in book/_toc.yml and for Quarto in _quarto.yml, from
the folders of nbs/.

    python book/contents.py      (also run by `make pages`)
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = {  # folder: title, numbered or not
    "00_core": ("Core", True),
    "10_phy": ("Physical layer", True),
    "20_propagation": ("Propagation", True),
    "30_nr": ("5G New Radio", True),
    "40_data": ("Data", True),
    "51_autoencoder": ("Chapter 1: memory and the bit-wise autoencoder", True),
    "52_csi": ("Chapter 2: compressing CSI networks", True),
    "53_split": ("Chapter 3: split learning", True),
    "54_tolerance": ("Chapter 4: error tolerance", True),
    "55_baseband": ("Chapter 5: baseband", True),
    "90_cli": ("Command line", False),
}


def parts(root: pathlib.Path) -> list[tuple[str, bool, list[str]]]:
    "Title, whether it is numbered, and pages of every part that has pages, in order."
    unknown = {path.parent.name for path in root.glob("nbs/[!.]*/*.ipynb")} - PARTS.keys()
    if unknown:
        raise SystemExit(
            f"nbs/{sorted(unknown)[0]}: no such part; name it in PARTS of book/contents.py"
        )
    found = [
        (
            title,
            numbered,
            sorted(
                str(path.relative_to(root).with_suffix(""))
                for path in root.glob(f"nbs/{folder}/*.ipynb")
            ),
        )
        for folder, (title, numbered) in PARTS.items()
    ]
    return [part for part in found if part[2]]


def jupyter_book(contents) -> str:
    "The whole of book/_toc.yml; the pages of the API are whatever the package exports."
    lines = [
        "# Written by book/contents.py from the folders of nbs/.",
        "format: jb-book",
        "root: nbs/index",
    ]
    lines += ["options:", "  titlesonly: true", "parts:"]
    for title, numbered, pages in contents:
        lines += [
            f'  - caption: "{title}"',
            *["    numbered: 1"] * numbered,
            "    chapters:",
            *(f"      - file: {page}" for page in pages),
        ]
    lines += [
        "  - caption: Reference",
        "    chapters:",
        "      - file: book/ledger",
        "      - file: book/api/index",
        "        sections:",
        "          - glob: book/api/mimo_jax*",
        "      - file: book/references",
    ]
    return "\n".join(lines) + "\n"


def quarto(contents, text: str) -> str:
    "_quarto.yml with its list of chapters made anew, the rest as it is."
    lines = ["  chapters:", "    - index.qmd"]
    for title, _, pages in contents:
        lines += [
            f'    - part: "{title}"',
            "      chapters:",
            *(f"        - {page}.ipynb" for page in pages),
        ]
    lines += ["    - part: Reference", "      chapters:", "        - book/references.md", "", ""]
    return re.sub(
        r"^  chapters:\n.*?(?=^\w)", lambda _: "\n".join(lines), text, count=1, flags=re.M | re.S
    )


def main():
    contents, path = parts(ROOT), ROOT / "_quarto.yml"
    (ROOT / "book" / "_toc.yml").write_text(jupyter_book(contents), "utf8")
    path.write_text(quarto(contents, path.read_text("utf8")), "utf8")


if __name__ == "__main__":
    main()
