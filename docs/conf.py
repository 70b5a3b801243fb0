"""Sphinx: a profile's results, the guides and the docstrings -> pages that need no network.

    make site PROFILE=demo

The pages are collected in an empty source folder, since notebooks, tables and figures of a profile
lie elsewhere: sphinx-build -c docs EMPTY_FOLDER OUT, the profile in LIGHTDET_PROFILE.
"""

import ast
import importlib
import inspect
import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints
from urllib.parse import unquote

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages of this checkout, whatever is installed
PROFILE = os.environ.get("LIGHTDET_PROFILE", "demo")
RESULTS = ROOT / "results" / PROFILE
DATA = {
    "demo": "street scenes that the repository draws itself",
    "bccd": "364 microscope images",
    "coco": "COCO 2017",
}
FIGURES = {  # the first one that a profile has stands on the first page
    "overview": "AP of the paper's groups, and what one change at a time brings",
    "table2": "The paper's Table 2: AP measured here, and apart from it what the paper prints",
    "differences": "The comparisons of the design: each difference in AP with its interval",
    "detector": "What the network does, from an image to boxes",
    "losses": "The training losses of the runs",
    "table1_measured": "The systems of the paper's Table 1, timed on one machine in one run",
    "table1_printed": "The paper's Table 1 as printed: other hardware, other test sets",
    "variants": "Variants of the network: AP against what one image costs, at the size it is of",
}
PAGES = {  # files elsewhere that are pages of the site, too
    "DEVIATIONS.md": "deviations",
    "FULL_SCALE.md": "full_scale",
    "CONTRIBUTING.md": "contributing",
    "data/README.md": "data",
    "findings/README.md": "findings",
}
# of Table 2; a phone shows the first few without scrolling
COLUMNS = ("experiment", "AP", "AP50", "seeds", "input size", "backbone", "activation", "head")
# what a page shows of a cell's outputs; other kinds would need JavaScript from elsewhere
SHOWN = ("text/html", "text/markdown", "image/png", "image/jpeg", "text/plain")

project, html_title, author = "LightDet", "LightDet", "LightDet contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "collapse_navbar": True,  # the branch of a page; all of them on each took a fifth of the time
}
html_static_path, html_css_files = [str(ROOT / "docs/_static")], ["custom.css"]
html_context = {"default_mode": "auto"}
# a page of sources has links back; to draw the tree of all pages beside each takes time
html_sidebars = {"_modules/**": ["navbar-logo.html", "search-button-field.html"]}
html_copy_source = html_show_sourcelink = html_show_copyright = html_domain_indices = (
    html_use_index
) = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses on a disk
html_math_renderer = "mathml"
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_dmath_double_inline = True  # $$...$$ on a line of its own below text
myst_url_schemes = {"http": None, "https": None, "page": "{{path}}#{{fragment}}"}
myst_heading_anchors = 4
myst_update_mathjax = False
smartquotes = False  # commands in tables keep their two hyphens
default_role = "py:obj"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # as the source has them
autodoc_use_type_comments = False  # there are none, and the search for them takes seconds
toc_object_entries_show_parents = "hide"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_param = napoleon_use_rtype = False  # `width, height: of the image` is one line
suppress_warnings = [
    "toc.empty_glob",  # a profile without notebooks
    "ref.python",  # `size` in a docstring may be that of several classes
]


# --- what the pages are made of --------------------------------------------------------------


