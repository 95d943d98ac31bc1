"""What was fetched can be taken back for good, and its bytes do not come again from elsewhere."""

from __future__ import annotations

import hashlib

import pytest
from sites import PICTURE, options, picture

from rsvlm.data.web import fetch, journal
from rsvlm.errors import DataError

pytestmark = pytest.mark.usefixtures("connected")


def test_what_was_forgotten_is_not_asked_again_nor_kept_from_elsewhere(site, tmp_path):
    bodies = {"/a": PICTURE, "/copy": PICTURE, "/b": picture(2), "/later": PICTURE, "/to": b""}
    site.routes |= {path: (200, {"ETag": '"1"'}, body) for path, body in bodies.items()}
    site.routes["/to"] = (302, {"Location": "/b"}, b"")
    first = [site.url(path) for path in ("/a", "/copy", "/b", "/to")]
    assert fetch.download(first, tmp_path, options()).counts == {"ok": 4}
    digest = hashlib.sha256(PICTURE).hexdigest()
    assert journal.forget(tmp_path, lambda row: row.url == site.url("/a")) == {digest}
    rows = list(fetch.results(tmp_path, first))
    assert [row.reason for row in rows] == ["removed", "removed", "ok", "ok"] and rows[0].etag == ""
    assert not list(tmp_path.rglob(f"{digest}*")) and len(list(tmp_path.glob("images/*/*"))) == 1
    asked = len(site.paths())
    again = fetch.download([*first, site.url("/later")], tmp_path, options(retry_failed=True), refresh=False)
    assert again.counts == {"removed": 3, "ok": 2} and len(site.paths()) == asked + 1
    assert not list(tmp_path.rglob(f"{digest}*"))
    assert journal.forget(tmp_path, lambda row: row.final_url == site.url("/b")), "by where it led"
    assert {row.reason for row in fetch.results(tmp_path)} == {"removed"}


def test_where_nothing_was_fetched_nothing_is_forgotten(tmp_path):
    assert journal.forget(tmp_path / "none", lambda row: True, {"a" * 64}) == set() and not (tmp_path / "none").exists()
    fetch.download([], tmp_path, options())
    with journal.alone(tmp_path), pytest.raises(DataError, match="another run"):
        journal.forget(tmp_path, lambda row: True)
