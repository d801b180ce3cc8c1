"""No two people share a name, also where the names only look alike."""

import pytest

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.names import normalised, taken


@pytest.mark.parametrize("name", ["Ann", "José María", "Анна", "李雷", "O'Neil", "careful-0-1"])
def test_names_of_any_one_alphabet_stay_as_they_are(name):
    assert normalised(name) == name


@pytest.mark.parametrize("name", ["  Ann ", "Ａｎｎ"])
def test_spaces_around_and_wide_forms_are_normalised(name):
    assert normalised(name) == "Ann"


@pytest.mark.parametrize("name", ["Ann\u200b", "An\u0000n", "\u202eann", "An\u00adn"])
def test_characters_that_nobody_sees_are_refused(name):
    with pytest.raises(ConfigError, match="cannot be seen"):
        normalised(name)


@pytest.mark.parametrize("name", ["", "  ", "x" * 65])
def test_empty_and_long_names_are_refused(name):
    with pytest.raises(ConfigError, match="1 to 64"):
        normalised(name)


def test_letters_of_two_alphabets_in_a_word_are_refused():
    with pytest.raises(ConfigError, match="use one alphabet"):
        normalised("\u0430nn")  # Cyrillic a


@pytest.mark.parametrize(
    "first, second",
    [("Ann", "ann"), ("Paul", "Pau1"), ("Coco", "\u0421\u043e\u0441\u043e"), ("Jose", "José"), ("Mark", "Rnark")],
)
def test_a_name_that_looks_like_another_is_taken(first, second):
    assert taken(second, ["Somebody", first]) == first
    assert taken(first, [second]) == second


def test_other_names_are_free():
    assert taken("Anna", ["Ann", "Anne", "\u0410\u043d\u043d\u0430"]) is None