def modules() -> dict[str, list[str]]:
    """Every package, in front its __init__, with its modules in reading order."""
    found = {}
    for init in sorted(ROOT.glob("lightdet_*/**/__init__.py")):
        names = {path.stem for path in init.parent.glob("*.py")} - {"__init__", "__main__"}
        listed = re.findall(r"^(\w+) +\S", docstring(init), re.MULTILINE)  # "boxes   cells, NMS"
        order = [name for name in listed if name in names]
        order += sorted(names - set(order))
        found[".".join(init.parent.relative_to(ROOT).parts)] = order
    return found


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def links(text: str, stems: list[str]) -> str:
    """Markdown with its links to files leading into the site; those that cannot are plain text."""

    def moved(match: re.Match) -> str:
        label, path, anchor = match[1], Path(match[2]), match[3] or ""
        if path.suffix == ".ipynb":  # where the very run is missing, another one of the chapter
            same = [s for s in stems if s.split("_")[0] == path.stem.split("_")[0]]
            stem = path.stem if path.stem in same else min(same, default=None)
            return f"[{label}]({stem}.ipynb{anchor.lower()})" if stem else label
        file = "/".join(part for part in path.parts if part != "..")
        if file in PAGES:
            row = f"#{label.lower()}" if re.fullmatch(r"D\d+", label) else anchor.lower()
            return f"[{label}]({PAGES[file]}.md{row})"
        places = (path.name, f"docs/{path.name}", f"results/{path.name}")
        if (ROOT / "docs" / path.name).is_file() and file in places:
            return f"[{label}]({path.name}{anchor.lower()})"
        if path.suffix == ".md" and (RESULTS / "tables" / path.name) == ROOT / file:
            return f"[{label}](tables.md#{path.stem})"
        if file.endswith(".py") and (ROOT / file).is_file():
            source = (ROOT / file).read_text(encoding="utf-8")
            names = re.findall(r"^(?:class|def) ([A-Za-z]\w+)", source, re.MULTILINE)
            name = (re.findall(r"\w+", label) or [""])[-1]
            page = f"_modules/{file[:-3]}" if names else f"api/{file[:-3].replace('/', '.')}"
            return f"[{label}](page:{page}.html{f'#{name}' if name in names else ''})"
        return f"`{unquote(file)}`" if label in ("file", "log") else label  # no page of the site

    # (what stands behind a backtick shows how a link is written)
    return re.sub(r"(?<!`)\[([^\[\]]+)\]\(([\w./+%-]+\.\w+)(#[\w.-]+)?\)", moved, text)


