"""Pages: what we read without a tree, and what a browser's parser finds in its tree."""

from __future__ import annotations

from collections import Counter
from html import escape
from urllib.parse import urljoin

import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm.data.web import html

parser = pytest.importorskip("resiliparse.parse.html", reason="resiliparse is not installed")

PAGE = "https://maps.example/a/b.html?x=1"
WORDS = (
    "port",
    "aerial view",
    "Zürich",
    "日本",
    "a > b",
    "5 < 6",
    "R&D",
    "Tom &amp Jerry"[:3],
    "it's",
    'so "called"',
    "caf\u00e9",
    "<b>",
    "--",
    "{x}",
)
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
ADDRESSES = st.sampled_from(
    [
        "/a.jpg",
        "b.png",
        "../c.webp",
        "./d.jpg",
        "//cdn.example/e.jpg",
        "https://o.example/f.jpg",
        "g.jpg?w=1&copy=2",
        "?id=7",
        "h.jpg#top",
        "i j.jpg",
    ]
)
IN_TEXT = (
    "port",
    "a &lt;b&gt;",
    "<b>bold</b>",
    "x &amp; y",
    "<p>",
    "</p>",
    "<br/>",
    "<td>",
    "</div>",
    "<i>",
    "< 3",
    "<>",
    "</>",
    "&copy",
    "<3>",
    "]]>",
)
HIDING = (
    ("<!--", "-->"),
    ("<!-- x > ", "--!>"),
    ("<!-- <!-- ", "-->"),
    ("<!---", "-->"),
    ("<script>", "</script>"),
    ("<SCRIPT type='x>y'>", "</SCRIPT >"),
    ("<style media=all>", "</style\n>"),
    ("<textarea rows='2'>", "</textarea>"),
    ("<iframe src='x'>", "</iframe>"),
    ("<xmp>", "</xmp>"),
    ("<noframes>", "</noframes>"),
    ("<script>'</scripty>'", "</script>"),
)
AROUND = (
    *(
        ("<p>", "</p>"),
        ("<a href=/x>", "</a>"),
        ("<table><tr><td>", "</table>"),
        ("<noscript>", "</noscript>"),
        ("<div hidden>", ""),
    ),
    *(
        ("<ul><li>", "</ul>"),
        ("<!-->", "<!--->"),
        ("<section><h2>Ports", "</h2></section>"),
        ("<b><i>", "</b></i>"),
        ("<picture>", "</picture>"),
    ),
    *(
        ("<!DOCTYPE x>", "<?php echo 1 ?>"),
        ("<center>", "</nonsense>"),
        ("<video poster=x.jpg>", "</video>"),
        ("<![CDATA[", "]]>"),
    ),
)


def attribute(data, name: str, value: str) -> str:
    """Write an attribute as people and programs do."""
    forms = [f'{name}="{escape(value, False)}"'] if '"' not in value else []
    forms += [f"{name}='{value.replace('&', '&amp;')}'"] if "'" not in value else []
    forms += [f'{name} = "{escape(value)}"', f'{name.upper()}\n=\n"{escape(value)}"']
    forms += [f'{name}="' + "".join(f"&#{ord(sign)};" if sign in "\"'&<>é日" else sign for sign in value) + '"']
    forms += [f'{name}="' + "".join(f"&#x{ord(sign):x};" if sign in "\"'&<>ü本" else sign for sign in value) + '"']
    if value and not set(value) & set(" \"'<>=`&") and not value.endswith("/"):
        forms += [f"{name}={value}", f"{name} = {value}"]
    if "&" in value and '"' not in value:
        forms += [f'{name}="{value}"']  # an ampersand that begins no reference
    return data.draw(st.sampled_from(forms))


