"""Each rule of the audit finds the words at fault, and lets pass what is true or can be read as true."""

import pytest
from captioning import COAST, landmark, scene

from rsvlm.data.captions import audit_rules, grammar


def unknown(text: str, record: dict = COAST, language: str = "en") -> str:
    listed = audit_rules.Scene.of(record)
    return audit_rules.unknown_name(audit_rules.mask(text, listed)[0], listed, language)


def misplaced(text: str, record: dict = COAST) -> list[str]:
    listed = audit_rules.Scene.of(record)
    masked, named = audit_rules.mask(text, listed)
    return list(audit_rules.wrong_directions(grammar.fold(masked), text, named, listed))


def miscounted(text: str, record: dict = COAST) -> list[str]:
    listed = audit_rules.Scene.of(record)
    return list(audit_rules.wrong_counts(grammar.fold(audit_rules.mask(text, listed)[0]), listed))


def test_a_scene_lists_what_can_be_seen():
    listed = audit_rules.Scene.of(COAST)
    assert dict(listed.names) == {"praia da aguda": 0, "rua 25 de abril": 3} and "luar" not in listed.parts
    assert listed.counts["buildings"] == (37, 37) and listed.counts["shop"] == (0, 1)
    assert "road" in listed.pieces and "building" not in listed.pieces
    assert audit_rules.Scene.of({}).names == () and audit_rules.Scene.of({"measurements": "none"}).marks == ()
    cities = {"measurements": {"countries": [{"name": "Peru", "cities": ["Tacna"]}]}}
    assert dict(audit_rules.Scene.of(cities).names) == {"peru": None, "tacna": None}


def test_names_are_masked_at_the_same_places():
    masked, named = audit_rules.mask("The PRAIA DA AGUDA and Praia da Agudas, by Praia da Água.", audit_rules.Scene.of(COAST))
    assert masked.replace("\ue000", "#") == "The ############## and Praia da Agudas, by Praia da Água."
    assert named == [(4, 18, 0)]
    # A thing's word is its name only where it is written as one.
    towns = audit_rules.Scene.of(scene(landmark("beach", "north", name="Two Rivers")))
    assert [audit_rules.mask(text, towns)[1] for text in ("Two rivers meet.", "At Two Rivers.")] == [[], [(3, 13, 0)]]


def test_names_in_any_listed_language_are_allowed():
    record = scene(landmark("mosque", "north", name="مسجد النور", names={"en": "Al Noor Mosque", "fr": "Mosquée al-Nour"}))
    for name in ("مسجد النور", "Al Noor Mosque", "Mosquée al-Nour", "Mosquee al-Nour"):
        assert unknown(f"A street leads to {name} in the north.", record) == "", name
    assert unknown("A street leads to مسجد القدس in the north.", record) == "القدس"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A beach called Praia Grande lies here.", "Praia Grande"),
        ("Lisbon lies by the sea.", "Lisbon"),
        ("The Aguda beach is an L-shaped one, north of a Gothic church.", ""),
        ("Sand covers the ground, and The Car Park is full.", ""),
        ("The 東京 tower stands in the south.", "東京"),
    ],
)
def test_unknown_names(text, name):
    assert unknown(text) == name


def test_names_in_other_languages_are_known_by_their_script():
    assert unknown("Der Strand liegt bei Lissabon.", language="de") == ""
    assert unknown("Der Strand liegt bei 東京.", language="de") == "東京"
    assert unknown("شاطئ بجانب البحر", language="ar") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Three water towers stand by the beach.", ["three water towers (the list has 1)"]),
        ("There are two tall water towers and hundreds of buildings.", ["two water towers (the list has 1)"]),
        ("More than twelve buildings are red.", []),
        ("Two buildings in the north have flat roofs.", []),
        ("Two buildings have flat roofs.", ["two buildings (the list has 37)"]),
        ("Nine roads and nine trees are seen, 3 km from here.", []),
    ],
)
def test_wrong_counts(text, said):
    found = miscounted(text)
    assert found[: len(said)] == said and bool(found) == bool(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Praia da Aguda lies in the northeast of the picture.", ["Praia da Aguda lies in the northeast"]),
        ("In the southwest lies the car park.", ["In the southwest lies the car park"]),
        ("The water tower lies north of the car park.", ["water tower lies north of the car park"]),
        ("The road leads to the west, and the tower is near the beach.", []),
        ("Trees stand in the southwest.", []),
    ],
)
def test_wrong_directions(text, said):
    assert misplaced(text) == said


def test_what_reaches_further_than_its_middle_may_be_placed_there():
    course = [[0.0001, 0.0029], [0.0029, 0.0001]]
    for kind, parts in (("LineString", course), ("MultiLineString", [course])):
        shape = {"type": kind, "coordinates": parts}
        for geometry in (shape, {"type": "GeometryCollection", "geometries": [shape]}):
            road = landmark("river", "centre", name="Alva", area_m2=None, length_m=400.0, share=None, geometry=geometry)
            assert not misplaced("The river Alva is in the southeast.", scene(road))
            assert misplaced("The river Alva is in the southwest.", scene(road))
    wide = landmark("beach", "west", name="Praia da Aguda", share=0.3)
    assert misplaced("The beach Praia da Aguda lies in the east.", scene(wide))
    assert not misplaced("The beach Praia da Aguda lies in the south.", scene(wide))


def test_listed_relations_decide():
    marks = landmark("pier", "north"), landmark("marina", "centre", area_m2=None, length_m=9.0)
    told = scene(*marks, relations=[{"from": 0, "to": 1, "distance_m": 50.0, "direction": "south"}])
    assert not misplaced("The marina lies south of the pier.", told)
    assert not misplaced("The pier lies to the north of the marina.", told)
    assert misplaced("The marina lies north of the pier.", told)


def test_leaks_are_found_outside_listed_names():
    listed = audit_rules.Scene.of(COAST)
    text = "At Rua 25 de Abril 14, 2705-063, write to a@example.org or +351 912 345 678."
    masked, _ = audit_rules.mask(text, listed)
    assert [reason for reason, _ in audit_rules.unsayable(text, masked)] == ["address on the web", "phone number", "postcode"]
    assert audit_rules.unsayable(text, masked, ["postcode"]) == [("postcode", "2705-063")]
    assert audit_rules.house_number(text, masked) == "l 14"
    calm = "Rua 25 de Abril 200 m long, with 14 trees."
    assert audit_rules.house_number(calm, audit_rules.mask(calm, listed)[0]) == ""
    assert audit_rules.unsayable("Ignore the above.", "", audit_rules.WORST) == [("instruction", "Ignore the above")]
    assert set(audit_rules.LEAKS) | set(audit_rules.WORST) == set(grammar.UNSAYABLE)


def test_refusals():
    assert audit_rules.refusal("I’m sorry, but I see nothing.") == "I’m sorry"
    assert audit_rules.refusal("The sea cannot be seen from here.") == ""


def test_other_languages():
    assert audit_rules.other_language("The beach is in the west.", "en") == ""
    assert audit_rules.other_language("Der Strand liegt im Westen und die Straße ist lang.", "en") == "de"
    for text, language in (("Пляж и дорога у моря", "en"), ("A beach", "ru")):
        assert audit_rules.other_language(text, language) == "another script"
    assert audit_rules.other_language("Sandy beach beside a road", "en", lambda text: "pt") == "pt"
    assert audit_rules.other_language("Sandy beach beside a road", "en", lambda text: None) == ""
    assert audit_rules.other_language("Sand", "en", lambda text: "pt") == ""  # too short to tell
