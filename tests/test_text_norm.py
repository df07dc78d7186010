"""Text normalisation: what each scheme keeps, by hand."""

from __future__ import annotations

import unicodedata

import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.text_norm import SCHEMES, basic, characters, scheme, verbatim, vpc


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (vpc, "Don’t stop, the well-known naïve café!", "DON'T STOP THE WELL KNOWN NAIVE CAFE"),
        (vpc, "MISTER QUILTER IS", "MISTER QUILTER IS"),
        (vpc, "'' 12 -", ""),
        (basic, "Der Bär, ist’s wahr?  NEIN!", "der bär ist's wahr nein"),
        (basic, "'quoted' l'été 3 fois", "quoted l'été 3 fois"),
        (basic, unicodedata.normalize("NFD", "ÉTÉ"), "été"),
        (basic, "…", ""),
        (characters, "今天早上， 8 点的 train 又晚点了。", "今天早上点的又晚点了"),
        (verbatim, "  As it\tIS. ", "As it IS."),
    ],
)
def test_schemes(function, text: str, expected: str):
    assert function(text) == expected
    assert function(expected) == expected


def test_equal_texts_in_two_unicode_forms_are_equal():
    for name, one in SCHEMES.items():
        if name != "verbatim":
            assert one.apply(unicodedata.normalize("NFD", "żółć ÉTÉ")) == one.apply("żółć ÉTÉ")


def test_languages_have_their_schemes():
    assert scheme("en") is SCHEMES["vpc"]
    assert scheme("cmn") is SCHEMES["characters"]
    assert not scheme("cmn").words
    assert scheme("pl") is SCHEMES["basic"]
    assert scheme("pl", "vpc") is SCHEMES["vpc"]
    with pytest.raises(UserError, match="did you mean 'basic'"):
        scheme("en", "basik")
