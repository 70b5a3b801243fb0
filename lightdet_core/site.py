"""Results -> a static site: executed notebooks, tables, figures and the core's source, linked.

    python -m lightdet_core.site --profile demo

Reads results/<profile>/, DEVIATIONS.md and lightdet_core/ only. The pages hold no JavaScript and
fetch nothing from outside; formulas are MathML.
"""

import argparse
import base64
import io
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from lightdet_core.config import ROOT, UserError, run_cli
from lightdet_core.notebook import lines_of, read

CORE = ROOT / "lightdet_core"
MARKER = ".lightdet-site"  # a folder without it was made by somebody else
INTRODUCTION = """# LightDet: results

A replication, in notebooks, of a light-weight object detector: EfficientNet-Lite backbone, PAN
neck and generalized focal loss head, after *A Light-Weight CNN for Object Detection with Sparse
Model and Knowledge Distillation* (Electronics 2022, 11(4), 575). Groups of the paper's Table 2 were
trained and evaluated on {data}. What was measured here and what the paper prints stand apart; the
[deviations](DEVIATIONS.md) are what the paper leaves open, contradicts or gets wrong.
"""
DATA = {
    "demo": "street scenes that the repository draws itself (profile demo)",
    "bccd": "364 microscope images (profile bccd)",
    "coco": "COCO 2017 (profile coco)",
}
FIGURES = {
    "overview": "AP of the paper's groups, and what one change at a time brings",
    "detector": "What the network does, from an image to boxes",
    "table2": "The paper's Table 2: AP measured here, and apart from it what the paper prints",
    "differences": "One change at a time: the difference in AP with its 95 % interval",
    "table1_measured": "The systems of the paper's Table 1, timed on one machine in one run",
    "variants": "Variants of the network: AP against the time of one image",
}
# of Table 2; a phone shows the first few without scrolling
COLUMNS = ("experiment", "AP", "AP50", "seeds", "input size", "backbone", "activation", "head")
# what a page shows of a cell's outputs; other kinds would need JavaScript
SHOWN = ("text/html", "text/markdown", "image/png", "image/jpeg", "text/plain")
BAR = {
    "Results": "index.html",
    "Chapters": "index.html#chapters",
    "Tables": "tables.html",
    "Deviations": "deviations.html",
    "Core": "core/index.html",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · LightDet</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}site.css">
</head>
<body>
<header><nav class="bar">{bar}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""


class SiteError(UserError):
    """Results are missing, or a file or folder does not fit; the message names it and a remedy."""


# --- Markdown --------------------------------------------------------------------------------


