"""Settings of the supervised loss in recipes."""

import pytest

from zoo.errors import RecipeError
from zoo.train.recipe.read import load_recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss=mse"], r"recipe eln: loss is 'mse': expected cross_entropy, dice, focal, lovasz or a sum"),
        (
            ["loss=dice + -1 * focal"],
            r"loss is .*: expected a positive number before the \* of focal, got '-1'",
        ),
        (["class_weights=rare"], r"class_weights is 'rare': expected none, inverse, median_frequency, eff"),
        (["class_weights=[1, -2]"], r"class_weights is \[1, -2\]: expected .* a number of 0 or more"),
        (["class_weights=[0, 0]"], r"class_weights is \[0, 0\]: .*not all 0"),
        (["class_weights=[1, inf]"], r"class_weights is \[1, inf\]: expected"),
        (["focal_gamma=-1"], r"focal_gamma is -1: .*greater than or equal to 0"),
        (["effective_beta=1"], r"effective_beta is 1: .*less than 1"),
        (["data.rare_classes=2"], r"data\.rare_classes is 2: .*less than or equal to 1"),
    ],
)
def test_an_invalid_setting_is_named_with_what_is_expected(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("eln", settings)
    assert "\n" not in str(caught.value)


def test_weights_for_another_number_of_classes_are_an_error_of_one_line() -> None:
    recipe = load_recipe("supervised", ["class_weights=[1, 2, 3]"])
    assert recipe.for_classes(3).class_weights == (1, 2, 3)
    with pytest.raises(
        RecipeError, match=r"class_weights has 3 numbers, expected 11, one for each"
    ) as caught:
        recipe.for_classes(11)
    assert "\n" not in str(caught.value)
