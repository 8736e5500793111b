"""Which characters are the classes of `glyphs`, and which fonts write them.

Output: `glyph_classes.json`, committed beside this file and written by `python -m bilevel.recipes.glyph_classes`.
It is a file and not a computation because a class near the threshold of likeness would come and go with the version
of FreeType. Draws no writers: see `glyph_writers`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FILE = Path(__file__).with_name("glyph_classes.json")
FAMILIES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif")
STYLES = {"DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic")}
PLAIN_STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
FONTS = (*(f + style for f in FAMILIES for style in STYLES.get(f, PLAIN_STYLES)), *STIX)
"""The sixteen text fonts that matplotlib ships; its other fonts map code points to other characters."""

SYMBOLS = {
    "ARROWS": range(0x2190, 0x2200),
    "OPERATORS": range(0x2200, 0x2300),
    "TECHNICAL": range(0x2300, 0x2400),
    "SHAPES": range(0x25A0, 0x2600),
    "DINGBATS": range(0x2700, 0x27C0),
}
ALPHABETS: dict[str, tuple[str, ...]] = {
    "train": ("LATIN", "CANADIAN", "CYRILLIC", "DIGIT", "COPTIC", "LISU", *SYMBOLS),
    "val": ("GREEK", "ARABIC", "NKO", "OGHAM", "OLD ITALIC"),
    "test": ("GEORGIAN", "ARMENIAN", "HEBREW", "TIFINAGH", "LAO"),
}
FEWEST_FONTS = 4
FEWEST_FONTS_OF = {"NKO": 2, "OGHAM": 2, "TIFINAGH": 2}  # only DejaVu Sans and its bold have these at all
LIKENESS = 0.95

Images = NDArray[np.uint8]


def font_path(name: str) -> Path:
    """The file of one of `FONTS`."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def fonts_of(characters: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """For each code point the fonts that have it, in the order of `FONTS`; cost half a second."""
    charmaps = {name: FT2Font(str(font_path(name))).get_charmap() for name in FONTS}
    return {c: tuple(name for name in FONTS if c in charmaps[name]) for c in characters}


def read_classes() -> dict[str, tuple[int, ...]]:
    """The code points of train, val and test, by alphabet and then by code point."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        split: tuple(int(code, 16) for codes in alphabets.values() for code in codes.split())
        for split, alphabets in content.items()
    }


# ---- one drawing ---------------------------------------------------------------------------------------------


class Pen:
    """Draws single characters of one font as grey images, ink 255 on 0, cut to their ink."""

    def __init__(self, name: str, pixels: int) -> None:
        # BASIC: the other layout engine is not in every build of Pillow and shapes letters by context.
        self.font = ImageFont.truetype(str(font_path(name)), pixels, layout_engine=ImageFont.Layout.BASIC)
        self.canvas = 4 * pixels

    def draw(self, character: int) -> Images:
        """The ink of a character, uint8[height, width]; no pixels where it has none."""
        image = Image.new("L", (self.canvas, self.canvas))
        place = (self.canvas // 4, self.canvas * 5 // 8)
        ImageDraw.Draw(image).text(place, chr(character), fill=255, font=self.font, anchor="ls")
        box = image.getbbox()
        return np.asarray(image.crop(box)) if box else np.zeros((0, 0), np.uint8)


def fit(ink: Images, side: int, size: int) -> Images:
    """The ink scaled to a larger side of `side` pixels, in the middle of uint8[size, size]."""
    height, width = ink.shape
    scale = side / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = Image.fromarray(ink).resize(shape, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    fitted = Image.new("L", (size, size))
    fitted.paste(scaled, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return np.asarray(fitted)


# ---- the choice ----------------------------------------------------------------------------------------------


def choose_classes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Split -> alphabet -> code points that enough fonts have and that no class before looks like; about 10 s.

    The order of splits decides between two alike, so that no character of val or test is known from train.
    """
    fonts = fonts_of(range(0x20, 0x1F800))
    found = [(split, a, c) for split, names in ALPHABETS.items() for a in names for c in _members(a, fonts)]
    codes = [code for _, _, code in found]
    kept = set(_unlike(codes, _likeness(codes, fonts)))
    return {
        split: {a: tuple(c for s, b, c in found if (s, b) == (split, a) and c in kept) for a in names}
        for split, names in ALPHABETS.items()
    }


def _members(alphabet: str, fonts: Mapping[int, Sequence[str]]) -> list[int]:
    """Letters and numbers whose name begins with the alphabet's, or symbols of its block; nothing composed."""
    fewest = FEWEST_FONTS_OF.get(alphabet, FEWEST_FONTS)
    block = SYMBOLS.get(alphabet)
    kinds = "LN" if block is None else "SP"
    return [
        code
        for code in (fonts if block is None else block)
        if len(fonts[code]) >= fewest
        and not unicodedata.decomposition(chr(code))
        and unicodedata.category(chr(code))[0] in kinds
        and (block is not None or unicodedata.name(chr(code), "").startswith(alphabet + " "))
    ]


def _likeness(codes: Sequence[int], fonts: Mapping[int, Sequence[str]]) -> NDArray[np.float32]:
    """Cosine of ink-box-normalised images of every two characters, the largest over the fonts that have both.

    A character blank in a font has no image there; blank in all, it is like itself nowhere.
    """
    likeness = np.zeros((len(codes), len(codes)), np.float32)
    for name in FONTS:
        pen = Pen(name, 48)
        inks = {i: pen.draw(code) for i, code in enumerate(codes) if name in fonts[code]}
        drawn = [i for i, ink in inks.items() if ink.size]
        rows = np.stack([fit(inks[i], 20, 24).ravel().astype(np.float32) for i in drawn])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        both = np.ix_(drawn, drawn)
        likeness[both] = np.maximum(likeness[both], rows @ rows.T)
    return likeness


def _unlike(codes: Sequence[int], likeness: NDArray[np.float32]) -> list[int]:
    """Characters, first come first served, that are like none before; blanks left out."""
    kept: list[int] = []
    for i in range(len(codes)):
        if likeness[i, i] > 0 and not (likeness[i, kept] > LIKENESS).any():
            kept.append(i)
    return [codes[i] for i in kept]


def classes_text() -> str:
    """The content of `FILE`: code points in hexadecimal."""
    chosen = {
        split: {alphabet: " ".join(f"{code:X}" for code in codes) for alphabet, codes in alphabets.items()}
        for split, alphabets in choose_classes().items()
    }
    return json.dumps(chosen, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(classes_text(), encoding="utf-8")