class Markdown(IPythonRenderer):
    """Markdown of one page -> HTML: formulas as MathML, links that lead somewhere in the site.

    Args:
        name: of the page's source, for errors.
        stems: the executed notebooks that the site has.

    `sections` collects anchor -> text of the headings of the second level.
    """

    def __init__(self, name: str, stems: list[str]) -> None:
        super().__init__(escape=False)
        self.name, self.stems = name, stems
        self.anchors: Counter[str] = Counter()
        self.sections: dict[str, str] = {}

    def html(self, source: str) -> str:
        return MarkdownWithMath(self).render(source)

    def heading(self, text: str, level: int, **_: object) -> str:
        anchor = slug(plain(text))
        self.anchors[anchor] += 1
        if self.anchors[anchor] > 1:
            anchor += f"-{self.anchors[anchor]}"
        if level == 2:
            self.sections[anchor] = plain(text)
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def inline_math(self, body: str, display: str = "inline") -> str:
        tex = re.sub(r"\\mathrm\{(\w+)\}", r"\\text{\1}", body)  # a word, not many symbols
        tex = re.sub(r"\\[Bb]igg?[lr]?(?![A-Za-z])", "", tex)  # browsers make these too large
        try:
            formula = convert(tex, display=display)
            if unknown := re.search(r"\\\w+", formula):
                raise ValueError(f"{unknown[0]} is not known")
        except Exception as error:  # of several unrelated types, often without words
            problem = str(error) or type(error).__name__
            raise SiteError(f"{self.name}: formula {body!r}: {problem}") from error
        formula = re.sub(r"<mpadded[^>]*>", "<mpadded>", formula)  # browsers know no "+1em"
        return re.sub(r"<mo>([a-z]+)</mo>", r"<mi>\1</mi>", formula)  # max( without a gap

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{self.inline_math(body, "block")}</span>'

    def table(self, text: str) -> str:
        return f'<div class="scroll"><table>\n{text}</table></div>\n'

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        width = len(plain(text))
        kind = align or ("long" if width > 60 else "middle" if width > 24 else "short")
        number = re.fullmatch(r"D\d+", text) if self.name == "DEVIATIONS.md" else None
        anchor = f' id="{text}"' if number else ""
        return '<{0} class="{1}"{3}>{2}</{0}>\n'.format("th" if head else "td", kind, text, anchor)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if re.match("https?:", url):
            return f'<a href="{escape(url)}" rel="noopener">{text}</a>'
        target = self.target(url, plain(text))
        return f'<a href="{target}">{text}</a>' if target else text

    def target(self, url: str, label: str) -> str | None:
        """Where a link of a notebook or file leads in the site; None: to nothing that it has."""
        path, _, anchor = url.partition("#")
        path, section = Path(path), f"#{slug(anchor)}" if anchor else ""
        if path.suffix == ".ipynb":  # where the very run is missing, another one of the chapter
            same = [s for s in self.stems if s.split("_")[0] == path.stem.split("_")[0]]
            stem = path.stem if path.stem in same else min(same, default=None)
            return f"{stem}.html{section}" if stem else None
        if path.name == "DEVIATIONS.md":
            number = re.fullmatch(r"D\d+", label)
            return f"deviations.html{f'#{label}' if number else section}"
        if path.parent.name == CORE.name and (CORE / path.name).is_file():
            name, line = (re.findall(r"\w+", label) or [""])[-1], re.match(r"L\d+", anchor)
            if name in lines_of(path.stem):  # its line may have moved since the execution
                return f"core/{path.stem}.html#{name}"
            return f"core/{path.stem}.html{f'#{line[0]}' if line else ''}"
        return section if url.startswith("#") else None


def plain(html: str) -> str:
    """The text of a piece of HTML."""
    return re.sub(r"<[^>]*>", "", html).strip()


