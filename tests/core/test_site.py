"""The site: complete, self-contained, every link leads somewhere, and a real browser is content."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from lightdet_core.notebook import lines_of
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from playwright.sync_api import sync_playwright

from lightdet_core import notebook
from lightdet_core import site as site_module
from lightdet_core.config import ROOT, run_cli
from lightdet_core.site import Markdown, SiteError, build, tidy_table

RESULTS = ROOT / "results/demo"
NOTEBOOKS = sorted((RESULTS / "notebooks").glob("*.ipynb"))
MODULES = sorted(path.stem for path in (ROOT / "lightdet_core").glob("*.py"))
TABLE = "| experiment | AP | AP50 |\n| --- | --- | --- |\n| g1 | 1.50 ± 0.10 | 2.00 |\n\nNote.\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The demo's site, from the committed results."""
    folder = tmp_path_factory.mktemp("web") / "site"
    assert build("demo", folder) == len(list(folder.rglob("*.html")))
    return folder


class Page(HTMLParser):
    """What a page holds: anchors, links, images, headings, formulas, and its text without code."""

    def __init__(self, path):
        super().__init__()
        self.path, self.inside = path, Counter()
        self.tags, self.ids, self.images, self.headings, self.formulas = [], [], [], [], []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.inside[tag] += 1
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "img":
            self.images.append(dict(attrs))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")
        if tag == "math":
            self.formulas.append("")

    def handle_endtag(self, tag):
        self.inside[tag] -= 1

    def handle_data(self, data):
        if any(self.inside[f"h{level}"] for level in range(1, 7)):
            self.headings[-1] += data
        if self.inside["math"]:
            self.formulas[-1] += data
        if not any(self.inside[tag] for tag in ("code", "pre", "style")):
            self.text += data

    def values(self, name):
        return [(tag, attrs) for tag, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


# --- the files -------------------------------------------------------------------------------


def test_one_page_per_notebook_and_module_and_four_more(pages):
    expected = {"index.html", "tables.html", "deviations.html", "core/index.html"}
    expected |= {f"{path.stem}.html" for path in NOTEBOOKS}
    expected |= {f"core/{module}.html" for module in MODULES}
    assert set(pages) == expected


def problems_of_links(folder, pages):
    """Links and sources that lead to nothing, as text."""
    ids = {page.path.resolve(): set(page.ids) for page in pages.values()}
    found = []
    for name, page in pages.items():
        for kind in ("href", "src"):
            for _, attrs in page.values(kind):
                url = attrs[kind]
                if url == "data:,":  # the icon, for there is none
                    continue
                if re.match("https?:", url):
                    if kind == "src" or attrs.get("rel") != "noopener":
                        found.append(f"{name}: {url} is outside")
                    continue
                file, _, anchor = unquote(url).partition("#")
                path = (page.path.parent / file if file else page.path).resolve()
                if not path.is_relative_to(folder.resolve()) or not path.is_file():
                    found.append(f"{name}: {url} is no file")
                elif anchor and anchor not in ids[path]:
                    found.append(f"{name}: {url} is no anchor")
    return found


def test_every_link_leads_to_a_file_and_an_anchor(site, pages):
    assert problems_of_links(site, pages) == []
    for name, page in pages.items():
        assert [anchor for anchor, n in Counter(page.ids).items() if n > 1] == [], name


def test_no_script_and_nothing_from_outside(site, pages):
    for name, page in pages.items():
        for tag, attrs in page.tags:
            assert tag not in ("script", "iframe", "object", "embed"), name
            assert not [key for key in attrs if key.startswith("on")], name
    style = (site / "site.css").read_text()
    assert "url(" not in style and "@import" not in style
    kinds = {path.suffix for path in site.rglob("*") if path.is_file()}
    assert kinds <= {".html", ".css", ".png", ".jpeg", ""}  # "": the marker


def test_all_pages_share_the_bar_and_chapters_lead_on(pages):
    bar = ["index.html", "index.html#chapters", "tables.html", "deviations.html", "core/index.html"]
    for name, page in pages.items():
        links = [
            attrs["href"].removeprefix("../") for tag, attrs in page.values("href") if tag == "a"
        ]
        assert links[:5] == bar, name
        assert len(page.headings) >= 1, name
    for first, second in pairwise(NOTEBOOKS):
        for here, there in ((first, second), (second, first)):  # at the top and at the bottom
            links = [
                a["href"] for tag, a in pages[f"{here.stem}.html"].values("href") if tag == "a"
            ]
            around = [*links[5:7], *links[-2:]]
            assert around.count(f"{there.stem}.html") == 2


def test_formulas_are_mathml_and_no_tex_is_left(pages):
    for name, page in pages.items():
        assert not re.search(r"\$|\\[A-Za-z]+", page.text), name
        assert not [formula for formula in page.formulas if "\\" in formula or not formula.strip()]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        wanted = re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.DOTALL)
        assert len(pages[f"{path.stem}.html"].formulas) == len(wanted), path.name


