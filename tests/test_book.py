"""The book: the translation of its pages, its table of contents, and what the rendered HTML may and
may not hold."""

import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import nbformat
import pytest
import yaml
from hypothesis import given, strategies as st

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "book"))
import api_pages  # noqa: E402
import contents  # noqa: E402
import docments  # noqa: E402
import nbdev_reader  # noqa: E402
from quarto_to_myst import QuartoError, myst  # noqa: E402

HTML = ROOT / "book" / "_build" / "html"
BUILD = [
    "build",
    ".",
    "--config",
    "book/_config.yml",
    "--toc",
    "book/_toc.yml",
    "--path-output",
    "book",
    "-W",
    "--keep-going",
]


def link(name):
    return {"wilson": "mimo_jax.units.wilson"}.get(name)


def code(source, **more):
    return nbformat.v4.new_code_cell(source, **more)


def read(*cells):
    return nbdev_reader.page(nbformat.v4.new_notebook(cells=list(cells))).cells


@pytest.mark.parametrize("quarto, expected", [
    ("$$a = b$$ {#eq-x}", "$$a = b$$ (eq-x)"),
    ("$$\na = b\n$$ {#eq-two-words}\n\nmore", "$$\na = b\n$$ (eq-two-words)\n\nmore"),
    ("$$a$$", "$$a$$"),
    ("by @eq-x and @Fig-y, see @tbl-z.", "by {eq}`eq-x` and {numref}`fig-y`, see {numref}`tbl-z`."),
    ("(@sec-why)", "({ref}`sec-why`)"),
    ("[@eq-x; @eq-y]", "{eq}`eq-x`, {eq}`eq-y`"),
    ("said [@a2020x]", "said {cite:p}`a2020x`"),
    ("said [@a2020x; @b-c:d]", "said {cite:p}`a2020x,b-c:d`"),
    ("said [see @a, table 2; @b]", "said (see {cite:alp}`a`, table 2; {cite:alp}`b`)"),
    ("Wen [-@wen2018]", "Wen ({cite:year}`wen2018`)"),
    ("@wen2018 says", "{cite:t}`wen2018` says"),
    ("write to me@example.org or \\@home", "write to me@example.org or \\@home"),
    ("## Why {#sec-why}\ntext", "(sec-why)=\n## Why\ntext"),
    ("## Why {.unnumbered}", "## Why"),
    ("### By @eq-x {#sec-b}", "(sec-b)=\n### By {eq}`eq-x`"),
    ("![A $x$ [@a]](f.svg){#fig-f width=50%}",
     "```{figure} f.svg\n:name: fig-f\n:width: 50%\n\nA $x$ {cite:p}`a`\n```"),
    ("![plain](f.svg)", "![plain](f.svg)"),
    ("| a | b |\n|---|---|\n| @eq-x | 2 |\n\n: Two {#tbl-t}",
     "```{table} Two\n:name: tbl-t\n\n| a | b |\n|---|---|\n| {eq}`eq-x` | 2 |\n```"),
    ("`wilson` and `wilson()`",
     "{py:obj}`wilson <mimo_jax.units.wilson>` and {py:obj}`wilson() <mimo_jax.units.wilson>`"),
    ("`unknown`, {eq}`wilson`, "
     "[`wilson`](a.ipynb)", "`unknown`, {eq}`wilson`, [`wilson`](a.ipynb)"),
    ("costs \\$5 and @eq-x", "costs \\$5 and {eq}`eq-x`"),
])
def test_translation(quarto, expected):
    assert myst(quarto, link) == expected


@pytest.mark.parametrize("verbatim", [
    "```python\n@partial\n$$x$$ {#eq-x}\n::: {.callout-tip}\n[@a]\n```",
    "~~~\n@eq-x\n```\n@eq-y\n~~~",
    "````\n```\n@eq-x\n```\n@eq-y\n````",
    "- item\n\n  ```\n  @eq-x\n  ```",
    "`@eq-x` and ``a ` @b``",
    "$a_{@x}$ and $$\n@y\n$$",
    "```\n@eq-x  (a fence that nobody closed)",
    "<https://example.org/@user>",
])
def test_code_and_formulas_stay(verbatim):
    assert myst(verbatim, link) == verbatim


