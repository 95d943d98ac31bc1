"""Extents that are clearly not those of the list are found, and no others."""

import pytest
from captioning import landmark, scene

from rsvlm.data.captions import audit, audit_extents, audit_rules, grammar

PLACE = scene(
    landmark("lake", "north", name="Lagoa Azul", share=0.013),
    landmark("forest", "south", share=0.55),
    landmark("road", "centre", area_m2=None, length_m=200.0, share=None),
    landmark("building", "west", count=12),
)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The lake Lagoa Azul covers most of the picture.", True),
        ("The lake Lagoa Azul extends over most of the picture.", True),
        ("The lake Lagoa Azul fills 40% of the image.", True),
        ("The lake occupies about a third of the scene.", True),
        ("The road covers nearly all of the picture.", True),
        ("The forest covers about an eighth of the picture.", True),
        ("The forest covers about half of the picture.", False),
        ("A forest takes up more than half of this image, and the lake lies in the north.", False),
        ("The forest covers 60 percent of the picture.", False),
        ("Buildings cover most of the picture.", False),  # of several together no share is judged
        ("Grass covers most of the picture.", False),
        ("The lake covers a small part of the picture.", False),
        ("Near the lake, grass covers most of the picture.", False),
    ],
)
def test_extents(text, wrong):
    listed = audit_rules.Scene.of(PLACE)
    masked, named = audit_rules.mask(text, listed)
    assert bool(list(audit_extents.wrong_extents(grammar.fold(masked), text, named, listed))) == wrong
    verdict = audit.check({"full": f"A road is in the centre. {text}"}, PLACE)
    assert ("wrong extent" in verdict.findings[0].reasons) == wrong
