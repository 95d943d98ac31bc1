"""What was asked to be taken out: a list of addresses and hosts, and whether an address is on it, however it is spelled."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import pandas as pd
import pyarrow.parquet as pq

from rsvlm.data import duplicates
from rsvlm.data.addresses import normal_form
from rsvlm.data.web import paths
from rsvlm.data.web.overlaps import HASHES
from rsvlm.data.web.paths import Files, Part, Source
from rsvlm.errors import DataError

LISTED = "on_removal_list"
"""Reason of what is on a removal list; of its pictures the hashes are kept, and nothing else."""

SAME_PICTURE = ("same bytes", "same pixels", "near picture")
"""Reasons for which one picture is another's copy."""

_PLAIN = re.compile(r"https?://((?:[A-Za-z0-9_-]+\.)+[A-Za-z0-9_-]+(?::[1-9][0-9]*)?)(?=[/?#]|$)")
_NAME = re.compile(r"(?:[\w-]+\.)+[\w-]{2,}\.?|localhost|\d+(?:\.\d+){3}|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class Removals:
    """A removal list. `http` and `https` are one, since no owner of an address wants one of them alone taken out.

    Attributes:
        addresses: Lines of the list that name an address, by its normal form without the scheme.
        hosts: Lines that name a whole host with those below it, by its name, with its port where the line has one.
        matched: Lines that an address was found for.
    """

    addresses: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.hosts)

    @property
    def entries(self) -> list[str]:
        """What is named, sorted, in normal form: the same for all spellings of a list."""
        return sorted([*self.addresses, *(f"{host} as a whole" for host in self.hosts)])

    @property
    def unmatched(self) -> list[str]:
        """Lines, as written, that no address was found for."""
        return [line for line in (*self.addresses.values(), *self.hosts.values()) if line not in self.matched]

    def name(self, *addresses: str | None) -> bool:
        """Tell whether one of some addresses is on the list, by itself or by its host."""
        lines = [
            line for address in addresses if address for line in (self._by_address(address), self._by_host(address)) if line
        ]
        self.matched.update(lines)
        return bool(lines)

    def name_itself(self, address: str) -> bool:
        """Tell whether an address is on the list and its host is not."""
        return bool(self._by_address(address)) and not self._by_host(address)

    def _by_address(self, address: str) -> str | None:
        if _netloc(address)[0] not in self._hosts_of_addresses:
            return None
        return self.addresses.get(_without_scheme(normal_form(address) or ""))

    def _by_host(self, address: str) -> str | None:
        if not self.hosts:
            return None
        host, port = _netloc(address)
        labels = host.split(".")
        names = [".".join(labels[first:]) for first in range(len(labels))]
        names = names[:1] if labels[-1].isdigit() or ":" in host else names
        return next(
            (line for name in names for line in (self.hosts.get(name), self.hosts.get(f"{name}:{port}")) if line), None
        )

    @functools.cached_property
    def _hosts_of_addresses(self) -> set[str]:
        return {_netloc(f"http://{address}")[0] for address in self.addresses}


def _without_scheme(normal: str) -> str:
    """Leave out of a normal form what http and https have of their own: the scheme, and the other one's port."""
    return re.sub(r"^([^/]*):(?:80|443)(?=/)", r"\1", normal.partition("://")[2])


def _netloc(address: str) -> tuple[str, str]:
    """Return the host and the port of an address, in normal form; the port is empty where the scheme implies it."""
    match = _PLAIN.match(address)  # most are, and need not be taken apart
    netloc = match[1].lower() if match else (normal_form(address) or "").partition("://")[2].partition("/")[0]
    host, _, port = netloc.rpartition(":") if re.search(r":\d+$", netloc) else (netloc, "", "")
    return host, port if port not in ("80", "443") else ""