@given(st.text(alphabet="ab @$`\n#:{}[]().-", max_size=60))
def test_fenced_text_is_never_changed(text):
    fenced = f"~~~~~\n{text}\n~~~~~"
    assert myst(fenced) == fenced


def test_callouts_fold_nest_and_keep_code():
    text = '::: {.callout-tip collapse="true"}\n'
    text += '## Answer\nBy @eq-x.\n\n```\n:::\n@eq-y\n```\n:::\nafter'
    assert (
        myst(text)
        == "::::{admonition} Answer\n:class: tip dropdown\n\nBy {eq}`eq-x`.\n\n```\n:::\n@eq-y\n"
           "```\n::::\nafter"
    )
    nested = myst('::: {.callout-note title="Outer"}\n::: callout-warning\ninner\n:::\n:::')
    assert (
        nested
        == "::::{admonition} Outer\n:class: note\n\n:::{admonition} Warning\n:class: warning\n\n"
           "inner\n:::\n::::"
    )
    assert myst("::: {#refs}\n:::") == "```{bibliography}\n```"


@pytest.mark.parametrize("text, message", [
    ("::: {.panel-tabset}\nx\n:::", "panel-tabset.*is not known here"),
    ("::: {.callout-tip}\nx", "never closed"),
    ("so $$a$$ {#eq-x}", "equation {#eq-x} must stand on lines of its own"),
    ("[@a and @b]", "exactly one @key"),
    ("see {{< video a.mp4 >}}", "shortcodes need Quarto"),
])
def test_what_cannot_be_shown_is_refused(text, message):
    with pytest.raises(QuartoError, match=message):
        myst(text)


def test_directives_vanish_and_cells_fold():
    cells = read(
        code("#| default_exp phy.thing"),
        code("#|hide\nimport secret\nsecret.run()"),
        code("#| export"),
        code("#| include: false\nx = 1"),
        code("#| export\nimport jax\nfrom a import (\n    b,\n)"),
        code("import numpy as np"),
        code("#| echo: false\nx"),
        code("#| output: false\nx"),
        code("#| code-fold: true\nx"),
        code("#| eval: false\n%timeit x"),
    )
    assert [cell.source for cell in cells] == [
        "import jax\nfrom a import (\n    b,\n)\n\nimport numpy as np",
        "x",
        "x",
        "x",
        "%timeit x",
    ]
    assert [cell.metadata.tags for cell in cells] == [
        ["hide-input"],
        ["remove-input"],
        ["remove-output"],
        ["hide-input"],
        [],
    ]
    assert cells[0].metadata.mystnb.code_prompt_show == "Imports"


def test_comments_beside_parameters_become_a_table():
    head = (
        '#| export\ndef f(\n    x: Float[Array, "n"],  # what it is, $x$\n    *more: int,\n'
        '    k: str = "a",  # by @eq-x\n) -> int:  # how many\n'
    )
    shown, table = read(code(head + '    "Doc."\n    return 1  # why'))
    assert (
        shown.source
        == 'def f(x: Float[Array, "n"], *more: int, k: str = "a") -> int:\n    "Doc."\n'
           '    return 1  # why'
    )
    assert table.source.split("\n")[3:-1] == [
        "",
        "* - `f`",
        "  - type",
        "  - meaning",
        "* - `x`",
        '  - `Float[Array, "n"]`',
        "  - what it is, $x$",
        "* - `*more`",
        "  - `int`",
        "  - ",
        '* - `k` `= "a"`',
        "  - `str`",
        "  - by {eq}`eq-x`",
        "* - *returns*",
        "  - `int`",
        "  - how many",
    ]


