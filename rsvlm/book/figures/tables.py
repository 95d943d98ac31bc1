"""Lists and reports of texts: landmarks, captions, what was rejected, and where the numbers of a page come from.

All text is text, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from rsvlm.book.figures import amounts, charts, galleries, markup
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import PALETTE

_STATUS_COLOURS = {"kept": PALETTE["blue"], "repaired": PALETTE["yellow"], "rejected": PALETTE["vermilion"]}


def provenance(origin: Mapping[str, object], before: Mapping[str, Mapping[str, object] | None] | None = None) -> Html:
    """A folded line that says where the numbers of a page came from.

    Args:
        origin: Origin of what ran for this page, as from `provenance.provenance`.
        before: Of what was measured before and is only shown here, by what it is called: as of `results.stored`, whose `origin` stands in a
            column of its own, ahead of this page's. None, of what was measured just now, is left out.
    """
    columns = {f"{what}: measured before": found["origin"] for what, found in (before or {}).items() if found}
    head = ["", *columns, "All else: run for this page"] if columns else []
    cells = [_origin_cells(one) for one in (*columns.values(), origin)]
    rows = "".join(f'<th scope="col">{escape(what)}</th>' for what in head)
    rows = f"<tr>{rows}</tr>" if head else ""
    for name in cells[0]:
        told = "".join(
            f'<td style="overflow-wrap:anywhere">{escape(str(one.get(name, "–"))).replace("/", "/<wbr>")}</td>'
            for one in cells
        )
        rows += f'<tr><th scope="row">{escape(name)}</th>{told}</tr>'
    return Html(f"<details><summary>Where these numbers come from</summary><table>{rows}</table></details>")


def _origin_cells(origin: Mapping[str, object]) -> dict[str, object]:
    """What is shown of a provenance, by its name."""
    commit = "not recorded" if origin["commit"] == "unknown" else origin["commit"][:12]
    counts = [f"{n:,}" for n in origin.get("n", [])]
    return {
        "command": origin["command"],
        "commit": f"{commit}{' with changes' if origin['dirty'] else ''}",
        "package": origin["package_hash"][:12],
        "data": origin["data_hash"],
        **({"n": f"{counts[0]} to {counts[-1]}, by row" if len(counts) > 1 else counts[0]} if counts else {}),
        "seed": origin["seed"],
        "device": f"{origin['device']}: {origin['cpu']}, {origin['cores']} cores",
        "time": f"{origin['duration_s']} s, {origin['started']}",
        "versions": ", ".join(f"{name} {version}" for name, version in dict(origin["versions"]).items()),
    }


def landmark_table(marks: Sequence[Mapping[str, object]]) -> Html:
    """List the landmarks of one chip: what, where, how large, and of hidden ones why.

    Args:
        marks: `landmarks` of a record.

    Returns:
        A table; names are text, never markup.
    """
    head = ["name", "category", "count", "position", "share", "size, pixels", "prominence", "visible", "source"]
    rows = [
        [
            mark.get("name") or "",
            str(mark.get("category", "")).replace("_", " "),
            mark.get("count") or 1,
            mark.get("position") or "",
            f"{100 * mark['share']:.1f} %" if mark.get("share") else "",
            f"{mark['size_px']:.1f}" if mark.get("size_px") else "",
            f"{mark.get('prominence') or 0:.2f}",
            "yes" if mark.get("visible", True) else mark.get("hidden_because") or "no",
            mark.get("source") or "",
        ]
        for mark in marks
    ]
    return _list(head, rows)


def relation_table(marks: Sequence[Mapping[str, object]], relations: Sequence[Mapping[str, object]]) -> Html:
    """List where landmarks of one chip lie as seen from others.

    Args:
        marks: `landmarks` of a record.
        relations: `relations` of that record; `from` and `to` are positions in `marks`.

    Returns:
        A table, or a sentence where there is no relation; names are text, never markup.
    """
    called = [str(mark.get("name") or f"the {mark.get('category', '')} in the {mark.get('position')}") for mark in marks]
    rows = [
        [called[pair["to"]], f"{pair['distance_m'] / 1000:.1f} km", f"{pair['direction']} of", called[pair["from"]]]
        for pair in relations
    ]
    return _list(["landmark", "distance", "direction", "seen from"], rows) if rows else Html("<p>None.</p>")


def finding_table(rows: Sequence[Mapping[str, object]]) -> Html:
    """List captions with what was done to them and what an audit says.

    Args:
        rows: `fault` (what was done to the caption), and of the audit's finding `original`, `reasons`, `details` and `text`, what is
            left of the caption.

    Returns:
        A table; captions are text, never markup.
    """
    cells = []
    for row in rows:
        reasons = zip(row["reasons"], row["details"], strict=True)
        original = str(row["original"])
        verdict = ", ".join(f"{reason} ({_whole(detail, original)})" if detail else reason for reason, detail in reasons)
        cells.append([row["fault"], row["original"], verdict or "nothing", row["text"] or "rejected"])
    return _list(["fault", "caption", "what the audit says", "what is left"], cells)


def _whole(detail: str, caption: str) -> str:
    """Return what an audit found in a caption from the start of its first word or number: `61.69° N`, where a rule matched `1.69° N`."""
    match = re.search(rf"[\w.]*{re.escape(detail)}", caption)
    return match[0] if match else detail


def prompt_text(instructions: str, message: str) -> Html:
    """Show what a model is told, whole; nothing in it is markup, and no character of it turns the direction of the page's.

    Args:
        instructions: The part that is the same for every chip.
        message: The part that carries a chip's data.
    """
    parts = (("instructions", instructions), ("message", message))
    blocks = "".join(f"<p><b>{name}</b></p><pre dir=ltr>{escape(text)}</pre>" for name, text in parts)
    return Html(f'{markup.stylesheet("prompt.css")}<div class="rsvlm-prompt">{blocks}</div>')


def _list(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    return Html(f'{markup.stylesheet("list.css")}<div class="rsvlm-list">{markup.table(head, rows)}</div>')


def caption_audit(report: Mapping[str, object]) -> Html:
    """Say what became of captions: how many were kept, repaired and rejected, why, and examples of each reason.

    Args:
        report: Counts and examples, as from `audit.report`.

    Returns:
        A self-contained block; captions and names are text, never markup, and turn no direction but their own.
    """
    counts = {status: (f"{report[status]:,} {status}", report[f"{status}_percent"]) for status in _STATUS_COLOURS}
    bar = "".join(
        f'<span style="width:{percent:.2f}%;background:{_STATUS_COLOURS[status]}"></span>'
        for status, (_, percent) in counts.items()
    )
    summary = ", ".join(f"{count} ({percent:.1f} %)" for count, percent in counts.values())
    kinds = [[kind, *(of.get(status, 0) for status in _STATUS_COLOURS)] for kind, of in dict(report["kinds"]).items()]
    html = f"<p><b>{report['captions']:,} captions</b>: {summary}</p>"
    html += f'<div class="rsvlm-shares" role="img" aria-label="{escape(summary)}">{bar}</div>'
    html += markup.table(["kind", *_STATUS_COLOURS], kinds)
    rows, examples = [], ""
    for reason, entry in dict(report["reasons"]).items():
        share = f"{entry['percent']:.1f} %"
        rows.append([reason, entry["count"], share, entry["rejected"], entry["repaired"], entry["meaning"]])
        shown = "".join(map(_audit_example, entry["examples"]))
        examples += f"<details open><summary>{escape(str(reason))}</summary>{shown}</details>"
    if rows:
        html += markup.table(["reason", "captions", "share", "rejected", "repaired", "what it means"], rows)
    return Html(f'{markup.stylesheet("audit.css")}<div class="rsvlm-audit">{html}{examples}</div>')


def _audit_example(example: Mapping[str, object]) -> str:
    what = " · ".join(str(example[part]) for part in ("key", "kind", "detail") if example.get(part))
    after = f"<dt>repaired</dt><dd dir=auto>{escape(str(example['text']))}</dd>" if example.get("text") else ""
    return f"<dl><dt dir=auto>{escape(what)}</dt><dd dir=auto>{escape(str(example['original']))}</dd>{after}</dl>"


def web_report(pairs: Mapping[str, object]) -> Html:
    """Say on one page what a data set from the web was made from, what it holds, and what was rejected for which reason.

    Args:
        pairs: Pairs kept and rejected, as from `pairs.look`.

    Returns:
        A self-contained block without scripts.
    """
    from rsvlm.data.web import archives

    rows = pairs["manifest"]["funnel"]
    crawl = pairs["manifest"].get("crawl", {})
    read = [[name, n, archives.REASONS.get(name.removeprefix("archived_"), "")] for name, n in crawl.items()]
    counts = f"<div class='rsvlm-web'>{markup.table(['read', '', ''], read)}</div>" if read else ""
    alt = "A stream of candidates that grows thinner at each stage."
    sankey = charts.picture(amounts.funnel_sankey(rows), alt) if rows else ""
    head = ["split", "stage", "in", "kept", "rejected"]
    table = markup.table(head, [[row[name] for name in head] for row in rows])
    kept = galleries.web_pairs(pairs["kept"]) if pairs["kept"] else "<p>None.</p>"
    html = f"{sankey}{markup.stylesheet('web.css')}<div class='rsvlm-web'>{table}</div>{counts}<h2>Kept</h2>{kept}"
    return Html(f"{html}<h2>Rejected</h2>{galleries.web_rejected(pairs['rejected'])}")


def leakage_report(rows: Sequence[Mapping[str, object]], items: Sequence[Mapping[str, object]]) -> Html:
    """Say on one page what a benchmark has in common with training sets, and show pairs.

    Args:
        rows: Rows of results, as from `leakage.rows`.
        items: Pairs, as for `leakage_pairs`.
    """
    cells = [[row["dataset"], row["split"], row["protocol"], row["metric"], f"{row['value']:.2f} %", row["n"]] for row in rows]
    table = markup.table(["benchmark", "split", "", "what", "share", "of"], cells)
    return Html(f"<div class='rsvlm-web'>{table}</div><h2>Pairs</h2>{galleries.leakage_pairs(items)}")
