"""Names of colours, and names of a picture's main colours."""

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw

from condiff.color.lab import rgb_to_lab
from condiff.color.names import NAMES, find_paper, main_colors, name_colors


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("black", "black #292f33"), ("white", "white #e6e7e8"), ("grey", "grey silver dimgray"),
        ("beige", "beige wheat bisque #ffdbb4"), ("brown", "saddlebrown sienna #c1694f #662113"),
        ("red", "red crimson darkred #dd2e44"), ("orange", "orange darkorange coral #f4900c"),
        ("yellow", "yellow gold khaki #ffcc4d"), ("green", "green lime olive #77b255"),
        ("cyan", "cyan turquoise teal"), ("blue", "blue navy skyblue dodgerblue #55acee"),
        ("purple", "purple indigo violet #9266cc"), ("pink", "pink hotpink deeppink lightpink"),
    ],
)  # fmt: skip
def test_colours_have_the_names_that_people_give_them(name, examples):
    rgb = np.array([[ImageColor.getrgb(each) for each in examples.split()]], np.uint8)
    assert [NAMES[place] for place in name_colors(rgb_to_lab(rgb))[0]] == [name] * rgb.shape[1]


def test_main_colours_are_those_that_cover_most_without_the_paper():
    image = Image.new("RGB", (60, 60), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 49, 49), fill="blue")
    draw.rectangle((20, 20, 39, 39), fill="yellow")
    draw.rectangle((28, 28, 31, 31), fill="red")  # too small to be named
    assert main_colors(np.asarray(image)) == ["blue", "yellow"]
    assert main_colors(np.asarray(image), most=1) == ["blue"]
    assert main_colors(np.full((9, 9, 3), 255, np.uint8)) == []


def test_white_inside_a_shape_is_no_paper():
    image = Image.new("RGB", (40, 40), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 31, 31), fill="white", outline="black", width=2)
    paper = find_paper(rgb_to_lab(np.asarray(image)))
    assert paper[0, 0] and not paper[20, 20]
    assert main_colors(np.asarray(image))[0] == "white"