def test_functions_with_the_same_parameters_share_a_table_and_others_have_none():
    pair = (
        "#| export\ndef f(\n    x: int,  # it\n): return x\ndef g(\n    x: int,  # it\n): return -x"
    )
    shown, table = read(code(pair))
    assert "* - `f` `g`\n" in table.source and "# it" not in shown.source
    assert len(read(code("#| export\ndef f(x: int): return x  # no docment"))) == 1
    assert len(read(code("#| export\ndef _f(\n    x: int,  # private\n): return x"))) == 1
    assert len(read(code("def f(\n    x: int,  # not exported\n): return x"))) == 1


def test_fields_of_a_class_become_a_table():
    shown, table = read(
        code(
            '#| export\nclass A(NamedTuple):\n    "Doc."\n\n    rate: float  # errors / trials\n'
            '    n: int = 3  # trials'
        )
    )
    assert shown.source.endswith("    rate: float\n    n: int = 3")
    assert "* - `n` `= 3`\n  - `int`\n  - trials" in table.source


def test_options_of_commands_tell_themselves():
    _, table = read(
        code(
            '#| export\ndef f(n: Annotated[int, typer.Option(help=f"Size: {x}.")] = 1, m: '
            'Annotated[str, typer.Argument()] = "a"): ...'
        )
    )
    assert (
        "* - `n` `= 1`\n  - `int`\n  - Size: ….\n* - `m` `= \"a\"`\n  - `str`\n  - \n"
        in table.source
    )


def test_a_labeled_picture_is_a_numbered_figure():
    (cell,) = read(
        code(
            '#| label: fig-ber\n#| fig-cap: "By @eq-x:\n#|   two lines."\n#| fig-alt: falling\n'
            'plt.show()'
        )
    )
    assert cell.metadata.mystnb == {
        "figure": {"name": "fig-ber", "caption": "By {eq}`eq-x`: two lines."},
        "image": {"alt": "falling"},
    }
    with pytest.raises(QuartoError, match="both or neither"):
        read(code("#| label: fig-ber\nplt.show()"))


def test_api_pages_follow_the_package(tmp_path):
    package = tmp_path / "mimo_jax"
    package.mkdir()
    (package / "net.py").write_text('''"One line, $x$."
# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/01_net/02_net.ipynb.
__all__ = ["SIZE", "Net", "plain"]
SIZE = 3  # how *big*
class Net(nnx.Module):
    "A network (@eq-x)."
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        "Build it."
    def _hidden(self): ...
    @cached_property
    def depth(self) -> int:
        "How deep."
    def __call__(
        self,
        x: Array,  # input
    ) -> Array: return x
def plain(n: int = 2) -> int: return n
def inner(): ...
''')
    api_pages.write(tmp_path, docments.exports(package))
    text = (tmp_path / "book/api/mimo_jax.net.md").read_text()
    assert (
        "{doc}`/nbs/01_net/02_net`" in text
        and "{py:data} SIZE\n:value: 3\n\nhow *big*\n" in text
        and "A network ({eq}`eq-x`)." in text
    )
    assert (
        ":::::{py:class} Net\n" in text
        and "::::{py:method} __init__(width: int, *, rngs: nnx.Rngs)\n" in text
    )
    assert (
        "{py:method} __call__(x) -> Array\n" in text
        and "{py:property} depth\n:type: int\n\nHow deep." in text
        and text.startswith("# net\n")
    )
    assert (
        "{py:function} plain(n: int=2) -> int\n" in text
        and "_hidden" not in text
        and "inner" not in text
    )
    assert (
        "{py:mod}`mimo_jax.net`\n  - One line, $x$." in (tmp_path / "book/api/index.md").read_text()
    )
    (package / "net.py").unlink()
    (package / "other.py").write_text('__all__ = ["a"]\ndef a(): ...')
    api_pages.write(tmp_path, docments.exports(package))
    assert sorted(path.name for path in (tmp_path / "book/api").iterdir()) == [
        "index.md",
        "mimo_jax.other.md",
    ]