def test_every_image_has_its_heading_or_caption_as_description(site, pages):
    for path in NOTEBOOKS:
        page, outputs = pages[f"{path.stem}.html"], []
        for cell in nbformat.read(path, 4).cells:
            outputs += [out.get("data", {}) for out in cell.get("outputs", [])]
        pictures = [data for data in outputs if {"image/png", "image/jpeg"} & set(data)]
        assert len(page.images) == len(pictures), path.name
        for image in page.images:
            described = re.fullmatch("figure under '(.+)'", image["alt"])
            assert described and described[1] in page.headings, image
            with Image.open(site / image["src"]) as file:
                assert (str(file.width), str(file.height)) == (image["width"], image["height"])
    images = pages["index.html"].images
    assert "figures/table2.png" in [image["src"] for image in images]
    for image in images:
        assert len(image["alt"].split()) >= 3 and image["alt"] in pages["index.html"].text


def test_results_stand_before_the_chapters_with_their_questions(pages):
    text = pages["index.html"].text
    row = (RESULTS / "tables/table2.md").read_text().splitlines()[2]
    (measured,) = re.findall(r"\| 3 \| ([\d.]+ ± [\d.]+) \|", row)  # AP of three seeds
    assert measured in text
    for path in NOTEBOOKS:
        first = nbformat.read(path, 4).cells[0].source
        question = re.search(r"\*\*Question\.\*\* ([^`*$\[\n]+)", first)[1]
        assert text.index(measured) < text.index(question), path.name


def test_core_pages_hold_the_source_line_by_line(pages):
    for module in MODULES:
        page = pages[f"core/{module}.html"]
        source = (ROOT / f"lightdet_core/{module}.py").read_text(encoding="utf-8")
        lines = [anchor for anchor in page.ids if re.fullmatch(r"L\d+", anchor)]
        assert lines == [f"L{n}" for n in range(1, len(source.splitlines()) + 1)], module
        for name, line in lines_of(module).items():
            assert page.ids[page.ids.index(f"L{line}") + 1] == name
        html = page.path.read_text(encoding="utf-8").split("<pre>")[1].split("</pre>")[0]
        shown = "".join(re.split(r'<a class="line" href="#L\d+">\d+</a>', html))
        shown = re.sub("<[^>]*>", "", shown)
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'")):
            shown = shown.replace(entity, sign)
        assert shown.replace("&amp;", "&") == source, module


# --- Markdown --------------------------------------------------------------------------------

