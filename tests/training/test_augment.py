"""Words turn with the picture: eight symmetries, names untouched."""

import itertools
import time

import numpy as np
import pytest
from conftest import HALVES

from rsvlm.model import images
from rsvlm.training import augment

TURNS = range(augment.ELEMENTS)
QUARTER, FLIP = 2, 1  # north becomes west; east and west are swapped


def compose(first, then):
    """The symmetry that does what one does and then another."""
    image = np.arange(2 * 2 * 3).reshape(2, 2, 3)
    turned = augment.turn_image(augment.turn_image(image, first), then)
    return next(turn for turn in TURNS if np.array_equal(augment.turn_image(image, turn), turned))


def test_eight_different_symmetries_that_form_a_group():
    image = np.arange(12 * 12 * 3).reshape(12, 12, 3)
    assert len({augment.turn_image(image, turn).tobytes() for turn in TURNS}) == 8
    for first, then in itertools.product(TURNS, TURNS):
        turned = augment.turn_image(augment.turn_image(image, first), then)
        assert np.array_equal(turned, augment.turn_image(image, compose(first, then)))
    assert compose(QUARTER, FLIP) != compose(FLIP, QUARTER)


@pytest.mark.parametrize(
    "text",
    [
        "Red in the northwest, west and southwest, but green in the east.",
        "A road from north to south; the northern and south-eastern parts are bare. North of it lies a lake.",
        "trees in the top left corner, a house at the lower-right, cars on the left and at the bottom",
        "the easternmost island lies south west of a northeasterly reef, northwards of which are horizontal streets",
        "no direction at all",
    ],
)
def test_texts_compose_as_images_do(text):
    for first, then in itertools.product(TURNS, TURNS):
        assert augment.turn_text(augment.turn_text(text, first), then) == augment.turn_text(text, compose(first, then))


@pytest.mark.parametrize("side", [["north", "south", "west", "east"], ["top", "bottom", "left", "right"]])
@pytest.mark.parametrize("turn", TURNS)
def test_a_caption_stays_true_of_its_picture(turn, side):
    names = dict(zip(HALVES, side, strict=True))
    for half, where in HALVES.items():
        image = np.zeros((32, 32, 3), np.uint8)
        image[where] = 255
        said = augment.turn_text(f"white in the {names[half]}, black elsewhere", turn)
        true = next(h for h, w in HALVES.items() if augment.turn_image(image, turn)[w].min() == 255)
        assert said == f"white in the {names[true]}, black elsewhere"


@pytest.mark.parametrize(("rows", "columns"), itertools.product(("north", "south"), ("west", "east")))
@pytest.mark.parametrize("form", ["{ns}{ew}", "{ns}-{ew}ern", "{ns} {ew}", "{tb} {lr}", "{ul}-{lr}"])
def test_corners_stay_true(rows, columns, form):
    def say(ns, ew):
        tb, ul = {"north": ("top", "upper"), "south": ("bottom", "lower")}[ns]
        return form.format(ns=ns, ew=ew, tb=tb, ul=ul, lr={"west": "left", "east": "right"}[ew])

    image = np.zeros((2, 2, 1))
    image[int(rows == "south"), int(columns == "east")] = 1
    for turn in TURNS:
        row, column = np.argwhere(augment.turn_image(image, turn)[..., 0])[0]
        expected = say(("north", "south")[row], ("west", "east")[column])
        assert augment.turn_text(f"a tower in the {say(rows, columns)} part", turn) == f"a tower in the {expected} part"


def test_lists_and_capitals():
    assert augment.turn_text("In the northwest, west and southwest.", QUARTER) == "In the southwest, south and southeast."
    assert augment.turn_text("North of the lake. Western fields.", FLIP) == "North of the lake. Eastern fields."
    assert augment.turn_text("East of it: South is sea", QUARTER) == "North of it: East is sea"
    assert augment.turn_text("the belt of the northern hemisphere, sea to the west", FLIP) == (
        "the belt of the northern hemisphere, sea to the east"
    )
    assert augment.turn_text("two vertical roads", QUARTER) == "two horizontal roads"
    assert augment.turn_text("two vertical roads", FLIP) == "two vertical roads"