def test_names_link_where_they_are_meant():
    found = [
        docments.Export(name, f"mimo_jax.{module}", None)
        for name, module in (("wilson", "units"), ("run", "a"), ("run", "b"))
    ]
    links = docments.linker(found, here="mimo_jax.b")
    assert (
        links("wilson")
        == links("units.wilson")
        == links("mimo_jax.units.wilson")
        == "mimo_jax.units.wilson"
    )
    assert (
        links("run") == "mimo_jax.b.run"
        and links("a.run") == "mimo_jax.a.run"
        and links("mimo_jax.a") == "mimo_jax.a"
    )
    assert docments.linker(found)("run") is None and links("absent") is None


def in_toc(node):
    "Every file that a table of contents of jupyter-book names."
    if isinstance(node, list):
        return [file for part in node for file in in_toc(part)]
    children = [child for key in ("parts", "chapters", "sections") for child in node.get(key, [])]
    return [node[key] for key in ("root", "file") if key in node] + in_toc(children) if node else []


def in_quarto(node):
    "Every page that Quarto's book names, without suffix."
    if isinstance(node, list):
        return [file for part in node for file in in_quarto(part)]
    return (
        in_quarto(node["chapters"])
        if isinstance(node, dict)
        else [str(pathlib.PurePath(node).with_suffix(""))]
    )


def test_every_page_is_in_both_tables_of_contents():
    toc = in_toc(yaml.safe_load((ROOT / "book/_toc.yml").read_text()))
    quarto = in_quarto(yaml.safe_load((ROOT / "_quarto.yml").read_text())["book"]["chapters"])
    there = {
        str(path.relative_to(ROOT).with_suffix(""))
        for kind in ("*.ipynb", "*.md", "*.qmd")
        for path in (ROOT / "nbs").rglob(kind)
        if ".ipynb_checkpoints" not in path.parts
    }
    missing, gone = there - set(toc), {page for page in toc if page.startswith("nbs/")} - there
    assert (
        not missing
    ), f"run python book/contents.py: book/_toc.yml and _quarto.yml lack {sorted(missing)}"
    assert (
        not gone
    ), f"run python book/contents.py: in book/_toc.yml but not in nbs/: {sorted(gone)}"
    assert len(set(toc)) == len(toc)
    assert quarto == [
        "index",
        *[page for page in toc if page not in ("nbs/index", "book/api/index", "book/ledger")],
    ]
    assert (ROOT / "index.qmd").read_text().split() == ["{{<", "include", "README.md", ">}}"]


