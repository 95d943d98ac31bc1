"""What owners of sites and of pictures ask for: robots.txt, directives, removal lists and addresses, in any spelling."""

from __future__ import annotations

import gzip
import json
import re
from urllib.parse import unquote_to_bytes

import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm.data.addresses import normal_form
from rsvlm.data.web import html, removals, reservations

pytest.importorskip("protego", reason="protego is not installed")

# robots.txt

AGENTS = ("rsvlm", "RSVLM", "*", "rsvlm/1.0", "rsv", "rsvlm-images", "*", "Googlebot", "GPTBot", "other bot")
OURS = {"rsvlm", "rsvlm/1.0", "*"}
FIELDS = {
    "user-agent": ("User-agent", "user-agent", "USER-AGENT", "User agent", "Useragent", "User-Agent ", "User_agent"),
    "disallow": ("Disallow", "disallow", "DISALLOW", "Dissallow", "Disalow", "Dis-allow", "Disallow ", "Diasllow", "noindex"),
    "allow": ("Allow", "allow", "ALLOW", "Allow "),
}
NOISE = (
    "",
    "",
    "# all is forbidden",
    "Sitemap: https://h.example/map.xml",
    "Host: h.example",
    "<br>",
    "Clean-param: ref /x/",
    "\ufffd",
)
PATHS = st.lists(
    st.sampled_from(
        [
            "/",
            "a",
            "b",
            "ab",
            "/a/",
            "*",
            "?",
            "x=1",
            ".jpg",
            "é",
            "%C3%A9",
            "%c3%a9",
            "%61",
            "%2F",
            "~",
            "%7E",
            "A",
            "$",
            "%24",
        ]
    ),
    max_size=5,
).map(lambda parts: "/" + "".join(parts))
TARGETS = PATHS.map(lambda path: path.replace("*", "b").replace("é", "%C3%A9"))
RULES = st.tuples(st.sampled_from(["disallow", "disallow", "allow"]), PATHS | PATHS.map(lambda path: path + "$") | st.just(""))
GROUPS = st.lists(
    st.tuples(st.lists(st.sampled_from(AGENTS), min_size=1, max_size=3), st.lists(RULES, min_size=1, max_size=4)), max_size=4
)


def one_spelling(path: str) -> str:
    """RFC 9309, 2.2.2: octets outside ASCII are encoded, codes of what needs none are resolved."""
    path = re.sub("%(?![0-9A-Fa-f]{2})", "%25", path)  # a percent that begins no code
    path = re.sub("[^\x21-\x7e]", lambda sign: "".join(f"%{byte:02X}" for byte in sign[0].encode()), path)

    def one(code: re.Match) -> str:
        sign = unquote_to_bytes(code[0]).decode("latin-1")
        return sign if re.fullmatch(r"[A-Za-z0-9~._-]", sign) else code[0].upper()

    path, mark, query = re.sub("%[0-9A-Fa-f]{2}", one, path).partition("?")
    query = query.replace("%2F", "/").replace("%3F", "?")  # which need no code there, RFC 3986, 3.4
    return (path + mark + query).replace("$", "%24")


def allowed(groups, target: str) -> bool:
    """The rules as they were meant: the groups that name us, or else those of all; the longest decides, allow among equals. RFC 9309, 2.2.2."""
    named = [(agents, rules) for agents, rules in groups if {name.lower() for name in agents} & {"rsvlm", "rsvlm/1.0"}]
    rules = [rule for agents, some in named or [group for group in groups if "*" in group[0]] for rule in some]
    best, verdict = -1, True
    for kind, path in rules:
        end = "$" * path.endswith("$")
        path = one_spelling(path.removesuffix("$")) + end
        pattern = "".join(".*" if sign == "*" else re.escape(sign) for sign in path.removesuffix("$"))
        if path and re.match(pattern + end, one_spelling(target)):
            octets = len(path.replace("?", "%3F"))  # signs with a meaning of their own are encoded before they are counted
            if octets > best or (octets == best and kind == "allow"):
                best, verdict = octets, kind == "allow"
    return verdict


_CODED = {"a": "%61", "~": "%7E", "$": "%24", "/": "%2F", "A": "%41", "%C3%A9": "%c3%a9"}
RESPELLED = [*_CODED.items(), *((code, sign) for sign, code in _CODED.items()), ("%2F", "%2f")]


