"""The site: complete, self-contained, every link leads somewhere, and a real browser is content."""

import html
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from lightdet_core.config import root

RESULTS = root() / "results/demo"
NOTEBOOKS = sorted((RESULTS / "notebooks").glob("*.ipynb"))


def make(*arguments):
    """`make site` in this environment, whose stamp counts as new."""
    command = ["make", "--no-print-directory", "--old-file=.venv/.installed", "site", *arguments]
    return subprocess.run(command, cwd=root(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The demo's site, from the committed results; a warning would be an error."""
    folder = tmp_path_factory.mktemp("web") / "site"
    done = make(f"SITE={folder}", "PROFILE=demo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in folder.parent.iterdir()] == ["site"]
    return folder


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("conf", root() / "docs/conf.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def find_browser(playwright):
    """The path of playwright's own Chromium, or of one on the PATH, or None."""
    if Path(playwright.chromium.executable_path).is_file():
        return playwright.chromium.executable_path
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, installed if there is none; without one the tests fail."""
    with sync_playwright() as playwright:
        if not find_browser(playwright):
            subprocess.run([root() / ".ci/browser"], check=False, timeout=900)
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
  const all = selector => [...document.querySelectorAll(selector)];
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  const boxes = all("article math").map(formula => formula.getBoundingClientRect());
  return {
    "too wide": Math.max(0, document.documentElement.scrollWidth - innerWidth),
    "images without pixels": all("img").filter(image => image.naturalWidth === 0).length,
    "flat formulas": boxes.filter(box => box.width <= 0 || box.height <= 0).length,
    "formulas": boxes.length,
    "ids": all("[id]").map(element => element.id),
    "links": all("a[href]").map(a => a.href),
    "alts": all("article img").map(image => image.alt),
    "text": all("article").map(element => element.textContent).join(" "),
  };
}"""


@pytest.fixture(scope="module")
def seen(browser, site):
    """Every page as a phone shows it: name -> what is on it; and everything that went wrong."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    pages, problems, now = {}, [], ""

    def listen(event, told):
        page.on(event, lambda x: (text := told(x)) and problems.append(f"{now}: {text}"))

    listen("console", lambda m: m.text if m.type in ("error", "warning") else None)
    listen("pageerror", str)
    listen("requestfailed", lambda request: f"{request.url} failed")
    listen("request", lambda r: None if r.url.startswith(("file:", "data:")) else r.url)
    for path in sorted(site.rglob("*.html")):
        now = str(path.relative_to(site))
        page.goto(path.as_uri())
        pages[now] = found = page.evaluate(LOOK)
        kinds = ("too wide", "images without pixels", "flat formulas")
        problems += [f"{now}: {found[kind]} {kind}" for kind in kinds if found[kind]]
    page.close()
    return pages, problems


def test_pages_load_without_a_network_and_fit_a_phone(seen):
    assert seen[1] == []


def test_every_link_leads_to_a_page_and_an_anchor(site, seen):
    ids = {site / name: ["", *page["ids"]] for name, page in seen[0].items()}
    links = {(name, unquote(link)) for name, page in seen[0].items() for link in page["links"]}
    for name, link in links:
        path, _, anchor = link.removeprefix("file://").partition("#")
        if link.startswith("file:") and Path(path).suffix == ".html":
            assert anchor in ids[Path(path)], f"{name}: {link}"
        elif link.startswith("file:"):
            assert Path(path).is_file(), f"{name}: {link}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_and_no_formula_of_a_chapter_is_lost(path, seen):
    page, pictures = seen[0][f"{path.stem}.html"], 0
    cells = nbformat.read(path, 4).cells
    for output in [output for cell in cells for output in cell.get("outputs", [])]:
        data = output.get("data", {})
        if {"image/png", "image/jpeg"} & set(data):
            pictures += 1
            continue
        text = output.get("text") or data.get("text/html") or data["text/plain"]
        text = html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL))
        assert [word for word in text.split() if word not in page["text"]] == []
    described = [alt for alt in page["alts"] if re.fullmatch("figure under '.+'", alt)]
    assert len(page["alts"]) == len(described) == pictures
    source = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    source = re.sub(r"```.*?```|`[^`\n]*`", "", source, flags=re.DOTALL)
    assert page["formulas"] == len(re.findall(r"\$\$.+?\$\$|\$.+?\$", source, re.DOTALL))


def test_numbers_of_table_2_are_those_of_the_results(seen):
    lines = (RESULTS / "tables/table2.md").read_text("utf-8").splitlines()
    head, _, *rows = [[c.strip() for c in x.split("|")[1:-1]] for x in lines if x[:1] == "|"]
    for page, columns in (("tables.html", head), ("index.html", ("experiment", "AP", "AP50"))):
        for row in rows:
            cells = [x for name, x in zip(head, row, strict=True) if name in columns and x]
            assert " ".join(cells) in " ".join(seen[0][page]["text"].split())


def test_links_to_the_core_lead_to_the_source_and_it_to_the_reference(browser, site):
    page = browser.new_page()
    page.goto((site / "03_losses_and_assignment.html").as_uri())
    page.get_by_role("link", name="quality_focal_loss", exact=True).first.click()
    assert page.url.endswith("/_modules/lightdet_core/losses.html#quality_focal_loss")
    assert "def quality_focal_loss(" in page.locator(":target").inner_text()
    page.locator(":target").get_by_role("link", name="[docs]").click()
    entry = page.locator(":target").locator("xpath=..").inner_text()
    for words in ("quality_focal_loss", "beta: float = 2.0", "summed over C"):
        assert words in entry
    page.close()


def test_search_works_from_the_disk(browser, site):
    page = browser.new_page()
    page.goto((site / "search.html").as_uri() + "?q=distillation")
    page.get_by_role("link", name="07 · Localization distillation").last.click()
    assert "07_distillation.html" in page.url
    page.close()


@pytest.mark.parametrize(
    ("source", "moved"),
    [
        ("[04](04_activations.ipynb#What-we-saw)", "[04](04_activations.ipynb#what-we-saw)"),
        ("[05](05_train_g1-s0.ipynb)", "[05](05_train_g2-s0.ipynb)"),  # this profile has no g1
        ("[06](06_sparsity.ipynb)", "06"),
        ("[fit](../lightdet_core/train.py)", "[fit](page:_modules/lightdet_core/train.html#fit)"),
        ("[gone](../../../lightdet_core/gone.py#L3)", "gone"),
        ("[D5](../DEVIATIONS.md)", "[D5](deviations.md#d5)"),
        ("[rules](../data/README.md)", "[rules](data.md)"),
        ("[guide](docs/own_data.md)", "[guide](own_data.md)"),
        ("[guide](deploy.md)", "[guide](deploy.md)"),
        ("[table](../results/demo/tables/table1.md)", "[table](tables.md#table1)"),
        ("[table](../results/bccd/tables/table1.md)", "table"),
        ("[settings](../../../params.yaml)", "settings"),
        ("[times](compare-%2Bamp.json)", "times"),
        ("[paper](https://example.org/a.html)", "[paper](https://example.org/a.html)"),
    ],
)  # fmt: skip
def test_links(conf, source, moved):
    assert conf.links(source, ["04_activations", "05_train_g2-s0", "05_train_g3-s0"]) == moved


def test_parameters_stand_once_as_they_count(conf):
    def cell(source, tag):
        return nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})

    defaults = cell('profile = "smoke"\nrun = "g1"  # a run\nimages = ""', "parameters")
    given = cell('# Parameters\nprofile = "demo"\nrun = "g\\1"\n', "injected-parameters")
    notebook = nbformat.v4.new_notebook(cells=[defaults, given])
    conf.prepare(notebook, "00_quickstart", [])
    assert [x.source for x in notebook.cells] == [
        'profile = "demo"\nrun = "g\\1"  # a run\nimages = ""'
    ]


def test_a_verdict_stands_beside_its_claim(conf, tmp_path):
    path = tmp_path / "verdicts.md"
    path.write_text("| claim | demo | verdict |\n|---|---|---|\n| it helps | +1.0 | open |\n\nrule")
    lines = conf.verdicts(path).splitlines()
    assert lines[0] == "| claim | verdict | demo |" and lines[-1] == "rule"
    assert lines[2] == "| it helps | open | +1.0 |"


def test_docstrings_are_plain_text_and_formulas_that_cannot_be_read_are_errors(conf):
    lines = ["f: |x|*2 of `a`, `a <b>`.", "", "    a_", "", "Args:", "    a: (N,). b_: (M,)."]
    conf.to_rst(None, "function", "f", None, None, lines)
    assert lines[:5] == [r"f: \|x\|\*2 of `a`, ``a <b>``.", "", "::", "", "    a_"]
    assert lines[5:] == ["", "Args:", "    a: (N,).", r"    b\_: (M,)."]
    assert "<mtext>IoU</mtext>" in conf.mathml(r"\max\big(\mathrm{IoU}\big)", "inline")
    with pytest.raises(ValueError, match=r"\\sgn is not known"):
        conf.mathml(r"\sgn x", "inline")


def test_what_somebody_else_made_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    done = make(f"SITE={tmp_path}")
    assert done.returncode and f"error: {tmp_path}: is no site" in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_results_one_line_says_what_makes_them(tmp_path):
    done = make(f"SITE={tmp_path / 'site'}", "PROFILE=coco")
    error, _ = done.stderr.splitlines()  # and one of make's own
    missing = "results/coco/tables/table2.md: not found"
    assert error == f"error: {missing}; `make repro PROFILE=coco` makes it"
    assert not (tmp_path / "site").exists()