def image(data, src: str, alt: str, more: tuple[str, ...] = ()) -> str:
    attributes = [attribute(data, "src", src), attribute(data, "alt", alt), *more]
    attributes += data.draw(
        st.lists(st.sampled_from(["width=5", "hidden", "data-x='>'", 'class="a b"', "src=second.jpg", "alt"]), max_size=2)
    )[:2]
    first = [part for part in attributes if part not in ("src=second.jpg", "alt")]
    attributes = [*data.draw(st.permutations(first)), *(part for part in attributes if part not in first)]
    blank = data.draw(st.sampled_from([" ", "\n", "\t", "  ", " / "]))
    return (
        data.draw(st.sampled_from(["<img", "<IMG", "<Img"]))
        + blank
        + blank.join(attributes)
        + data.draw(st.sampled_from([">", " >", " />", "\n>"]))
    )


def body(data, images: list[tuple[str, str]]) -> str:
    """A page of images with a text, some of them where a browser shows none."""
    parts = []
    for src, alt in images:
        tag = image(data, src, alt)
        opening, closing = data.draw(st.sampled_from([*HIDING, *AROUND, ("", ""), ("", "")]))
        if "--" in alt and "<!--" in opening:
            opening = closing = ""
        parts += [data.draw(st.sampled_from(IN_TEXT)), opening, tag, closing]
    return data.draw(st.sampled_from(["", " ", "\n"])).join(parts)


def in_tree(page: str) -> tuple[list, str]:
    """The images of a browser's tree with their attributes, and the page's base."""
    tree = parser.HTMLTree.parse(page)
    images = [
        {name.lower(): tag.getattr(name) or "" for name in tag.attrs} for tag in tree.document.get_elements_by_tag_name("img")
    ]
    bases = [tag.getattr("href") for tag in tree.document.get_elements_by_tag_name("base") if "href" in tag.attrs]
    return images, urljoin(PAGE, bases[0]) if bases else PAGE


@fuzz(
    data=st.data(),
    images=st.lists(st.tuples(ADDRESSES, TEXTS), min_size=1, max_size=5),
    base=st.sampled_from(["", "", "/root/", "https://cdn.example/x/", "sub/"]),
)
def test_images_are_those_of_a_browsers_tree(data, images, base):
    head = f"<base href='{base}'>" if base else ""
    page = f"<html><head><title>A &amp; B</title>{head}</head><body>{body(data, images)}"
    counts = html.Counts()
    rows = html.page_rows(page, PAGE, counts=counts)
    found, at = in_tree(page)
    wanted = {(html.absolute_url(urljoin(at, tag.get("src", ""))), tag["alt"]) for tag in found if tag.get("alt", "").strip()}
    assert {(row[0], row[1]) for row in rows if row[6] == "img"} == wanted, page
    assert len(rows) + sum(counts.values()) == len(found), (page, counts)
    assert {row[3] for row in rows} <= {"A & B"}


WIDTHS = st.lists(
    st.tuples(ADDRESSES.filter(lambda text: " " not in text), st.integers(1, 4000)),
    min_size=1,
    max_size=4,
    unique_by=lambda offer: offer[1],
)


@fuzz(data=st.data(), offers=WIDTHS, unit=st.sampled_from("wx"), alt=TEXTS, src=ADDRESSES)
def test_the_largest_of_several_sizes_is_taken_wherever_it_is_offered(data, offers, unit, alt, src):
    comma = data.draw(st.sampled_from([", ", ",\n  ", " , ", ",\t"]))
    srcset = comma.join(f"{address} {number}{unit}" for address, number in offers) + data.draw(st.sampled_from(["", ",", " "]))
    largest = max(offers, key=lambda offer: offer[1])[0]
    name = data.draw(st.sampled_from(["srcset", "data-srcset", "data-lazy-srcset"]))
    where = data.draw(st.sampled_from(["img", "source", "beside avif"]))
    if where == "img":
        page = image(data, src, alt, (attribute(data, name, srcset),))
    else:
        name = name if name != "data-lazy-srcset" else "srcset"
        sources = [f"<source {attribute(data, name, srcset)} type='image/webp'>"]
        sources += ["<source type='image/avif' srcset='x.avif 9999w'>"] if where == "beside avif" else []
        page = f"<picture>{''.join(data.draw(st.permutations(sources)))}{image(data, src, alt)}</picture>"
    rows = html.page_rows(page + image(data, "/last.jpg", "another"), PAGE)
    assert [row[0] for row in rows] == [html.absolute_url(urljoin(PAGE, largest)), "https://maps.example/last.jpg"], page


LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-url")
HOLDERS = (
    "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==",
    "/img/blank.gif",
    "spacer.gif",
    "",
    "{{ url }}",
    "loading.svg",
    "/1x1.png",
)


@fuzz(data=st.data(), name=st.sampled_from(LAZY), real=ADDRESSES | st.sampled_from(["/render?n=7", "/p/7", "x/y"]), alt=TEXTS)
def test_an_address_kept_back_is_found_behind_what_holds_its_place(data, name, real, alt):
    """Whatever it is behind a placeholder; where it is a picture's, also behind another picture."""
    is_picture = any(ending in real for ending in (".jpg", ".png", ".webp"))
    holder = data.draw(st.sampled_from(HOLDERS) | st.sampled_from(["small.jpg", "/p/7-small"] if is_picture else HOLDERS))
    page = image(data, holder, alt, (attribute(data, name, real),))
    rows = html.page_rows(page, PAGE)
    assert [(row[0], row[1]) for row in rows] == [(html.absolute_url(urljoin(PAGE, real)), alt)], page


LETTERS = {
    "windows-1252": "Zürich – déjà vu, 50 €, “Größe”",
    "iso-8859-2": "Łódź, Kraków, Plzeň z lotu ptaka",
    "koi8-r": "Вид сверху на Москву и реку",
    "windows-1251": "Аэрофотоснимок города Казань",
    "shift_jis": "東京港の航空写真、川と橋",
    "euc-jp": "東京港の航空写真、川と橋",
    "gb18030": "北京市的卫星图像和机场",
    "big5": "台北市的航空照片與港口",
    "euc-kr": "서울 항공 사진과 강",
    "utf-8": "Zürich, 東京, Москва, café",
    "utf-16": "Zürich, 東京, Москва, café",
}


@fuzz(
    data=st.data(),
    name=st.sampled_from([*sorted(LETTERS), "utf-8", "utf-16", "utf-16"]),
    alt=TEXTS.filter(str.isascii),
    many=st.integers(1, 4),
)
def test_a_page_is_read_in_the_encoding_that_it_tells(data, name, alt, many):
    text = LETTERS[name]
    spelled = data.draw(st.sampled_from([name, name.upper(), f" {name} "]))
    meta = data.draw(
        st.sampled_from(
            [f"<meta charset='{name}'>", f'<META http-equiv="Content-Type" content="text/html; charset={name}">', ""]
        )
    )
    meta = meta if name != "utf-16" else ""
    charset = None if (meta or name in ("utf-8", "utf-16")) and data.draw(st.booleans()) else spelled.strip()
    other = data.draw(st.sampled_from(["windows-1252", "iso-8859-2", "koi8-r", "latin1", "no-such"]))
    if name in ("utf-8", "utf-16"):  # which its bytes say, whoever says otherwise
        charset = data.draw(st.sampled_from([charset, other]))
    if charset and name != "utf-16" and data.draw(st.booleans()):  # a server goes before a page
        meta = f"<meta charset='{other}'>"
    page = f"<html><head>{meta}<title>{text}</title></head>" + "".join(
        f"<img src='/{n}.jpg' alt='{text} {escape(alt)}'>" for n in range(many)
    )
    body = page.encode(name)
    if name == "utf-16" and data.draw(st.booleans()):
        body = b"\xfe\xff" + page.encode("utf-16-be")
    rows = html.page_rows(html.decode(body, charset), PAGE)
    assert Counter((row[1], row[3]) for row in rows) == {(f"{text} {alt}", text): many}, (name, charset, meta)