STEMS = ["04_activations", "05_train_g2-s0", "05_train_g3-s0", "08_table2"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("[08](08_table2.ipynb)", "08_table2.html"),
        ("[08](08_table2.ipynb#What-we-saw)", "08_table2.html#what-we-saw"),
        ("[05](05_train.ipynb)", "05_train_g2-s0.html"),
        ("[05](05_train_g3-s0.ipynb)", "05_train_g3-s0.html"),
        ("[05](05_train_g1-s0.ipynb)", "05_train_g2-s0.html"),  # this profile has no g1
        ("[06](06_sparsity.ipynb)", None),
        ("[`quality_focal_loss`](../../../lightdet_core/losses.py#L9999)",
         "core/losses.html#quality_focal_loss"),
        ("[`losses.quality_focal_loss`](../lightdet_core/losses.py#L1)",
         "core/losses.html#quality_focal_loss"),
        ("[`quality_focal_loss()`](../lightdet_core/losses.py)",
         "core/losses.html#quality_focal_loss"),
        ("[the losses](../lightdet_core/losses.py#L3)", "core/losses.html#L3"),
        ("[the losses](../lightdet_core/losses.py)", "core/losses.html"),
        ("[gone](../lightdet_core/gone.py#L3)", None),
        ("[D5](../DEVIATIONS.md)", "deviations.html#D5"),
        ("[all](../DEVIATIONS.md)", "deviations.html"),
        ("[some](../../../DEVIATIONS.md#Architecture)", "deviations.html#architecture"),
        ("[settings](../../../params.yaml)", None),
        ("[below](#What-we-saw)", "#what-we-saw"),
        ("[paper](https://example.org/a?b=1)", "https://example.org/a?b=1"),
    ],
)  # fmt: skip
def test_links(source, target):
    html = Markdown("x", STEMS).html(source)
    label = re.match(r"\[`?(.+?)`?\]", source)[1]
    assert label in html
    assert re.findall('href="([^"]*)"', html) == ([target] if target else [])
    assert ('rel="noopener"' in html) == source.startswith("[paper]")


def test_dollars_in_code_stay_and_formulas_go():
    source = "`$HOME` and `$PATH`, `kill $$` or `$$`, 5 \\$, $a_b$ and\n$$\\frac{1}{2}$$\n\n"
    source += "```\nx = $a$ + $$b$$\n```\n\n| $x$ |\n| --- |\n| `$y$` |\n"
    html = Markdown("x", []).html(source)
    for kept in ("<code>$HOME</code>", "<code>$PATH</code>", "<code>kill $$</code>", "5 $,"):
        assert kept in html
    assert "x = $a$ + $$b$$\n" in html and "<code>$y$</code>" in html
    assert html.count("<math") == 3 and html.count('display="block"') == 1
    assert "<msub><mi>a</mi><mi>b</mi></msub>" in html and "<mfrac>" in html


def test_formulas_are_made_for_browsers():
    html = Markdown("x", []).html(r"$\max\big(\mathrm{IoU}, \xrightarrow{\text{PAN}}\big)$")
    assert "<mi>max</mi>" in html and "<mtext>IoU</mtext>" in html and ">PAN<" in html
    assert "minsize" not in html and 'width="+' not in html


@pytest.mark.parametrize(
    ("tex", "problem"),
    [("x_a_b", "DoubleSubscripts"), (r"\frac", "NoAvailable"), (r"\sgn x", r"\\sgn is not known")],
)
def test_a_formula_that_cannot_be_read_is_named(tex, problem):
    with pytest.raises(SiteError, match=f"x.ipynb: formula '.*': .*{problem}"):
        Markdown("x.ipynb", []).html(f"So ${tex}$ it is.")


def test_equal_headings_get_anchors_of_their_own():
    markdown = Markdown("x", [])
    html = markdown.html("## Try this\n\n### Try this\n\n## The `loss` of $x$\n")
    assert re.findall('id="([^"]*)"', html) == ["try-this", "try-this-2", "the-loss-of-x"]
    assert markdown.sections == {"try-this": "Try this", "the-loss-of-x": "The loss of x"}


