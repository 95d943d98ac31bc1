"""A page becomes the candidates that are on it, in time proportional to its length whatever it holds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.data.web import html as pages


def rows_of(html: str, url: str = "http://site.example/dir/page.html") -> list[dict]:
    return [dict(zip(pages.COLUMNS, row)) for row in pages.page_rows(html, url)]


def pairs(html: str) -> list[tuple[str, str]]:
    return [(row["url"].removeprefix("http://site.example"), row["text"]) for row in rows_of(html)]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src=a.jpg alt='x y'>", [("/dir/a.jpg", "x y")]),
        ("<IMG ALT=one SRC='../b.jpg'/>", [("/b.jpg", "one")]),
        ("<base href='/deep/'><base href='/no/'><img src=a.jpg alt=t>", [("/deep/a.jpg", "t")]),
        ("<img src=a.jpg alt=t><base href='http://site.example/late/'>", [("/late/a.jpg", "t")]),
        ("<img src='//site.example/a.jpg#part' alt=t>", [("/a.jpg", "t")]),
        ("<img src=' my photo é.jpg\n' alt=t>", [("/dir/my%20photo%20%C3%A9.jpg", "t")]),
        ("<img src='?id=1&copy=2&amp;x=3' alt='a &amp; b &lt;b&gt;'>", [("/dir/page.html?id=1&copy=2&x=3", "a & b <b>")]),
        ("<img src=data:image/gif;base64,R0 data-src=/lazy.jpg alt=t>", [("/lazy.jpg", "t")]),
        ("<img src=wait.gif data-original=/o.jpg alt=t>", [("/o.jpg", "t")]),
        ("<img src=s.jpg srcset='m.jpg 480w, l.jpg 1024w,k.jpg 700w' alt=t>", [("/dir/l.jpg", "t")]),
        ("<img src=s.jpg srcset='a,b.jpg, c.jpg 1.5x, d.jpg 3x' alt=t>", [("/dir/d.jpg", "t")]),
        ("<img src=s.jpg data-srcset='data:image/png;base64,AA,A 9x, c.jpg 2x' alt=t>", [("/dir/c.jpg", "t")]),
        ("<img src=s.jpg srcset='' alt=t>", [("/dir/s.jpg", "t")]),
        (
            "<picture><source type=image/avif srcset='n.avif 2000w'><source srcset='y.webp 900w'><img src=s.jpg alt=t></picture>"
            "<img src=z.jpg alt=u>",
            [("/dir/y.webp", "t"), ("/dir/z.jpg", "u")],
        ),
        ("<video><source srcset=no.jpg></video><img src=a.jpg alt=t>", [("/dir/a.jpg", "t")]),
        (
            "<figure><a href=/x><img src=a.jpg alt=''></a><figcaption>The <b>old</b> to<i>wn</i><br>here</figcaption></figure>",
            [("/dir/a.jpg", "The old town here")],
        ),
        (
            "<figure><figcaption>First</figcaption><img src=a.jpg alt=alt></figure><img src=b.jpg>",
            [("/dir/a.jpg", "alt"), ("/dir/a.jpg", "First")],
        ),
        ("<figure><img src=a.jpg><figcaption>Never closed", [("/dir/a.jpg", "Never closed")]),
        ("<noscript><img src=a.jpg alt=t></noscript><img src=a.jpg alt=t>", [("/dir/a.jpg", "t")]),
        ("<!-- <img src=no.jpg alt=no> --><!--><img src=a.jpg alt=t>", [("/dir/a.jpg", "t")]),
        (
            "<script>'<img src=no.jpg alt=no>'</script><textarea><img src=no alt=no></textarea><img src=a alt=t>",
            [("/dir/a", "t")],
        ),
        ("<img =x src=a.jpg alt=it's><img alt='x > y' src=b.jpg>", [("/dir/a.jpg", "it's"), ("/dir/b.jpg", "x > y")]),
        ("<img alt=first alt=second src=a.jpg>", [("/dir/a.jpg", "first")]),
        (
            "<div><p><img src=a.jpg alt='in unclosed'><table><img alt=b src=b.jpg",
            [("/dir/a.jpg", "in unclosed"), ("/dir/b.jpg", "b")],
        ),
        ("<imgs src=no.jpg alt=no><image src=no.jpg alt=no>", []),
        (
            "<img src=javascript:alert(1) alt=t><img src=file:///etc/passwd alt=t><img src=ftp://h/a alt=t><img src='http://[' alt=t>",
            [],
        ),
        ("<img src='http:///nohost.jpg' alt=t><img src='https://' alt=t>", []),
    ],
)
def test_markup(html, expected):
    assert pairs(html) == expected


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("<!-- menu -->", 1),
        ("<!-- menu --!>", 1),
        ("<!-->", 1),
        ("<!--->", 1),
        ("<!----!>", 1),
        ("<!--!>", 0),
        ("<!--!> x -->", 1),
        ("<!-- a -- > b --!>", 1),
        ("<!-- a --!x", 0),
        ("<!-- never closed", 0),
        ("<![CDATA[", 0),  # up to the end of the tag behind it, as `<!DOCTYPE` and `<?xml`
        ("<?php echo '", 0),
        ("<![if !IE]>", 1),
        ("<!", 0),
    ],
)
def test_a_comment_ends_where_browsers_end_it(comment, found):
    """HTML standard, 13.2.5.43 to 13.2.5.52."""
    assert len(pairs(f"{comment}<img src=a.jpg alt=t>")) == found


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("src=/real.jpg data-lazy=true", "/real.jpg"),
        ("src=/real.jpg data-original=false", "/real.jpg"),
        ("src=/real.jpg data-url=/shop/item-5", "/real.jpg"),
        ("src=/real.jpg data-src='{{ picture }}'", "/real.jpg"),
        ("src=/real.jpg data-src='${base}/a.jpg'", "/real.jpg"),
        ("src=/real.jpg data-url=/images/5/shop", "/real.jpg"),
        ("src=/real.jpg data-src=/large.jpg?w=900", "/large.jpg?w=900"),
        ("src=/real.jpg data-src=/image/5", "/image/5"),
        ("src=/wait.gif data-src=/5", "/5"),
        ("src=/spacer.png data-lazy=true", "/spacer.png"),
        ("src='{{ picture }}' data-src=/5", "/5"),
        ("data-src=/5", "/5"),
        ("src='{{ picture }}'", None),
        ("src=/real.jpg srcset='{{ a }} 900w, /b.jpg 300w'", "/b.jpg"),
        ("data-lazy=true", None),
        ("src=/real.jpg data-lazy=1", "/real.jpg"),
        ("src=/dir/5", "/dir/5"),
    ],
)
def test_the_address_is_one_of_a_picture(attributes, expected):
    assert [url for url, _ in pairs(f"<img alt=t {attributes}>")] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("html", "texts"),
    [
        ("<img src=a alt='' title='the title' aria-label=no>", ["the title"]),
        ("<img src=a aria-label='the label'>", ["the label"]),
        ("<img src=a alt=alt title=no>", ["alt"]),
        ("<a href=/x title='the link'><span><img src=a></span></a>", ["the link"]),
        ("<a href=/x title='the link'></a><img src=a>", []),
        ("<a href=/x><img src=a></a>", []),
        ("<amp-img src=a alt='in amp' width=3></amp-img>", ["in amp"]),
        ("<amp-img src=a alt='in amp'><noscript><img src=a alt='in amp'></noscript></amp-img>", ["in amp"]),
        ("<div class=wp-caption><img src=a><p class='wp-caption-text x'>The <b>caption</b></p></div>", ["The caption"]),
        (
            "<dl><dt><img src=a alt=one></dt><dd class='wp-caption-text'>two</dd></dl><p class=wp-caption-text>no</p>",
            ["one", "two"],
        ),
        ("<p class=wp-caption-text>before</p><img src=a alt=one><p>plain</p>", ["one"]),
    ],
)
def test_texts_beside_a_picture_without_an_alternative_text(html, texts):
    counts = pages.Counts()
    rows = pages.page_rows(html, "http://h.example/", counts=counts)
    assert [row[1] for row in rows] == texts and counts["no_text"] == (not texts)


def test_what_gives_no_candidate_is_listed_with_its_place_and_only_so_long(monkeypatch):
    monkeypatch.setattr(pages, "LISTED", 2)
    counts = pages.Counts()
    pages.page_rows("<img src=a>" * 5 + "<img src=ftp://x alt=t>", "http://h.example/", "f:0:id", counts=counts)
    assert counts == {"no_text": 5, "bad_url": 1} and [row["reason"] for row in counts.listed] == [
        "no_text",
        "no_text",
        "bad_url",
    ]
    assert counts.listed[0] == {
        "url": "http://h.example/a",
        "page": "http://h.example/",
        "reason": "no_text",
        "source": "f:0:id",
    }


def test_the_nearest_heading_and_the_first_title():
    html = "<title> A &amp;\n B </title><svg><title>no</title></svg><img src=a alt=t><h1>One <a href=x>link</a></h1><p><img src=b alt=t>"
    html += "<h2>Two<img src=c alt=t></h2><h3>un<h4>closed<img src=d alt=t>"
    rows = rows_of(html)
    assert [row["heading"] for row in rows] == ["", "One link", "Two", "closed"]
    assert {row["title"] for row in rows} == {"A & B"}


def test_kinds_and_reasons_are_counted():
    counts = pages.Counts()
    html = "<img src=a><img alt=x><img src=data:x alt=x><img src=mailto:x alt=x><img src=a alt=b><img src=a alt=b><img srcset=c alt=d>"
    rows = pages.page_rows(html, "http://h.example/", counts=counts)
    assert [row[6] for row in rows] == ["img", "srcset"]
    assert counts == {"no_text": 1, "no_url": 2, "bad_url": 1, "duplicate_on_page": 1}
    assert set(counts) <= set(pages.REASONS)


def test_one_page_gives_only_so_many():
    counts = pages.Counts()
    html = "".join(f"<img src=/{i} alt=t>" for i in range(pages.MAX_PER_PAGE + 7))
    assert len(pages.page_rows(html, "http://h.example/", counts=counts)) == pages.MAX_PER_PAGE
    assert counts == {"too_many_on_page": 7}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (r"\img\a.jpg", "https://h.example/img/a.jpg"),
        (r"img\a.jpg", "https://h.example/dir/img/a.jpg"),
        (r"..\a.jpg", "https://h.example/a.jpg"),
        (r"\\other.example\a.jpg", "https://other.example/a.jpg"),
        (r"http:\\other.example\a.jpg", "http://other.example/a.jpg"),
        (r"http://other.example\@h.example/a.jpg", "http://other.example/@h.example/a.jpg"),
        (r"a.jpg?path=c:\x", r"https://h.example/dir/a.jpg?path=c:\x"),
        (r"a.jpg#\x?\y", "https://h.example/dir/a.jpg"),
        (r"a\b.jpg?\c#\d", r"https://h.example/dir/a/b.jpg?\c"),
        ("\\", "https://h.example/"),
        (r"javascript:\\h.example\a", None),
        (r"http:\\", None),
    ],
)
def test_backslashes_before_the_query_are_slashes(reference, expected):
    assert pages.absolute_url(reference, "https://h.example/dir/page.html?q") == expected
    assert pages.absolute_url(reference, "https:\\\\h.example\\dir\\page.html?q") == expected


def test_bytes_become_text_whatever_is_told():
    pytest.importorskip("resiliparse", reason="the extra [data] is not installed")
    assert pages.decode("Zürich".encode("latin-1"), "iso-8859-1") == "Zürich"
    assert pages.decode("Zürich".encode(), "zlib") == pages.decode("Zürich".encode(), None) == "Zürich"
    assert pages.decode("Zürich".encode("utf-16"), "utf-8") == "Zürich"
    assert pages.decode("<meta charset=koi8-r>вид".encode("koi8-r"), None).endswith("вид")
    assert "one" in pages.decode(b"one \xff\xfe\x81", "utf-8")


@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1", "windows-1252"])
@pytest.mark.parametrize("text", ["it’s aerial", "Größe", "Vue aérienne de Zürich", "“Aerial view” – 1950’s"])
def test_windows_1252_and_utf8_are_told_apart_whatever_is_declared(text, charset):
    pytest.importorskip("resiliparse", reason="the extra [data] is not installed")
    page = "<p>hello world" + " and so on" * 2000 + f"<img src=a.jpg alt='{text}'>"
    assert text in pages.decode(page.encode("cp1252"), charset) and text in pages.decode(page.encode(), charset)


def test_a_few_broken_bytes_do_not_make_utf8_something_else():
    pytest.importorskip("resiliparse", reason="the extra [data] is not installed")
    page = "Luftbild der Stadt Köln über dem Rhein, Größe, für später".encode() + b" \xe9 "
    assert "Köln über" in pages.decode(page, "utf-8") and "Größe" in pages.decode(page, None)
    assert pages.decode_cell(page).startswith("Luftbild der Stadt Köln")


def test_directives_for_machines_are_read_from_page_and_server():
    headers = [("X-Robots-Tag", "noimageai"), ("x-robots-tag", "otherbot: noindex, none"), ("A", "noai")]
    headers += [("TDM-Reservation", "1")]
    assert pages.served_robots(headers) == "noimageai,tdm-reservation" and pages.served_robots([]) == ""
    html = "<meta name=robots content='max-snippet:5, NoIndex'><meta name=tdm-reservation content=1><img src=a alt=t>"
    assert pages.page_rows(html, "http://h.example/", robots="noai")[0][-1] == "noai,noindex,tdm-reservation"


# Hostile pages: the time is that of the length.


PIECES = (
    "<img src=\"·<img a='·<!--·<title ·<title>·<figure>·<figure><figcaption><img src=a alt=b>·<img  \t ·<h1>·<·<img a a a a ·"
    "<picture><source srcset='a 1w'>·<img src=a1 alt=b>·<figcaption><script ·<h1><img src=a alt=b>·&#9·<div>·<b id=1><p>·"
    "<img srcset='a,,, ,·<!--!>·<!-- --!·<a title=·<a title=x><img src=a>·<p wp-caption-text>·<img src=a><p class=wp-caption-text>·"
    "<img data-src=a src=a alt=b>·<amp-img ·</·<base href='http://[·<meta name=robots content=·\0·a,"
)


@pytest.mark.parametrize("piece", PIECES.split("·"))
def test_hostile_pages_take_linear_time(piece):
    start = time.process_time()
    wrappers = ("{}", "<img src=a alt='{}'>", "<figure><img src=a alt=b><figcaption>{}", "<img alt=x srcset='{}'>")
    for html in [wrapper.replace("{}", piece * (200_000 // len(piece))) for wrapper in wrappers]:
        pages.page_rows(html, "http://h.example/")
    assert time.process_time() - start < 8, "0.8 MB take a second on a busy machine, minutes if the time is quadratic"


def test_the_bomb_of_nested_formatting_is_none():
    """18 kB of which a tree builder makes 860 MB."""
    html = "<p>" + "".join(f"<b id={i}>" for i in range(1000)) + "<p>x" * 2000 + "<img src=a alt=t>"
    assert pairs(html) == [("/dir/a", "t")]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(list("<>/='\"!- \t&;#x1aimgsrcaltfigurecaptionh,")), max_size=300))
def test_any_markup_gives_rows(html):
    for row in pages.page_rows("<img src=a alt='" + html, "http://h.example/") + pages.page_rows(html, "http://h.example/"):
        assert row[0].startswith("http://") and row[1].strip() and all(isinstance(cell, str) for cell in row)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["", "http:", "https://h", "//", "/", "http://h/", "http://[::1]/", "http://\ud800/"]),
)
def test_any_address_is_http_or_nothing(text, prefix):
    url = pages.absolute_url(prefix + text, "https://base.example/x/")
    assert url is None or (url.startswith(("http://", "https://")) and "#" not in url and " " not in url)
    assert url is None or pages.absolute_url(url) == url
