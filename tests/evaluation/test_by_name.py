"""What is wrong with a request is told before the work begins."""

import pytest

from rsvlm.data import catalogue
from rsvlm.errors import DataError
from rsvlm.evaluation import by_name


def test_where_no_image_tells_its_class_that_is_told_before_a_model_is_opened(toy_shards, monkeypatch):
    opened = []
    monkeypatch.setattr(by_name.opening, "open_encoder", lambda *arguments: opened.append(arguments))
    with pytest.raises(DataError, match="does not say of what class"):
        by_name.retrieve("remoteclip:ViT-B-32", toy_shards, per_class=True)
    assert not opened


def test_templates_of_a_file_never_go_by_the_name_of_a_prompt_set_of_others(tmp_path):
    for name, line, called in (
        ("mine.txt", "a view of {class}", "mine"),
        ("skyscript.txt", "a view of {class}", "skyscript (of a file)"),
        ("paper.txt", "An aerial image of {class}", "paper"),
    ):
        (tmp_path / name).write_text(f"# ours\n{line}\n")
        assert by_name.templates_of(str(tmp_path / name)) == (called, [line])
    assert by_name.templates_of("paper") == ("paper", ["An aerial image of {class}"])


@pytest.mark.parametrize(("written", "read"), [("{class}", "{class}"), ("{c}", "{class}"), ("{}", "{}")])
def test_the_place_of_the_name_is_written_as_others_write_it(tmp_path, written, read):
    """Sets for CLIP_benchmark bring such a file with {c}; others write {}, which `classification` reads as well."""
    path = tmp_path / "zeroshot_classification_templates.txt"
    path.write_text(f"a satellite photo of {written}.\na {written} from above\n")
    assert by_name.templates_of(str(path)) == (path.stem, [f"a satellite photo of {read}.", f"a {read} from above"])


def test_other_names_of_classes_are_another_prompt_set():
    words = catalogue.class_names("AID")
    assert not by_name._are_other_words(words[::-1], "AID", None)
    assert by_name._are_other_words(["aerodrome", *words[1:]], "aid", "all") and by_name._are_other_words(
        words[1:], "AID", None
    )
    assert not by_name._are_other_words(["aerodrome", *words[1:]], "AID", "skyscript-test")  # those of its own list
    assert not by_name._are_other_words(["aerodrome"], "my airports", None)