def near(data, groups) -> list[str]:
    """Addresses that rules are about, and some beside them."""
    paths = [path.removesuffix("$") for _, rules in groups for _, path in rules if path] or ["/"]
    some = [data.draw(st.sampled_from(paths)) + data.draw(st.sampled_from(["", "", "b", "?x=1", ".jpg"])) for _ in range(6)]
    # Some of them in another spelling, of the same or of something near it.
    for place, path in enumerate(some):
        old, new = data.draw(st.sampled_from(RESPELLED))
        some[place] = path[0] + path[1:].replace(old, new) if data.draw(st.booleans()) else path
    return [path.replace("*", data.draw(st.sampled_from(["", "b", "/a"]))).replace("é", "%C3%A9") for path in some]


def spelled(data, groups) -> bytes:
    """Write groups as people do."""
    lines = []
    for agents, rules in groups:
        for field, value in [*(("user-agent", agent) for agent in agents), *rules]:
            lines += data.draw(st.lists(st.sampled_from(NOISE), max_size=1))
            name = data.draw(st.sampled_from(FIELDS[field]))
            mark = data.draw(st.sampled_from([":", ": ", " : ", ":\t", "  : "]))
            lines.append(name + mark + value + data.draw(st.sampled_from(["", " ", " # why", "\t"])))
    text = data.draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join([*lines, ""])
    packs = [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode()),
    ]
    return data.draw(st.sampled_from(packs))(text)


@fuzz(data=st.data(), groups=GROUPS, targets=st.lists(TARGETS, min_size=3, max_size=8))
def test_robots_txt_means_what_was_written(data, groups, targets):
    body = spelled(data, groups)
    read = reservations.read_robots(body)
    for target in [*targets, *near(data, groups)]:
        assert read.allows(target) == allowed(groups, target), (groups, body, target)


SPELLINGS = (
    *(("a", "%61", "A"), ("~", "%7E", "%7e"), ("$", "%24"), ("/", "%2F", "%2f"), ("é", "%C3%A9", "%c3%a9"), ("%", "%25")),
    *(("?",), ("-", "%2D"), ("*", "%2A", "b", "")),
)
"""Of each the first, and what it may be written as, also where that is something else."""


@fuzz(
    data=st.data(),
    parts=st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=6),
    end=st.sampled_from(["", "", "$"]),
    ends=st.booleans(),
)
def test_a_rule_holds_for_its_path_in_every_spelling(data, parts, end, ends):
    def spelled_path(more: str) -> str:
        return "/" + "".join(data.draw(st.sampled_from(part)) for part in parts) + more

    rule = spelled_path(end)
    for field, groups in (("disallow", []), ("allow", [("disallow", "/")])):
        groups = [(["rsvlm"], [*groups, (field, rule)])]
        body = "User-agent: rsvlm\n" + "".join(f"{name}: {path}\n" for name, path in groups[0][1])
        read = reservations.read_robots(body.encode())
        for _ in range(4):
            target = spelled_path("x" if ends else "").replace("*", "b").replace("é", "%C3%A9")
            assert read.allows(target) == allowed(groups, target), (body, target)


@fuzz(data=st.data(), groups=GROUPS, more=PATHS, targets=st.lists(TARGETS, min_size=3, max_size=8))
def test_a_rule_more_never_allows_more(data, groups, more, targets):
    body = spelled(data, groups)
    lines = re.split(rb"(?<=\n)", body if body[:2] not in (b"\xff\xfe", b"\x1f\x8b") and b"\r" not in body else b"")
    at = [number for number, line in enumerate(lines) if re.match(rb"(?:all|dis|dias|noin)", line, re.IGNORECASE)]
    if not at:
        return
    rule = data.draw(st.sampled_from(FIELDS["disallow"][:-1])) + data.draw(st.sampled_from([": ", ":"])) + more
    lines.insert(data.draw(st.sampled_from(at)) + 1, rule.encode() + b"\n")
    before, after = reservations.read_robots(body), reservations.read_robots(b"".join(lines))
    for target in [*targets, *near(data, groups)]:
        assert before.allows(target) or not after.allows(target), (body, rule, target)