def test_tables_set_numbers_right_and_keep_what_is_asked_for():
    assert tidy_table(TABLE).splitlines()[1] == "| --- | ---: | ---: |"
    assert tidy_table(TABLE).endswith("\n\nNote.")
    short = tidy_table(TABLE, ("AP50", "experiment", "seeds"))
    assert short == "| AP50 | experiment |\n| ---: | --- |\n| 2.00 | g1 |"
    twice = "| a | a |\n| --- | --- |\n| x | 1 |"
    assert tidy_table(twice).splitlines()[2] == "| x | 1 |"


# --- other results ---------------------------------------------------------------------------


def png(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The results folder of a repository with one made-up notebook and one module."""
    results = tmp_path / "results/demo"
    for name in ("tables", "notebooks"):
        (results / name).mkdir(parents=True)
    (results / "tables/table2.md").write_text(TABLE)
    (tmp_path / "DEVIATIONS.md").write_text("# Deviations\n\n| | What |\n|---|---|\n| D1 | all |\n")
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "text/plain": "a slider",
    }
    outputs = [
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", {"image/png": png(30, 20), "text/plain": "<Figure>"}),
        new_output("display_data", {"application/javascript": "alert(1)", "text/plain": "quiet"}),
        new_output("display_data", {"text/html": "<script>1</script>", "text/plain": "no script"}),
        new_output("display_data", widget),
    ]
    cells = [
        new_markdown_cell("# 03 · Made up\n\n**Question.** Does it\nwork?\n\n[02](02_gone.ipynb)"),
        new_code_cell("profile = 'demo'", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## First `part`\n\n```\n# no heading\n```\n"),
        new_code_cell("print('<b> & $x$')", outputs=outputs, execution_count=7),
        new_markdown_cell("[`atss`](../../../lightdet_core/assign.py#L1), [up](#First-part)"),
    ]
    nbformat.write(new_notebook(cells=cells), results / "notebooks/03_made_up.ipynb")
    core = tmp_path / "lightdet_core"
    core.mkdir()
    for name in ("assign.py", "site.css"):
        shutil.copyfile(ROOT / "lightdet_core" / name, core / name)
    monkeypatch.setattr(site_module, "ROOT", tmp_path)
    monkeypatch.setattr(site_module, "CORE", core)
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    return results


def test_a_made_up_notebook(small, tmp_path):
    build("demo", tmp_path / "out")
    page = Page(tmp_path / "out/03_made_up.html")
    pages = {str(p.relative_to(tmp_path / "out")): Page(p) for p in tmp_path.glob("out/**/*.html")}
    assert problems_of_links(tmp_path / "out", pages) == []
    html = page.path.read_text()
    assert "no script" in html and "quiet" in html and "a slider" in html and "a warning" in html
    assert "alert" not in html and "<script" not in html and "In&nbsp;" not in html
    assert page.headings == ["03 · Made up", "First part"]
    (image,) = page.images
    assert image["alt"] == "figure under 'First part'"
    assert (image["width"], image["height"]) == ("30", "20")
    assert "02_gone" not in html and 'href="core/assign.html#atss"' in html
    assert "Does it\nwork?" in pages["index.html"].text
    assert pages["index.html"].images == []  # there are no figures


def test_a_profile_without_notebooks(small, tmp_path):
    shutil.rmtree(small / "notebooks")
    assert build("demo", tmp_path / "out") == 5


def test_a_site_is_replaced_as_a_whole_or_not_at_all(small, tmp_path):
    out = tmp_path / "web/out"
    build("demo", out)
    (out / "stale.html").touch()
    build("demo", out)
    assert not (out / "stale.html").exists()

    before = (out / "index.html").read_bytes()
    (small / "tables/broken.md").write_text("| a |\n| --- |\n| 1 |\n\nSo $x_a_b$ it is.\n")
    with pytest.raises(SiteError, match=r"broken\.md: formula 'x_a_b': DoubleSubscriptsError"):
        build("demo", out)
    assert (out / "index.html").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_foreign_folders_and_files_are_refused(small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    build("demo", out)  # an empty folder is nobody's
    shutil.rmtree(out)
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(SiteError, match=r"out: no site .* --out"):
        build("demo", out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    shutil.rmtree(out)
    out.write_text("mine")
    with pytest.raises(SiteError, match="out: no site"):
        build("demo", out)
    assert out.read_text() == "mine"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["site", *map(str, arguments)])
    run_cli(site_module.main)


def test_the_command_says_where_the_site_is(small, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--out", tmp_path / "out")
    assert capsys.readouterr().out == f"{tmp_path / 'out/index.html'}: 6 pages\n"


def test_without_results_the_command_says_what_makes_them(small, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--profile", "coco", "--out", tmp_path / "out")
    assert capsys.readouterr().err == (
        "error: results/coco/tables/table2.md: not found; `make repro PROFILE=coco` makes it\n"
    )
    assert not (tmp_path / "out").exists()


# --- a real browser --------------------------------------------------------------------------


def find_browser(playwright):
    """The path of playwright's own Chromium, or of one on the PATH, or None."""
    if Path(playwright.chromium.executable_path).is_file():
        return playwright.chromium.executable_path
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, installed if there is none; without one the tests fail."""
    with sync_playwright() as playwright:
        if not find_browser(playwright):
            subprocess.run([ROOT / ".ci/browser"], check=False, timeout=900)
        if not (path := find_browser(playwright)):
            pytest.fail(
                "no browser: .ci/browser could not install one; install the package chromium, "
                "or run `playwright install chromium` with a network",
                pytrace=False,
            )
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


LOOK = """async () => {
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const flat = element => {
    const box = element.getBoundingClientRect();
    return box.width <= 0 || box.height <= 0;
  };
  return {
    "width": document.documentElement.scrollWidth,
    "images without pixels": images.filter(image => image.naturalWidth === 0).length,
    "flat formulas": [...document.querySelectorAll("math")].filter(flat).length,
    "unstyled": getComputedStyle(document.body).marginTop === "0px" ? 0 : 1,
    "small text": [...document.querySelectorAll("p, li, td, pre")].filter(
      element => parseFloat(getComputedStyle(element).fontSize) < 12).length,
  };
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_load_and_fit(browser, site, pages, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    problems, now = [], ""
    page.on("console", lambda message: problems.append(f"{now}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"{now}: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"{now}: {request.url} failed"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or problems.append(f"{now}: {request.url}")
        ),
    )
    for now in pages if width == 390 else [name for name in pages if "core/" not in name]:
        page.goto((site / now).as_uri())
        found = page.evaluate(LOOK)
        if found.pop("width") > width + 1:
            problems.append(f"{now}: wider than {width} px")
        problems += [f"{now}: {count} {what}" for what, count in found.items() if count]
    page.close()
    assert problems == []


def test_links_can_be_followed(browser, site, pages):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    chapters = [f"{path.stem}.html" for path in NOTEBOOKS]

    def here():
        return str(Path(unquote(page.url.removeprefix("file://")).split("#")[0]).relative_to(site))

    for start in (chapters[0], "core/losses.html"):
        for label, target in site_module.BAR.items():
            page.goto((site / start).as_uri())
            page.locator(".bar").get_by_role("link", name=label, exact=True).click()
            assert here() == target.split("#")[0]
            assert page.url.endswith(target)
    page.goto((site / chapters[0]).as_uri())
    for name in chapters[1:]:  # on and on, from the first to the last
        page.locator(".after a").last.click()
        assert here() == name
    page.locator(".before a").first.click()
    assert here() == chapters[-2]
    page.goto((site / "core/losses.html").as_uri() + "#quality_focal_loss")
    shown = page.evaluate("document.querySelector(':target').textContent")
    assert shown.startswith("def quality_focal_loss(")
    page.close()
