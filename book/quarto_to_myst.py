"""Quarto's Markdown, in which the pages are written, as the MyST Markdown that Sphinx reads.

One regular expression finds what may have to change; fenced code, inline code and formulas are
found first and so stay as they are.
"""

import re

TOKEN = re.compile(
    r"""
  (?P<fence>   ^[ \t]*(?P<ticks>`{3,}|~{3,}) .*? (?:^[ \t]*(?P=ticks)[`~]*[ \t]*$|\Z) )
| (?P<code>    (?P<tick>`+)(?!`) .+? (?<!`)(?P=tick)(?!`) )
| (?P<equation>(?<!\\)\$\$ (?P<tex>.+?) \$\$ (?:[ \t]*\{\#(?P<label>eq-[\w-]+)\})? )
| (?P<formula> (?<![\\$])\$(?![\s$]) (?:\\.|[^$\\\n]|\n(?![ \t]*\n))+? (?<!\s)\$(?!\d) )
| (?P<table>   (?P<rows>(?:^[ \t]*\|[^\n]*\n)+)
               \n?: [ \t]+ (?P<legend>[^\n]*?) [ \t]* \{\#(?P<table_name>tbl-[\w-]+)\} [ \t]* $ )
| (?P<heading> ^(?P<hashes>\#{1,6}) [ ]+ (?P<title>[^\n]*?) [ \t]*
               \{(?P<marks>[#.][^{}\n]*)\} [ \t]* $ )
| (?P<figure>  !\[(?P<caption>(?:[^\[\]]|\[[^\]]*\])*)\] \((?P<file>[^)\s]+)\)
               \{\#(?P<figure_name>fig-[\w-]+)(?P<options>[^}]*)\} )
| (?P<cites>   \[(?P<inner>[^\[\]`$]*(?<![\w\\])@[^\[\]`$]*)\](?![(\[]) )
| (?P<link>    \[(?:[^\[\]]|\[[^\]]*\])*\] \([^)\n]*\) )
| (?P<angle>   <[^<>\s][^<>\n]*> )
| (?P<shortcode> \{\{<[^\n]*?>\}\} )
| (?P<bare>    (?<![\w@/\\.])@(?P<key>[A-Za-z](?:[\w:.-]*\w)?) )
""",
    re.X | re.M | re.S,
)
DIV = re.compile(r"[ \t]*:{3,}[ \t]*(?P<attributes>\{.*\}|[\w.-]+)?[ \t]*:*[ \t]*$")
CITATION = re.compile(
    r"(?P<before>[^@]*?)(?P<year>-?)@(?P<key>[A-Za-z](?:[\w:.-]*\w)?)(?P<after>[^@]*)"
)
CROSS = {"eq": "eq", "fig": "numref", "tbl": "numref", "sec": "ref"}  # Quarto's prefix: MyST's role


class QuartoError(ValueError):
    "Something in a page that this book cannot show; the message says what and the way out."


def myst(
    text: str,  # Markdown as Quarto reads it
    link=lambda name: None,  # name in backticks -> full name of what the package exports, or None
) -> str:
    """The same text in MyST: equations, figures, tables, sections, references, citations, callouts,
    links to the API."""
    rules = {
        "code": code,
        "equation": equation,
        "table": table,
        "heading": heading,
        "figure": figure,
        "cites": cites,
        "bare": bare,
        "shortcode": shortcode,
    }

    def translated(token: re.Match) -> str:
        rule = rules.get(token.lastgroup)
        return rule(token, lambda part: myst(part, link), link) if rule else token[0]

    return TOKEN.sub(translated, divs(text))


def code(token, again, link) -> str:
    "Inline code; a name that the package exports becomes a link to its API page."
    role_before = token.string[: token.start()].endswith("}")
    target = None if role_before else link(token[0].strip("`").removesuffix("()"))
    return f"{{py:obj}}{token[0][:-1]} <{target}>`" if target else token[0]


def equation(token, again, link) -> str:
    "`$$ ... $$ {#eq-x}` becomes a numbered equation."
    if not token["label"]:
        return token[0]
    before, after = (
        token.string[: token.start()].rpartition("\n")[2],
        token.string[token.end() :].partition("\n")[0],
    )
    if before.strip() or after.strip():
        raise QuartoError(
            f"equation {{#{token['label']}}} must stand on lines of its own: move "
            f"{(before.strip() or after.strip())!r} away from it"
        )
    return f"$${token['tex']}$$ ({token['label']})"