def table(path: Path, columns: tuple[str, ...] = ()) -> str:
    """A Markdown table with numbers to the right, and what follows it; or only some columns."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines if x.startswith("|")]
    found = []
    for name, _, *cells in zip(*rows, strict=True):
        if name == "redo":
            cells = [f"`{cell}`" if cell else "" for cell in cells]  # commands
        filled = [cell for cell in cells if cell]
        right = filled and all(re.fullmatch(r"-?[\d.]+( ± [\d.]+)?", cell) for cell in filled)
        found.append((name, "---:" if right else "---", *cells))
    if columns:
        found = [column for name in columns for column in found if column[0] == name]
    text = "\n".join(f"| {' | '.join(row)} |" for row in zip(*found, strict=True))
    return "\n".join([text, *lines[len(rows) :]]) if len(found) == len(rows[0]) else text


def verdicts(path: Path) -> str:
    """The table of all claims, each verdict next to its claim."""
    names = [cell.strip() for cell in path.read_text(encoding="utf-8").split("\n")[0].split("|")]
    return table(path, tuple(sorted(names[1:-1], key=lambda x: x not in ("claim", "verdict"))))


def figure(name: str, chapters: dict[str, nbformat.NotebookNode]) -> str:
    saved = re.compile(rf"save_figure\(.*\b{name}\b")
    makers = [s for s, nb in chapters.items() if any(saved.search(c.source) for c in nb.cells)]
    by = f" ([notebook {makers[0].split('_')[0]}]({makers[0]}.ipynb))" if makers else ""
    caption = FIGURES.get(name, name)
    return f"```{{figure}} figures/{name}.png\n:alt: {caption}\n\n{caption}{by}.\n```\n"


def prepare(notebook: nbformat.NotebookNode, stem: str, stems: list[str]) -> None:
    """Links, a title that names the run, and outputs as the pages show them."""
    heading, run = "", re.search(r"_([^_]+-s\d+)$", stem)
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    if given := tagged.get("injected-parameters"):  # by papermill: they stand once, as they count
        defaults = tagged["parameters"]
        for name, value in re.findall(r"^(\w+) = (.+)", given.source, re.MULTILINE):
            line = re.compile(rf"^{name} = .+?(?=  #|$)", re.MULTILINE)
            defaults.source = line.sub(lambda _, new=f"{name} = {value}": new, defaults.source)
        notebook.cells.remove(given)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = links(cell.source, stems)
            if number == 0 and run:
                cell.source = re.sub(r"^(# .+)", rf"\1: {run[1]}", cell.source)
            text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            heading = [heading, *re.findall(r"^#{1,6} +(.+)", text, re.MULTILINE)][-1]
        alt = f"figure under '{re.sub('[`*$]', '', heading)}'"
        cell.metadata["mystnb"] = {"image": {"alt": alt}}
        for output in cell.get("outputs", []):
            if data := output.get("data"):
                kept = [kind for kind in SHOWN if kind in data and "<script" not in data[kind]]
                output["data"] = {kind: data[kind] for kind in kept}


def collect(folder: Path) -> None:
    """All source pages of the profile's site into an empty folder."""
    if any(folder.iterdir()):
        sys.exit(f"error: {folder}: the source folder must be empty; `make site` sees to it")
    if not (RESULTS / "tables/table2.md").is_file():
        missing = (RESULTS / "tables/table2.md").relative_to(ROOT)
        sys.exit(f"error: {missing}: not found; `make repro PROFILE={PROFILE}` makes it")
    paths = sorted((RESULTS / "notebooks").glob("*.ipynb"))
    chapters = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    stems, questions = list(chapters), []
    for stem, notebook in chapters.items():
        prepare(notebook, stem, stems)
        nbformat.write(notebook, folder / f"{stem}.ipynb")
        question = re.search(
            r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|\Z)", notebook.cells[0].source, re.S
        )
        questions.append(f"- [](./{stem}.ipynb)  \n  {question[1] if question else ''}")
    for path, page in PAGES.items():
        text = links((ROOT / path).read_text(encoding="utf-8"), stems)
        text = re.sub(r"^\| (D\d+) \|", r"| [\1]{#\1} |", text, flags=re.MULTILINE)
        (folder / f"{page}.md").write_text(text, encoding="utf-8")

    packages, api = modules(), []
    (folder / "api").mkdir()
    for package, names in packages.items():
        path = ROOT / package.replace(".", "/")
        about = docstring(path / "__init__.py").splitlines()
        listed = [i for i, line in enumerate(about) if line.split(" ")[0] in names]
        first, last = (listed[0], listed[-1] + 1) if listed else (len(about), len(about))
        api += [f"## {package}\n", *about[:first], "", "| module | |\n|---|---|"]
        for name in names:
            page = f"# {package}.{name}\n\n```{{eval-rst}}\n.. automodule:: {package}.{name}\n```\n"
            (folder / f"api/{package}.{name}.md").write_text(page, encoding="utf-8")
            short = " ".join(docstring(path / f"{name}.py").split("\n\n")[0].split())
            api.append(f"| [{name}](api/{package}.{name}.md) | {short} |")
        api += ["", *about[last:], ""]  # instead of its list there is the table
        entries = "\n".join(f"{name} <api/{package}.{name}>" for name in names)
        api.append(f"\n```{{toctree}}\n:hidden:\n:titlesonly:\n\n{entries}\n```\n")

    shutil.copytree(RESULTS / "figures", folder / "figures", dirs_exist_ok=True)
    drawn = {path.stem for path in (RESULTS / "figures").glob("*.png")}
    drawn = [*(x for x in FIGURES if x in drawn), *sorted(drawn - set(FIGURES))]
    tables = sorted((RESULTS / "tables").glob("*.md"))
    parts = {
        "profile": PROFILE,
        "data": DATA.get(PROFILE, f"the data of profile {PROFILE}"),
        "first": figure(drawn[0], chapters) if drawn else "",
        "short": table(RESULTS / "tables/table2.md", COLUMNS),
        "chapters": "\n".join(questions)
        or f"`make repro PROFILE={PROFILE}` executes the notebooks.",
        "figures": "\n".join(figure(name, chapters) for name in drawn),
        "verdicts": verdicts(ROOT / "results/verdicts.md"),
        "tables": "\n\n".join(f"## {path.stem}\n\n{table(path)}" for path in tables),
        "api": "\n".join(api),
    }
    for path in (ROOT / "docs").glob("*.md"):
        text = links(path.read_text(encoding="utf-8"), stems)
        text = re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], text)
        (folder / path.name).write_text(text, encoding="utf-8")


