"""README.md: in step with the map of the book, its example runs, its commands exist, and it says
what is there."""

import ast
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf8")
sys.path.append(str(ROOT / "book"))
import readme  # noqa: E402

BIB = "@misc{key,\n  author = {Doe, Jane and Roe, Richard},\n  year = {2001},\n}\n"


def test_readme_is_in_step_with_the_map_of_the_book():
    done = subprocess.run(
        [sys.executable, ROOT / "book" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_check_says_what_is_out_of_step(tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "book").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# New")]),
        tmp_path / "nbs" / "index.ipynb",
    )
    (tmp_path / "book" / "references.bib").write_text(BIB)
    (tmp_path / "README.md").write_text("# Old\n")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    with pytest.raises(SystemExit, match="README.md.*out of step.*run `python book/readme.py`"):
        readme.main()
    assert (tmp_path / "README.md").read_text() == "# Old\n"
    monkeypatch.setattr(sys, "argv", ["readme.py"])
    readme.main()
    made = (tmp_path / "README.md").stat().st_mtime_ns
    readme.main()
    assert (tmp_path / "README.md").stat().st_mtime_ns == made and "# New" in (
        tmp_path / "README.md"
    ).read_text()
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    readme.main()


@pytest.mark.parametrize("quarto, plain", [
    ("see @fig-a and [@key, table 2; @key]",
     "see the figure and (Doe and Roe 2001, table 2; Doe and Roe 2001)"),
    ("## Why {#sec-why}\n$$a$$ {#eq-a}", "## Why\n$$a$$"),
    ("[page](00_x/01_y.ipynb), [up](../book/a.md), [web](https://a.org), [here](#why)",
     "[page](nbs/00_x/01_y.ipynb), [up](book/a.md), [web](https://a.org), [here](#why)"),
    ("`[@key]` and\n```\n@fig-a\n```", "`[@key]` and\n```\n@fig-a\n```"),
])
def test_markdown_is_plain(quarto, plain):
    assert readme.plain(quarto, BIB) == plain


def test_an_unknown_citation_is_refused():
    with pytest.raises(SystemExit, match="nobody: no such entry in book/references.bib"):
        readme.plain("[@nobody]", BIB)


def test_the_example_runs_and_gives_what_readme_says():
    block, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S).groups()
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    *lines, last = ast.parse(block).body
    names: dict = {}
    exec(compile(ast.Module(lines, []), "README.md", "exec"), names)
    assert eval(compile(ast.Expression(last.value), "README.md", "eval"), names) == pytest.approx(
        ast.literal_eval(output), rel=0.02
    )


def test_every_make_command_is_a_target():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.M))
    assert {"demo", "test"} <= {a or b for a, b in asked} <= targets


def test_links_and_figures_are_files_of_the_repository():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert "book/figures/readme.svg" in links and all((ROOT / link).exists() for link in links)
    assert (ROOT / "book/figures/readme.svg").stat().st_size < 60_000


def test_the_five_papers_are_cited_by_title_and_author():
    said = re.sub(r"\s+", " ", README)
    papers = (ROOT / "book" / "references.bib").read_text().partition("% Statistics.")[0]
    entries = re.findall(r"author = \{(.*?)\},\n\s*title = \{(.*?)\},\n", papers, re.S)
    assert len(entries) == 5
    for authors, title in entries:
        assert re.sub("[{}]", "", title) in said and all(
            name.split(",")[0] in said for name in authors.split(" and ")
        )


def test_the_state_of_each_chapter_is_true():
    "Chapter n is nbs/5n_*; row 0, the foundations, stands for every folder before them."
    row = r"^\| \[?(?:(\d) )?([\w -]+?)(?:\]\(.*?\))? \|.*\| ([\w ]+) \|$"
    found = [(n, state) for n, _, state in re.findall(row, README, re.M) if state != "state"]
    states = {int(n or 0): state for n, state in found}
    folders = sorted({page.parent.name for page in (ROOT / "nbs").glob("[0-9][0-9]_*/*.ipynb")})
    built = {0 if int(name[0]) < 5 else int(name[1]) for name in folders if int(name[0]) <= 5}
    assert states.keys() == set(range(6))
    assert set(states.values()) <= {"built", "first thread", "planned"}
    assert {number for number, state in states.items() if state != "planned"} == built