def test_contents_are_made_from_the_folders(tmp_path, monkeypatch):
    for page in ("00_core/02_b", "00_core/01_a", "90_cli/01_cli"):
        (tmp_path / "nbs" / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nbs" / f"{page}.ipynb").touch()
    (tmp_path / "book").mkdir()
    (tmp_path / "_quarto.yml").write_text(
        "book:\n  title: t\n  chapters:\n    - old.qmd\n\nbibliography: b.bib\n"
    )
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    contents.main()
    first, second, _ = yaml.safe_load((tmp_path / "book/_toc.yml").read_text())["parts"]
    assert first == {
        "caption": "Core",
        "numbered": 1,
        "chapters": [{"file": "nbs/00_core/01_a"}, {"file": "nbs/00_core/02_b"}],
    }
    assert second == {"caption": "Command line", "chapters": [{"file": "nbs/90_cli/01_cli"}]}
    made = yaml.safe_load((tmp_path / "_quarto.yml").read_text())
    assert made["bibliography"] == "b.bib" and in_quarto(made["book"]["chapters"]) == [
        "index",
        *in_toc([first, second]),
        "book/references",
    ]
    (tmp_path / "nbs/77_odd").mkdir()
    (tmp_path / "nbs/77_odd/01_x.ipynb").touch()
    with pytest.raises(SystemExit, match="nbs/77_odd: no such part"):
        contents.main()


def test_parts_hold_the_pages_of_their_folder_in_order():
    parts = yaml.safe_load((ROOT / "book/_toc.yml").read_text())["parts"]
    quarto = [
        entry
        for entry in yaml.safe_load((ROOT / "_quarto.yml").read_text())["book"]["chapters"]
        if isinstance(entry, dict)
    ]
    assert [part["caption"] for part in parts] == [part["part"] for part in quarto]
    for part in parts:
        pages = [page for page in in_toc(part) if page.startswith("nbs/")]
        assert pages == sorted(pages) and len({page.split("/")[1] for page in pages}) <= 1, part[
            "caption"
        ]


def test_quarto_configuration_is_whole():
    quarto = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    assert (
        quarto["project"]["type"] == "book"
        and quarto["ipynb-filters"] == ["nbdev_filter"]
        and quarto["execute"] == {"enabled": False}
    )
    assert all(
        (ROOT / path).exists()
        for path in (
            quarto["bibliography"],
            quarto["book"]["favicon"],
            quarto["book"]["sidebar"]["logo"],
        )
    )
    assert {"fig-prefix", "eq-prefix"} <= quarto["crossref"].keys() and "html" in quarto["format"]


def test_bibliography_has_no_double_keys_and_every_citation():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(), re.M)
    assert len(keys) == len(set(keys))
    cited = set()
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            text = myst(cell.source) if cell.cell_type == "markdown" else ""
            cited |= {
                key
                for role in re.findall(r"\{cite:\w+\}`([^`]+)`", text)
                for key in role.split(",")
            }
    assert cited <= set(keys), f"not in book/references.bib: {sorted(cited - set(keys))}"


@pytest.fixture(scope="session")
def sphinx(tmp_path_factory):
    """A function that builds one page with our extension alone and returns exit code, messages and
    HTML."""
    pytest.importorskip("jupyter_book", reason="needs the book extra: make book installs it")

    def build(*cells):
        folder = tmp_path_factory.mktemp("page")
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}
        }
        nbformat.write(
            nbformat.v4.new_notebook(cells=list(cells), metadata=kernel), folder / "index.ipynb"
        )
        (folder / "conf.py").write_text(
            f"import sys; sys.path.append({str(ROOT / 'book')!r})\n"
            f"extensions = ['myst_nb', 'nbdev_reader', 'sphinx.ext.mathjax']\n"
            "nb_execution_mode, numfig, myst_enable_extensions = 'off', True, ['colon_fence', "
            "'dollarmath']\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", folder, folder / "html"],
            capture_output=True,
            text=True,
        )
        page = folder / "html" / "index.html"
        return done.returncode, done.stderr, page.read_text() if page.exists() else ""

    return build