# --- what Sphinx does with them --------------------------------------------------------------


def mathml(tex: str, display: str) -> str:
    tex = re.sub(r"\\mathrm\{(\w+)\}", r"\\text{\1}", tex)  # a word, not many symbols
    tex = re.sub(r"\\[Bb]igg?[lr]?(?![A-Za-z])", "", tex)  # browsers make these too large
    formula = convert(tex, display=display)
    if unknown := re.search(r"\\\w+", formula):
        raise ValueError(f"{unknown[0]} is not known")
    formula = re.sub(r"<mpadded[^>]*>", "<mpadded>", formula)  # browsers know no "+1em"
    return re.sub(r"<mo>([a-z]+)</mo>", r"<mi>\1</mi>", formula)  # max( without a gap


def visit_math(self, node: nodes.Node) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    try:
        formula = mathml(node.astext(), display)
        self.body.append(f'<div class="math">{formula}</div>' if display == "block" else formula)
    except Exception as error:  # of several unrelated types, often without words
        problem = str(error) or type(error).__name__
        where = (self.builder.current_docname, node.line)
        logging.getLogger(__name__).warning(
            "formula %r: %s", node.astext(), problem, location=where
        )
    raise nodes.SkipNode


def types_as_read(app, obj, bound) -> None:
    """`Annotated[int, Field(ge=0)]` -> int."""
    with suppress(Exception):  # no annotations, or of something that is imported for them only
        obj.__annotations__ = get_type_hints(obj)


def fields(app, what, name, obj, options, signature, returned):
    """A class of fields: each with the comment behind it, and no signature of all of them."""
    if what == "class" and (is_dataclass(obj) or hasattr(obj, "_fields")):
        types_as_read(app, obj, False)
        analyzer = ModuleAnalyzer.for_module(obj.__module__)
        analyzer.analyze()
        found = re.findall(r"^    (\w+): .*?  # (.+)", inspect.getsource(obj), re.MULTILINE)
        for field, about in found:  # a colon would make a type of what is before it
            analyzer.attr_docs[obj.__qualname__, field] = [about.replace(": ", " – "), ""]
        return "", None
    return None


def to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """The docstrings here are plain text with `code`, not reStructuredText."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    out, section, literal = [], False, False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            section = line in ("Args:", "Returns:", "Raises:")
        if indented and not section and not literal and out[-1:] == [""]:
            out += ["::", ""]
        literal = not section and (indented or (literal and not line))
        spans = re.split(r"(`+[^`]+`+)", line)
        for i, span in enumerate(spans):
            if i % 2:  # code: a name that may be a link, or not
                spans[i] = span if re.fullmatch(r"`[\w.]+`", span) else f"``{span.strip('`')}``"
            else:
                spans[i] = re.sub(r"([*|@\\]|(?<=\w)_(?!\w))", r"\\\1", span)
        text = line if literal else "".join(spans)
        if section:  # a line of several arguments: `points: (P, 2). strides: (P,).`
            text = re.sub(r"(?<=\.) (?=[a-z_][\w\\*]*: )", "\n    ", text)
        out += text.split("\n")
    lines[:] = out


def drop_unused(app, error) -> None:
    """Of the theme: source maps, 3 MB that only its developers read, and templates."""
    for path in Path(app.outdir, "_static").rglob("*"):
        if path.suffix in (".map", ".html"):
            path.unlink()


def setup(app) -> None:
    collect(Path(app.srcdir))
    for package, names in modules().items():
        for name in names:  # here, or each process that reads pages loads torch for itself
            importlib.import_module(f"{package}.{name}")
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("build-finished", drop_unused)
    app.connect("autodoc-before-process-signature", types_as_read)
    app.connect("autodoc-process-signature", fields)
    app.connect("autodoc-process-docstring", to_rst, priority=400)  # before napoleon's