def slug(text: str) -> str:
    """Text as an anchor."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def tidy_table(source: str, columns: tuple[str, ...] = ()) -> str:
    """A Markdown table and what follows it, with columns of numbers set to the right.

    Args:
        columns: these in this order, and nothing of what follows; without any, everything.
    """
    lines = source.splitlines()
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines if x.startswith("|")]
    found = []
    for name, _, *cells in zip(*rows, strict=True):
        filled = [cell for cell in cells if cell]
        right = filled and all(re.fullmatch(r"-?[\d.]+( ± [\d.]+)?", cell) for cell in filled)
        found.append((name, "---:" if right else "---", *cells))
    if columns:
        found = [column for name in columns for column in found if column[0] == name]
    table = [f"| {' | '.join(row)} |" for row in zip(*found, strict=True)]
    return "\n".join(table if columns else [*table, *lines[len(rows) :]])


# --- pages -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """One executed notebook; `run` is set, and part of `name`, where there is one copy per run."""

    stem: str
    title: str
    run: str
    question: str
    notebook: NotebookNode

    @property
    def name(self) -> str:
        return f"{self.title}: {self.run}" if self.run else self.title

    @property
    def link(self) -> str:
        return f'<a href="{self.stem}.html">{escape(self.name)}</a>'


def read_chapter(path: Path) -> Chapter:
    """An executed notebook with its title and its question; `NotebookError` when it is none."""
    notebook = read(path)
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"^# +(.+)", text, re.MULTILINE)
    run = re.search(r"_([^_]+-s\d+)$", path.stem)
    question = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|\Z)", text, re.DOTALL)
    title, run, question = (match[1] if match else "" for match in (title, run, question))
    return Chapter(path.stem, unmarked(title) or path.stem, run, question, notebook)


def unmarked(text: str) -> str:
    """A heading without its Markdown."""
    return re.sub(r"[`*$]", "", text)


def take_images(chapter: Chapter, folder: Path) -> None:
    """Move the chapter's images to `folder`/images, described by the heading above each."""
    heading = chapter.title
    for number, cell in enumerate(chapter.notebook.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            heading = [heading, *re.findall(r"^#{1,6} +(.+)", text, re.MULTILINE)][-1]
        outputs = [output for output in cell.get("outputs", []) if "data" in output]
        for place, output in enumerate(outputs):
            data = output.data
            shown = [k for k in SHOWN if k in data and "<script" not in data[k]]
            output.data = NotebookNode({kind: data[kind] for kind in shown})
            for kind in set(shown) & {"image/png", "image/jpeg"}:
                name = f"images/{chapter.stem}-{number}-{place}.{kind.split('/')[1]}"
                (folder / name).write_bytes(content := base64.b64decode(data[kind]))
                width, height = Image.open(io.BytesIO(content)).size
                about = {"width": width, "height": height}
                about["alt"] = f"figure under '{unmarked(heading)}'"
                output.metadata = NotebookNode({"filenames": {kind: name}, kind: about})


def chapter_body(chapter: Chapter, exporter: HTMLExporter, stems: list[str]) -> str:
    """One executed notebook, its sections listed below the title."""
    markdown = Markdown(f"{chapter.stem}.ipynb", stems)
    exporter.register_filter("markdown2html", markdown.html)
    body, _ = exporter.from_notebook_node(chapter.notebook)
    body = re.sub(
        r'<img ([^>]*src="([^"]+)"[^>]*)>', r'<a href="\2"><img loading="lazy" \1></a>', body
    )
    sections = markdown.sections.items()
    items = [f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in sections]
    run = f'<p class="note">Run {chapter.run}</p>\n' if chapter.run else ""
    return body.replace("</h1>", f'</h1>\n{run}<ul class="contents">{"".join(items)}</ul>', 1)


def index_body(profile: str, results: Path, chapters: list[Chapter]) -> str:
    """Results first, then the chapters and their questions."""
    markdown = Markdown("index", [chapter.stem for chapter in chapters])
    data = DATA.get(profile, f"the data of profile {profile}")
    parts = [markdown.html(INTRODUCTION.format(data=data))]
    for name, caption in FIGURES.items():
        path, saved = f"figures/{name}.png", re.compile(rf"save_figure\(.*\b{name}\b")
        if (results / path).is_file():
            made = [c for c in chapters if any(saved.search(x.source) for x in c.notebook.cells)]
            with Image.open(results / path) as image:
                size = f'width="{image.width}" height="{image.height}"'
            image = f'<img src="{path}" alt="{escape(caption)}" {size} loading="lazy">'
            caption = escape(caption) + "".join(f" ({chapter.link})" for chapter in made[:1])
            caption = f"<figcaption>{caption}.</figcaption>"
            parts.append(f'<figure><a href="{path}">{image}</a>{caption}</figure>')
    table = (results / "tables/table2.md").read_text(encoding="utf-8")
    parts += ["<h2>Table 2, measured</h2>", markdown.html(tidy_table(table, COLUMNS))]
    more = '<a href="tables.html#table2">All columns</a>'
    parts += [f'<p class="note">AP in percent, mean ± standard deviation over seeds. {more}</p>']
    parts += ['<h2 id="chapters">Chapters</h2>', "<dl>"]
    for title in dict.fromkeys(chapter.title for chapter in chapters):
        same = [chapter for chapter in chapters if chapter.title == title]
        runs = [f'<a href="{c.stem}.html">{c.run}</a>' for c in same if c.run]
        runs = f"<p>Runs: {', '.join(runs)}</p>" if runs else ""
        parts.append(f'<dt><a href="{same[0].stem}.html">{escape(title)}</a></dt>')
        parts.append(f"<dd>{markdown.html(same[0].question)}{runs}</dd>")
    return "\n".join([*parts, "</dl>"])


def core_body(modules: list[str]) -> str:
    """The modules of the core: lines, and the first line of each docstring."""
    rows = []
    for module in modules:
        lines = (CORE / f"{module}.py").read_text(encoding="utf-8").splitlines()
        about = escape(lines[0].strip('"')) if lines else ""
        rows.append((f'<a href="{module}.html"><code>{module}</code></a>', len(lines), about))
    cells = "".join('<tr><td>{}<td class="right">{}<td class="middle">{}'.format(*r) for r in rows)
    head = '<tr><th>module<th class="right">lines<th>what it is'
    return f'<h1>The core</h1>\n<div class="scroll"><table>{head}{cells}</table></div>'


def source_body(module: str) -> str:
    """A module of the core with an anchor per line, such as L35, and one per top-level name."""
    source = (CORE / f"{module}.py").read_text(encoding="utf-8")
    names = {line: name for name, line in lines_of(module).items()}
    code = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    rows = []
    for number, line in enumerate(code.splitlines(), 1):
        line = f'<span id="{names[number]}">{line}</span>' if number in names else line
        link = f'<a class="line" href="#L{number}">{number}</a>'
        rows.append(f'<span id="L{number}">{link}{line}</span>\n')
    title = f"<h1><code>lightdet_core/{module}.py</code></h1>"
    return f'{title}\n<div class="highlight source"><pre>{"".join(rows)}</pre></div>'


def page(path: Path, part: str, title: str, body: str) -> None:
    """Write one page with the bar that all pages have, in which `part` is where it belongs."""
    up = "../" if path.parent.name == "core" else ""
    links = []
    for name, target in BAR.items():
        current = ' aria-current="true"' if name == part else ""
        links.append(f'<a href="{up}{target}"{current}>{name}</a>')
    text = PAGE.format(title=escape(title), up=up, bar="\n".join(links), body=body)
    path.write_text(text, encoding="utf-8")


# --- the site --------------------------------------------------------------------------------


def build(profile: str, out: Path) -> int:
    """Write the site of a profile's results; an older one at `out` stays until all is written.

    Returns:
        The number of pages.

    Raises:
        SiteError: no results, a formula that cannot be read, or `out` holds something else.
        NotebookError: an executed notebook cannot be read.
    """
    results, out = ROOT / "results" / profile, out.resolve()
    if not (results / "tables/table2.md").is_file():
        missing = (results / "tables/table2.md").relative_to(ROOT)
        raise SiteError(f"{missing}: not found; `make repro PROFILE={profile}` makes it")
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / MARKER).is_file():
        raise SiteError(f"{out}: no site that this command made; take another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        new = Path(scratch) / "new"
        write(profile, results, new)
        if out.exists():
            os.replace(out, Path(scratch) / "old")
        os.replace(new, out)
    return len(list(out.rglob("*.html")))


def write(profile: str, results: Path, folder: Path) -> None:
    """All pages, images and the style of the site into `folder`, which must not exist."""
    for name in ("core", "figures", "images"):
        (folder / name).mkdir(parents=True)
    (folder / MARKER).touch()
    for path in (results / "figures").glob("*.png"):
        shutil.copyfile(path, folder / "figures" / path.name)
    shutil.copyfile(CORE / "site.css", folder / "site.css")

    chapters = [read_chapter(path) for path in sorted((results / "notebooks").glob("*.ipynb"))]
    stems = [chapter.stem for chapter in chapters]
    page(folder / "index.html", "Results", "Results", index_body(profile, results, chapters))
    body = f"<h1>Tables of profile {profile}</h1>\n"
    for path in sorted((results / "tables").glob("*.md")):
        table = Markdown(path.name, stems).html(tidy_table(path.read_text(encoding="utf-8")))
        body += f'<h2 id="{path.stem}">{path.stem}</h2>\n{table}'
    page(folder / "tables.html", "Tables", "Tables", body)
    text = (ROOT / "DEVIATIONS.md").read_text(encoding="utf-8")
    body = Markdown("DEVIATIONS.md", stems).html(text)
    page(folder / "deviations.html", "Deviations", "Deviations", body)

    modules = sorted(path.stem for path in CORE.glob("*.py"))
    page(folder / "core/index.html", "Core", "Core", core_body(modules))
    for module in modules:
        page(folder / f"core/{module}.html", "Core", f"{module}.py", source_body(module))

    hidden = {"exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", **hidden)
    exporter.register_filter("clean_html", lambda code: code)  # our own, and slow to clean
    for number, chapter in enumerate(chapters):
        take_images(chapter, folder)
        around = "".join(f'<span class="before">{c.link}</span>' for c in chapters[:number][-1:])
        around += "".join(
            f'<span class="after">{c.link}</span>' for c in chapters[number + 1 :][:1]
        )
        body = chapter_body(chapter, exporter, stems)
        body = f'<nav class="around">{around}</nav>\n{body}\n<nav class="around">{around}</nav>'
        page(folder / f"{chapter.stem}.html", "Chapters", chapter.name, body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the site of a profile's results.")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="its folder")
    args = parser.parse_args()
    count = build(args.profile, args.out)
    print(f"{args.out / 'index.html'}: {count} pages")


if __name__ == "__main__":
    run_cli(main)