# Directives

HARMLESS = (
    *("index", "follow", "all", "nofollow", "noarchive", "nosnippet", "notranslate", "max-snippet:-1", "max-snippet: 20"),
    *("max-image-preview:large", "max-image-preview: standard", "unavailable_after: 2099-01-01", "noodp", "indexifembedded"),
    "unavailable_after: 25 Jun 2099 15:00:00 PST",
)
REFUSALS = (
    "noai",
    "noimageai",
    "noml",
    "noindex",
    "noimageindex",
    "none",
    "unavailable_after: 2001-01-01",
    "no-ai",
    "no_index",
)
CASES = st.sampled_from([str, str.upper, str.title, str.swapcase])
SEPARATORS = st.sampled_from([",", ", ", " , ", ";", " ; ", " ", "\t", ",\n", " / ", ",,", "|", "\u00a0"])


def listed(data, directives: list[str]) -> str:
    parts = [data.draw(CASES)(directive) for directive in directives]
    return "".join(part + data.draw(SEPARATORS) for part in parts[:-1]) + "".join(parts[-1:])


@fuzz(
    data=st.data(),
    before=st.lists(st.sampled_from(HARMLESS), max_size=3),
    after=st.lists(st.sampled_from(HARMLESS), max_size=3),
)
def test_a_refusal_among_directives_refuses_in_any_spelling(data, before, after):
    refusal = data.draw(st.sampled_from(REFUSALS))
    for directives in ([*before, refusal, *after], [*before, *after]):
        refuses, text = refusal in directives, listed(data, directives)
        for agent, ours in (("", True), ("rsvlm: ", True), ("RSVLM:", True), ("googlebot: ", False)):
            header = (data.draw(CASES)("x-robots-tag"), agent + text)
            assert bool(reservations.objections([header])) == (refuses and ours), header
        name, content = data.draw(CASES)("robots"), text
        quote = data.draw(st.sampled_from(["'", '"']))
        tags = [f"<meta name={quote}{name}{quote} content={quote}{content}{quote}>"]
        tags += [
            f"<META content={quote}{content}{quote}\nname={name} />",
            f"<meta name='googlebot, {name}' content=\"{content}\">",
        ]
        tag = data.draw(st.sampled_from(tags))
        rows = html.page_rows(f'<html><head>{tag}</head><img src="/a.jpg" alt="a port">', "http://h.example/")
        assert bool(rows[0][-1]) == refuses, tag


USES = ("search=yes", "ai-input=no", "ai-input=yes", "search=no", "immediate=no")
TRAINING = (
    "ai-train=no",
    "train-ai=n",
    "ai-train = no",
    "AI-TRAIN=NO",
    'train-ai="n"',
    "train-genai=n",
    "ai-train:no",
    "tdm=n",
    "bots=n",
)


@fuzz(
    data=st.data(),
    uses=st.lists(st.sampled_from(USES), max_size=3),
    groups=GROUPS,
    targets=st.lists(TARGETS, min_size=2, max_size=4),
)
def test_a_wish_about_training_holds_wherever_it_stands(data, uses, groups, targets):
    wishes = data.draw(st.permutations([*uses, data.draw(st.sampled_from(TRAINING))]))
    value = data.draw(st.sampled_from([", ", ",", ";", " ; ", " , "])).join(wishes)
    name = data.draw(
        st.sampled_from(["Content-Signal", "Content-Usage", "content-signals", "CONTENT-SIGNAL", "Content-usage "])
    )
    assert reservations.objections([(name, value)]) == {"content-usage"}, (name, value)
    body = spelled(data, groups) if groups else b""
    if body[:2] not in (b"\xff\xfe", b"\x1f\x8b"):
        line = f"{name}: {value}\n".encode()
        assert not any(map(reservations.read_robots(b"User-agent: *\n" + line + b"Allow: /\n").allows, targets)), line
        assert not any(map(reservations.read_robots(line + body).allows, targets)), (line, body)
    reserved = data.draw(st.sampled_from([1, "1", 1.0, True, "true", " 1 "]))
    key, place = data.draw(
        st.sampled_from(
            [("tdm-reservation", "/"), ("TDM-Reservation", "/*"), ("tdm_reservation", "*"), ("tdm-reservation", "")]
        )
    )
    rule = {"location": place, key: reserved, "tdm-policy": "https://h.example/p"}
    packed = json.dumps(data.draw(st.sampled_from([rule, [rule], [{"location": "/ok", key: 0}, rule]])))
    packed = packed.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    assert not reservations.read_tdmrep(packed).allows("/x"), packed
    deny = data.draw(
        st.sampled_from(
            [
                "User-Agent: *\nDisallow: /",
                "Disallow: /\n",
                "Disallow: *",
                "Training: deny",
                "training : No",
                "AI-Training: no",
            ]
        )
    )
    assert not any(map(reservations.read_ai_txt(deny.encode()).allows, targets)), deny


