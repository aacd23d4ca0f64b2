"""How files are written and what is too much to be read; what scalars mean is in `test_composition`."""

import random

import pytest

from lsf_jax.config import yaml12
from lsf_jax.settings import ConfigError

CONTENT = {
    "algo": {"name": "qmix", "lr": 1e-05, "big": 1e17, "trace": 0.8, "clip": None, "twin": False, "n": -3},
    "env": {
        "payoff": ((8.0, -12.0), (-12.0, 0.0)),
        "text": "a: #b",
        "number": "3e-4",
        "date": "2024-01-01",
        "on": "on",
    },
    "train": {"sinks": ("wandb",), "empty": "", "none": (), "question": "? x", "lines": "a\tb", "é": "日本"},
    "grid": {"algo.lr": [0.001, 0.0003], "long": list(range(60)), "words": "long " * 40 + "x"},
}
WRITTEN = f"""algo:
  name: qmix
  lr: 1.0e-05
  big: 1.0e+17
  trace: 0.8
  clip: null
  twin: false
  n: -3
env:
  payoff: [[8.0, -12.0], [-12.0, 0.0]]
  text: 'a: #b'
  number: '3e-4'
  date: 2024-01-01
  on: on
train:
  sinks: [wandb]
  empty: ''
  none: []
  question: '? x'
  lines: "a\\tb"
  é: 日本
grid:
  algo.lr: [0.001, 0.0003]
  long: {list(range(60))}
  words: {"long " * 40}x
"""


def in_lists(value):
    if isinstance(value, dict):
        return {key: in_lists(each) for key, each in value.items()}
    return [in_lists(each) for each in value] if isinstance(value, list | tuple) else value


def test_files_have_one_style_with_each_value_on_its_line():
    assert yaml12.dump(CONTENT) == WRITTEN
    assert yaml12.parse(WRITTEN, "text") == in_lists(CONTENT)


def test_files_of_earlier_versions_are_read():
    """They wrapped long values, and broke text at its line breaks."""
    text = "a: [1.0e-05, 2.0,\n  3.0]\nb: 'one\n\n  two'\nc: long words\n  go on\nd: &x [1]\ne: *x\n? ''\n: 1\n"
    assert yaml12.parse(text, "text") == {
        **{"a": [1e-05, 2.0, 3.0], "b": "one\ntwo", "c": "long words go on"},
        **{"d": [1], "e": [1], "": 1},
    }


WORDS = (
    "? k",
    "- x",
    "a\nb",
    " x ",
    "'",
    '"',
    "\x85",
    "\u2028",
    "[x",
    "{y",
    "*a",
    "&b",
    "!c",
    "|",
    ">",
    "%d",
    "@e",
    "`f",
)
WORDS += (
    "a#b",
    "a, b",
    "a]b",
    "x:",
    "::",
    "~",
    "=",
    "<<",
    "1_000",
    "0b1",
    "0x1f",
    ".5e3",
    "+.inf",
    "C:\\x",
    "😀",
    "x" * 300,
)


def value(chance, depth=0):
    if depth < 3 and chance.random() < 0.4:
        inner = [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return dict(zip(chance.sample(WORDS, 4), inner)) if chance.random() < 0.3 else inner
    return chance.choice((*WORDS, *WORDS, chance.uniform(-1e9, 1e9), 10.0 ** chance.randrange(-8, 20), True, None, -7))


def test_whatever_is_written_is_read_back():
    chance = random.Random(0)
    for _ in range(100):
        content = {"key": value(chance)}
        written = yaml12.dump(content)
        assert repr(yaml12.parse(written, "text")) == repr(content), written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "text line 1: more than 131,072 values"),
        ("[" * 40, "text: more than 32 levels"),
        (
            "a: &a [[[[[[[[x]]]]]]]]\nb: &b [[[[[[[[*a]]]]]]]]\nc: &c [[[[[[[[*b]]]]]]]]\nd: [[[[[[[[*c]]]]]]]]",
            "32 levels",
        ),
        ("1" * 401, "text line 1: a number of 401 characters; expected at most 400"),
        ("x" * 2**18 + "y", "text: 262,145 characters; expected at most 262,144"),
        ("a: !!set {b}", "text line 1: set is no plain data"),
        ("a: !!bool maybe", "text line 1: bool maybe is no plain data"),
        ("[a]: 1", "text line 1: key of several values is not text"),
        ("a: 1\n---\nb: 2", "text line 2: "),
    ],
)
def test_what_is_too_much_or_no_plain_data_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        yaml12.parse_value(text, "text")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_aliases_may_multiply_up_to_a_bound():
    def power(levels):
        return "\n".join(f"k{n}: &a{n} [{f'*a{n - 1}, ' * 2 if n else '1'}]" for n in range(levels))

    assert len(yaml12.parse(power(12), "text")) == 12
    with pytest.raises(ConfigError, match="values with every alias written out"):
        yaml12.parse(power(20), "text")


def test_a_shortened_value_is_the_start_of_its_yaml():
    assert yaml12.shorten({"a": (1, None), "b": "3"}) == '{"a": [1, null], "b": "3"}'
    assert yaml12.shorten([["x" * 5000] * 50] * 50) == f'[["{"x" * 54}...'
    assert yaml12.shorten(0.5) == "0.5"
    assert yaml12.shorten(-(10**5000)).endswith("...")