def heading(token, again, link) -> str:
    "`## Title {#sec-x}` becomes a target and a heading."
    target = re.match(r"#([\w-]+)", token["marks"])
    return (f"({target[1]})=\n" if target else "") + f"{token['hashes']} {again(token['title'])}"


def figure(token, again, link) -> str:
    "`![caption](file){#fig-x width=50%}` becomes a numbered figure."
    options = dict(re.findall(r'([\w-]+)="?([^"\s]+)"?', token["options"]))
    lines = [f":name: {token['figure_name']}"] + [
        f":{key}: {value}" for key, value in options.items() if key in ("width", "height", "align")
    ]
    return "\n".join([f"```{{figure}} {token['file']}", *lines, "", again(token["caption"]), "```"])


def table(token, again, link) -> str:
    "A table followed by `: caption {#tbl-x}` becomes a numbered table."
    head = f"```{{table}} {again(token['legend'])}\n:name: {token['table_name']}"
    return f"{head}\n\n{again(token['rows'])}```"


def cross_reference(key: str) -> str | None:
    "`eq-x`, `fig-x`, `tbl-x` and `sec-x` as MyST's roles; anything else is no cross reference."
    prefix, _, rest = key.partition("-")
    role = CROSS.get(prefix.lower())
    return f"{{{role}}}`{prefix.lower()}-{rest}`" if role and rest else None


def bare(token, again, link) -> str:
    "`@eq-x` in running text, and `@key`, which names the authors."
    return cross_reference(token["key"]) or f"{{cite:t}}`{token['key']}`"


def cites(token, again, link) -> str:
    "`[@a; @b]`, `[see @a, table 2]`, `[-@a]`, and cross references in brackets."
    parts = [CITATION.fullmatch(part) for part in token["inner"].split(";")]
    if not all(parts):
        raise QuartoError(f"{token[0]}: each part between semicolons needs exactly one @key")
    roles = [cross_reference(part["key"]) for part in parts]
    if all(roles):
        return ", ".join(
            part["before"].strip() + role + part["after"].rstrip()
            for part, role in zip(parts, roles, strict=True)
        )
    if not any(part["before"].strip() or part["after"].strip() or part["year"] for part in parts):
        return "{cite:p}`" + ",".join(part["key"] for part in parts) + "`"
    style = {"": "alp", "-": "year"}
    cited = [
        f"{part['before'].lstrip()}{{cite:{style[part['year']]}}}`{part['key']}`"
        + part["after"].rstrip()
        for part in parts
    ]
    return f"({'; '.join(cited)})"


def shortcode(token, again, link) -> str:
    "Quarto's shortcodes run Quarto; here they are refused."
    raise QuartoError(f"{token[0]}: shortcodes need Quarto; say it in Markdown")


def divs(text: str) -> str:
    "Fenced divs, nested as deep as you like, as MyST directives; code blocks are left alone."
    stack, fence = [("", [])], ""
    for line in text.split("\n"):
        if mark := re.match(r"[ \t]*(`{3,}|~{3,})", line):
            fence = mark[1] if not fence else "" if mark[1].startswith(fence) else fence
        div = None if fence else DIV.match(line)
        if div and div["attributes"]:
            stack.append((div["attributes"], []))
        elif div and len(stack) > 1:
            attributes, body = stack.pop()
            stack[-1][1].extend(callout(attributes, body))
        else:
            stack[-1][1].append(line)
    if len(stack) > 1:
        raise QuartoError(f"::: {stack[-1][0]} is never closed: end it with a line of three colons")
    return "\n".join(stack[0][1])


def callout(attributes: str, body: list[str]) -> list[str]:
    "One callout as an admonition, folded if it is to collapse; `{#refs}` is the bibliography."
    if "#refs" in attributes:
        return ["```{bibliography}", "```"]
    kind = re.search(r"callout-(note|tip|warning|important|caution)\b", attributes)
    if not kind:
        raise QuartoError(
            f"::: {attributes} is not known here: use .callout-note, -tip, -warning, -important or "
            f"-caution"
        )
    named, text = re.search(r'title="([^"]*)"', attributes), "\n".join(body).strip("\n").split("\n")
    first = re.match(r"#{1,6} +(.*)", text[0])
    title = named[1] if named else first[1] if first else kind[1].capitalize()
    folded = " dropdown" if re.search(r'collapse="?true', attributes) else ""
    colons = ":" * max([3] + [1 + len(run) for run in re.findall(r"^:{3,}", "\n".join(text), re.M)])
    return [
        f"{colons}{{admonition}} {title}",
        f":class: {kind[1]}{folded}",
        "",
        *text[1 if first and not named else 0 :],
        colons,
    ]