# Addresses and removal lists

HOSTS = ("maps.example", "a.b.example", "xn--mnchen-3ya.example", "93.184.216.34")
STEPS = st.lists(st.sampled_from(["a", "b.jpg", "%20x", "~u", "é", "c,d", "(1)", "", "e%2Ff"]), min_size=1, max_size=4)
QUERIES = st.sampled_from(["", "?a=1", "?a=1&b=2", "?u=http://h.example/", "?q=%C3%A9", "?x=%26"])


def another(data, scheme: str, host: str, steps: list[str], query: str) -> str:
    """Write an address in another spelling of the same."""

    def code(text: str) -> str:
        sign = data.draw(st.sampled_from([*"abju~_", "é"]))
        byte = "".join(data.draw(st.sampled_from(["%{:02X}", "%{:02x}"])).format(byte) for byte in sign.encode())
        return text if re.search("%[^%]{0,1}" + sign, text) else text.replace(sign, byte)

    path = []
    for step in steps:
        path += data.draw(st.sampled_from([[], [], ["."], ["gone", ".."], ["%2e"], ["gone", "%2E%2e"]]))
        path.append(code(step))
    name = data.draw(st.sampled_from([host, host.upper(), host.title(), host + ".", "me@" + host, "me:x@" + host]))
    if "xn--" in host:
        name = data.draw(st.sampled_from([name, "münchen.example", "MÜNCHEN.example", "m%C3%BCnchen.example"]))
    port = data.draw(st.sampled_from(["", ":", {"http": ":80", "https": ":443"}[scheme]]))
    slash = data.draw(st.sampled_from(["/", "/", "\\"]))
    text = data.draw(st.sampled_from([scheme, scheme.upper(), scheme.title()])) + ":" + 2 * slash + name + port
    text += "".join(slash + step for step in path) + query + data.draw(st.sampled_from(["", "#top", "#", "#/?x"]))
    return data.draw(st.sampled_from(["", " ", "\n"])) + text + data.draw(st.sampled_from(["", "\t", " "]))


@fuzz(data=st.data(), scheme=st.sampled_from(["http", "https"]), host=st.sampled_from(HOSTS), steps=STEPS, query=QUERIES)
def test_all_spellings_of_an_address_are_one_and_are_removed_alike(data, scheme, host, steps, query):
    plain = f"{scheme}://{host}/{'/'.join(steps)}{query}"
    one, texts = normal_form(plain), [another(data, scheme, host, steps, query) for _ in range(3)]
    assert one and normal_form(one) == one and {normal_form(text) for text in texts} == {one}, (plain, texts)
    beside = f"{scheme}://{host}/{'/'.join([*steps[:-1], steps[-1] + 'z'])}{query}"
    is_host = one.count("/") == 3 and one.endswith("/")
    for line in (
        *texts,
        *(text.strip().partition(":")[2] for text in texts),
        *(text.strip()[len(scheme) + 3 :] for text in texts),
    ):
        if "@" in line.partition("?")[0] and not re.match(r"\s*[A-Za-z]+:[/\\]", line):
            continue  # without a scheme, an address of e-mail
        unwanted = removals.read([line])
        found = [unwanted.name(html.absolute_url(text) or text) for text in (plain, *texts)]
        assert all(found), (line, plain, texts, found)
        assert unwanted.name(beside) == is_host and not unwanted.unmatched, (line, beside)
        assert not removals.read([line]).name(f"{scheme}://else.example/{'/'.join(steps)}{query}")