def read(lines: Iterable[str]) -> Removals:
    """Read a removal list: an address a line, with or without its scheme, or a host; `#` starts a remark.

    A host, or an address without a path, names all that is there and below it: `example.org` also `www.example.org`.

    Raises:
        DataError: A line is neither.
    """
    removals, wrong = Removals(), []
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        text = line.strip("<>\"' ")
        bare = re.sub(r"^[/\\]{2}", "", text)
        host = re.split(r"[/?#\\:]", bare)[0] if not bare.startswith("[") else bare.partition("]")[0] + "]"
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]{2}", text):  # an address in a query is none of the line's
            text = f"http://{bare}" if _NAME.fullmatch(unquote(host)) else ""
        if not (normal := normal_form(re.split(r"\s+#", text)[0])):
            wrong.append(line)
            continue
        address = _without_scheme(normal)
        if address.endswith("/") and address.count("/") == 1:
            removals.hosts.setdefault(address[:-1], line)
        else:
            removals.addresses.setdefault(address, line)
    if wrong:
        several = f"{len(wrong)} lines of the removal list are" if len(wrong) > 1 else "a line of the removal list is"
        shown = ", ".join(f"'{line[:200]}'" for line in wrong[:20])
        raise DataError(f"{several} neither an address nor a host: {shown}; write https://example.org/a.jpg, or example.org")
    return removals


def unmatched(files: Files, sources: Sequence[Source], parts: Sequence[Part], removals: Removals) -> list[str]:
    """Return the lines of a removal list that name no candidate of a build, no page of one and no address that one led to."""
    if not removals:
        return []
    for source in sources:
        with pq.ParquetFile(files.texts(source)) as file:
            for batch in file.iter_batches(8192, columns=["url", "page"]):
                for row in batch.to_pylist():
                    removals.name(row["url"], row["page"])
    for part in parts:
        for address in pd.read_parquet(files.judged(part), columns=["final_url"])["final_url"]:
            removals.name(address)
    return removals.unmatched


def copies(files: Files, parts: Sequence[Part], ours: Iterable[pd.DataFrame], distance: int) -> dict[str, dict]:
    """Find what shows the picture of a listed address under another one, by key; the hashes of the listed are kept for a next run.

    Args:
        files: Files of the build.
        parts: Its parts, judged.
        ours: Tables of the pairs so far, with the hashes of their pictures.
        distance: Bits in which the hashes of one picture differ at most.
    """
    hashes = ["key", "sha256", "pixels_sha256", "contrast", "pixels", *HASHES]
    tables = [pd.read_parquet(files.listed)] if files.listed.is_file() else []
    if not tables and not parts:
        return {}
    for part in parts:
        table = pd.read_parquet(files.judged(part), columns=[*hashes, "reason"])
        tables.append(table.loc[(table["reason"] == LISTED) & (table["sha256"] != ""), hashes])
    theirs = pd.concat(tables, ignore_index=True).sort_values("pixels_sha256", ascending=False, kind="stable")
    theirs = theirs.drop_duplicates("key").sort_values("key", ignore_index=True)
    if not len(theirs):
        return {}
    paths.write_frame(files.listed, theirs)
    theirs = theirs.assign(text="", hash=theirs["hash_0"]).rename(columns={"sha256": "bytes_sha256"})
    rows: dict[str, dict] = {}
    for table in ours:
        table = table.rename(columns={"sha256": "bytes_sha256"}).assign(text="", hash=table["hash_0"])
        for row in duplicates.overlap(table, theirs, "", distance).to_dict("records") if len(table) else ():
            rows.setdefault(row["key"], {"kept": "", "reason": "copy_on_removal_list", "distance": row["distance"]})
    return rows


def unseen(parts: Sequence[Part], files: Files) -> int:
    """Count the candidates of a removal list whose pictures are not known, so that their copies cannot be told."""
    tables = (pd.read_parquet(files.judged(part), columns=["url", "reason", "sha256"]) for part in parts)
    return sum(table.loc[(table["reason"] == LISTED) & (table["sha256"] == ""), "url"].nunique() for table in tables)


def digests(files: Files) -> set[str]:
    """Hashes of the bytes of pictures that are on the removal list of a build."""
    return set(pd.read_parquet(files.listed, columns=["sha256"])["sha256"]) if files.listed.is_file() else set()