def test_sphinx_numbers_figures_and_equations(sphinx):
    drawn = nbformat.v4.new_output(
        "display_data", {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>"}
    )
    status, messages, page = sphinx(
        nbformat.v4.new_markdown_cell(
            "# Title\n\n> claim\n\nBy @eq-x, @fig-f and @sec-s.\n\n$$a$$ {#eq-x}\n\n"
            "## Section {#sec-s}"
        ),
        code("#| label: fig-f\n#| fig-cap: Falls.\nplot()", outputs=[drawn]),
        nbformat.v4.new_markdown_cell('::: {.callout-tip collapse="true"}\n## Answer\nno\n:::'),
    )
    assert status == 0, messages
    assert (
        'id="equation-eq-x"' in page
        and 'href="#equation-eq-x"' in page
        and 'href="#fig-f"' in page
        and 'href="#sec-s"' in page
    )
    assert (
        re.search(r'caption-number">Fig. 1 </span><span class="caption-text">Falls.', page)
        and "#|" not in page
    )
    assert 'class="tip dropdown admonition"' in page


def test_broken_references_fail_the_build_with_a_message(sphinx):
    status, messages, _ = sphinx(
        nbformat.v4.new_markdown_cell("# Title\n\nBy @eq-nowhere and @fig-nowhere.")
    )
    assert status != 0 and "eq-nowhere" in messages and "fig-nowhere" in messages, messages
    status, messages, _ = sphinx(
        nbformat.v4.new_markdown_cell("# Title\n\n::: {.column-margin}\nx\n:::")
    )
    assert status != 0 and re.search(
        "index.ipynb.*column-margin.*is not known here", messages
    ), messages


class Page(html.parser.HTMLParser):
    "What one page loads, links to, names and says."

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.scripts, self.words, self.inside = (
            [],
            [],
            set(),
            [],
            [],
            [],
        )
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.ids |= {told[name] for name in ("id", "name") if told.get(name)}
        self.loads += [told[name] for name in ("src", "srcset", "poster", "data") if told.get(name)]
        self.loads += re.findall(r"url\(([^)]*)\)", told.get("style") or "")
        if tag == "link" and told.get("rel") not in ("canonical", "author", "license"):
            self.loads.append(told["href"])
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        if tag not in ("meta", "link", "img", "input", "br", "hr", "source"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        where = set(self.inside)
        (
            self.scripts
            if where & {"script", "style"}
            else self.words if not where & {"pre", "code"} else []
        ).append(data)


@pytest.fixture(scope="session")
def pages():
    "The rendered book, page by page; built here if it is not there or is older than its sources."
    made = {"_build", "api", "__pycache__", ".ipynb_checkpoints", "ledger.md"}
    sources = [
        path
        for folder in ("nbs", "book", "mimo_jax")
        for path in (ROOT / folder).rglob("*.*")
        if not made & set(path.parts)
    ]
    index = HTML / "searchindex.js"
    if not index.exists() or index.stat().st_mtime < max(
        path.stat().st_mtime for path in sources if path.is_file()
    ):
        pytest.importorskip(
            "jupyter_book", reason="no rendered book, and no book extra to build it with: make book"
        )
        shutil.rmtree(HTML.parent, ignore_errors=True)
        program = "from jupyter_book.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *BUILD], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {
        path: Page(path.read_text("utf8"))
        for path in HTML.rglob("*.html")
        if "_static" not in path.parts
    }


def test_no_page_loads_anything_from_outside(pages):
    outside = re.compile(r"^\s*['\"]?(?:[a-z]+:)?//", re.I)
    for path, page in pages.items():
        assert not [url for url in page.loads if outside.match(url)], path
        assert not [s for s in page.scripts if re.search(r"https?://(?!www\.w3\.org/)", s)], path
    for path in HTML.rglob("*.css"):
        found = re.findall(
            r"(?:@import\s*|url\()\s*['\"]?((?:[a-z]+:)?//[^'\")]+)", path.read_text("utf8")
        )
        assert not found, (path, found)


def test_every_link_inside_the_book_leads_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for url in map(urllib.parse.urlsplit, page.links + page.loads):
            target = (
                path if not url.path else (path.parent / urllib.parse.unquote(url.path)).resolve()
            )
            if url.scheme or url.netloc:
                continue
            here = target.exists() and (
                not url.fragment
                or target not in pages
                or url.fragment in pages[target].ids | {"", "#"}
            )
            broken += [] if here else [(path.name, url.geturl())]
    assert not broken


def test_nothing_of_quarto_or_nbdev_is_left_in_the_text(pages):
    for path, page in pages.items():
        said = " ".join(page.words)
        assert not re.search(r"@(eq|fig|tbl|sec)-|\{#|:::|#\||\{\.callout|\[@", said), path


def test_pages_are_numbered_by_chapter_and_position(pages):
    "Chapters 51 to 55 are 1 to 5; the folders before them have letters, A for 00_core."
    for part in yaml.safe_load((ROOT / "book/_toc.yml").read_text())["parts"]:
        for position, name in enumerate(in_toc(part) if part.get("numbered") else [], start=1):
            page = (HTML / f"{name}.html").read_text("utf8")
            title = re.search(r'<h1>.*?section-number">([\w.]+)', page)
            tens, ones = (int(digit) for digit in name.split("/")[1][:2])
            folder = ones if tens == 5 else "ABCDE"[tens]
            assert title and title[1] == f"{folder}.{position}.", name


def test_every_plot_of_a_page_has_its_picture():
    "A page that was executed without the notebook's backend keeps its code and loses its figures."
    for path in sorted(ROOT.glob("nbs/*/*.ipynb")):
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        drawn = sum(any(kind.startswith("image/") for kind in output.get("data", {}))
                    for cell in cells for output in cell.outputs)
        assert drawn >= sum("plt.show()" in cell.source for cell in cells), path.name


def test_every_module_has_an_api_page(pages):
    modules = {export.module for export in docments.exports(ROOT / "mimo_jax")}
    assert {path.stem for path in (HTML / "book/api").glob("mimo_jax*.html")} == modules
    for path, page in pages.items():
        if path.stem in modules:
            assert {
                f"{e.module}.{e.name}"
                for e in docments.exports(ROOT / "mimo_jax")
                if e.module == path.stem
            } <= page.ids


@pytest.fixture
def draw(tmp_path):
    "A function that draws a page in a browser without a network and returns its final HTML."
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no chromium on this machine")
    switches = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-sync", "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=9000",
    ]

    def drawn(path):
        command = [browser, *switches, f"--user-data-dir={tmp_path}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    return drawn


def test_formulas_are_drawn_without_a_network(pages, draw):
    page = next(path for path in sorted(pages) if path.stem == "01_units")
    drawn = draw(page)
    assert drawn.count("<mjx-container") > 10
    assert "\\frac" not in re.sub(r"(?s)<pre.*?</pre>", "", drawn)


def test_the_ledger_has_a_row_for_every_claim(pages):
    from mimo_jax.cli.main import CHAPTERS
    from mimo_jax.ledger import claims

    text = (HTML / "book" / "ledger.html").read_text("utf8")
    known = [claim for chapter in CHAPTERS for claim in claims(chapter)]
    assert len(re.findall(r'<tr class="verdict-\d">', text)) == len(known)


TRY_THE_LEDGER = """<script>addEventListener("load", () => {
  const [search, choice] = ["input", "select[aria-label=verdict]"].map(
    (name) => document.querySelector(".ledger " + name));
  choice.value = "agrees";
  choice.dispatchEvent(new Event("change"));
  document.querySelectorAll(".ledger th button")[4].click();
  const rows = [...document.querySelectorAll(".ledger tbody tr")].filter((row) => !row.hidden);
  const values = rows.map((row) => parseFloat(row.cells[4].textContent));
  const sorted = values.every((value, i) => !i || values[i - 1] <= value);
  const agree = rows.every((row) => row.cells[5].textContent === "agrees");
  search.value = "no such words";
  search.dispatchEvent(new Event("input"));
  const left = document.querySelector(".ledger output").value;
  document.title = ["tried", rows.length > 0, sorted, agree, left].join(" | ");
});</script>"""


def test_the_ledger_sorts_and_filters_without_a_network(pages, draw):
    page = HTML / "book" / "ledger.html"
    tried = page.with_name("ledger-tried.html")
    tried.write_text(page.read_text("utf8").replace("</body>", TRY_THE_LEDGER + "</body>"), "utf8")
    try:
        title = re.search("<title>(tried.*?)</title>", draw(tried))
    finally:
        tried.unlink()
    assert title and title[1].startswith("tried | true | true | true | 0 of ")