@pytest.mark.parametrize(
    "text",
    [
        "a city in North Korea",
        "South Africa's coast is in the west",
        "the West Bank lies in the east",
        "fields in the North",
        "northern Italy is green",
        "north of the Alps",
        "a roundabout that runs clockwise",
        "cars go counterclockwise",
        "a ship at three o'clock",
        "the NW is dry",
        "12.5° of longitude",
        "two houses are above the road",
        "a pool on top of the building, to the left",
        "a right angle",
        "the field was left bare",
        "cars turn left here",
    ],
)
def test_what_is_not_safe_is_not_turned(text):
    assert all(augment.turn_text(text, turn) is None for turn in TURNS[1:])
    assert augment.turn_text(text, 0) == text


def test_words_without_a_partner_are_turned_only_where_they_stay():
    assert augment.turn_text("the upper half is sea", FLIP) == "the upper half is sea"
    assert augment.turn_text("the upper half is sea", 2 * QUARTER) == "the lower half is sea"
    assert augment.turn_text("the upper half is sea", QUARTER) is None
    assert augment.turn_text("the left-hand side", FLIP) == "the right-hand side"
    assert augment.turn_text("the left-hand side", QUARTER) is None


@pytest.mark.parametrize(
    "text", ["Weston, Southend, Eastbourne and Northrop", "bright rooftops, a leftover wall, westernized"]
)
def test_words_that_only_look_like_directions_stay(text):
    assert all(augment.turn_text(text, turn) == text for turn in TURNS)


def test_turning_keeps_up_with_the_loader():
    captions = ["Green land in the northwest, west and south, with sea to the east. The texture is rough."] * 2000
    start = time.perf_counter()
    for i, caption in enumerate(captions):
        augment.turn_text(caption, i % 8)
    assert (time.perf_counter() - start) / len(captions) < 1e-3  # decoding a chip takes about as long; typical is 30 µs


def test_boxes_are_parts_of_the_wanted_size():
    boxes = augment.draw_boxes(np.random.default_rng(0), 4000, 0.4)
    sides = boxes[:, 2:] - boxes[:, :2]
    area, ratio = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-9
    assert 0.38 < area.min() < 0.42 and area.max() > 0.97 and abs(area.mean() - 0.69) < 0.02
    assert 0.79 < ratio.min() < 0.85 and 1.18 < ratio.max() < 1.26
    assert np.abs(boxes.mean(0) - (1 - boxes.mean(0))[[2, 3, 0, 1]]).max() < 0.01  # no side is favoured


def test_a_part_of_an_image_is_that_part():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, 30:] = [10, 200, 30]  # the quarter at the top right
    part = images.resize(image, 8, 8, (0.5, 0.0, 1.0, 0.5))
    assert part.shape == (8, 8, 3) and (part[:-2, 2:] == [10, 200, 30]).all()  # at its edges the filter reaches beyond
    assert np.abs(part.astype(int) - [10, 200, 30]).max() < 30
    assert (images.resize(image, 8, 8, (0.0, 0.5, 0.5, 1.0))[2:, :-2] == 0).all()
    whole = images.resize(image, 8, 8, (0.0, 0.0, 1.0, 1.0))
    assert np.array_equal(whole, images.resize(image, 8, 8))


def test_light_worked_by_hand():
    image = np.full((2, 2, 3), 128, np.uint8)
    brighter = np.array([[1.0, 1.0, 1.0], [10.0, 0.0, -10.0]])
    assert (augment.relight(image, brighter) == [138, 128, 118]).all()
    assert (augment.relight(image, np.array([[9.0, 0.0, 1.0], [0.0, -5.0, 0.0]])) == [255, 0, 128]).all()
    drawn = augment.draw_light(np.random.default_rng(0), 4000, 0.2)
    assert drawn.shape == (4000, 2, 3) and 0.8 * 0.9 <= drawn[:, 0].min() and drawn[:, 0].max() <= 1.2 * 1.1
    grey = np.clip(128 * drawn[:, 0] + drawn[:, 1], 0, 255)  # contrast turns around the middle grey
    assert abs(grey.mean() - 128) < 1 and grey.std() > 3
    assert (augment.draw_light(np.random.default_rng(0), 3, 0.0) == [[1, 1, 1], [0, 0, 0]]).all()
