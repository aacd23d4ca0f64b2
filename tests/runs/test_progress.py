import io

import numpy as np
import pytest

from lsf_jax.runs.progress import Progress, duration_text, rate_text, spread_text


class Watch:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class LostTerminal(io.StringIO):
    def write(self, text):
        raise OSError(5, "Input/output error")


class AsciiStream(io.StringIO):
    encoding = "ascii"


def make(total=1000, **settings):
    watch, stream = Watch(), settings.pop("stream", io.StringIO())
    return Progress(total, "a run", stream=stream, clock=watch, **settings), watch, stream


def test_a_stream_that_is_no_terminal_gets_plain_lines():
    progress, watch, stream = make()
    with progress:
        watch.now += 10.0
        progress.update(env_steps=200, updates=20, returns=np.array([1.0, 3.0, np.nan]))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.count("\n") == 1
    assert "200 / 1,000 (20%)" in text
    assert "return 2.00 (1.00 … 3.00, 2 seeds)" in text


def test_plain_updates_are_held_back_but_the_last_is_shown():
    progress, watch, stream = make(interval=5.0)
    for step in range(1, 101):
        watch.now += 0.1
        progress.update(env_steps=step, updates=step)
    assert stream.getvalue().count("\n") == 2  # at 0.1 s and at 5.1 s
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 3
    assert "100 / 1,000" in stream.getvalue().splitlines()[-1]


def test_notes_are_never_held_back():
    progress, _, stream = make(interval=1e9)
    for number in range(5):
        progress.note(f"event {number}")
    assert stream.getvalue().splitlines() == [f"event {number}" for number in range(5)]


def test_compilation_does_not_enter_rate_and_eta():
    progress, watch, stream = make()
    progress.begin()
    with progress.compiling("training chunk"):
        watch.now += 60.0
    watch.now += 10.0
    progress.update(env_steps=100, updates=50)
    line = stream.getvalue().splitlines()[-1]
    assert "compiled training chunk in 60.0 s" in stream.getvalue()
    assert "env steps/s 10 " in line
    assert "updates/s 5.00" in line
    assert "ETA 1 min 30 s" in line


def test_a_resumed_run_counts_its_rate_from_where_it_began():
    progress, watch, stream = make()
    progress.begin(env_steps=900, updates=90)
    watch.now += 10.0
    progress.update(env_steps=950, updates=95)
    assert "env steps/s 5.00" in stream.getvalue()
    assert "ETA 10 s" in stream.getvalue()


def test_the_rate_looks_back_on_a_window_only():
    progress, watch, stream = make(total=10_000, interval=0.0)
    for _ in range(10):
        watch.now += 60.0
        progress.update(env_steps=100, updates=0)
    for step in range(1, 11):
        watch.now += 60.0
        progress.update(env_steps=100 + 60 * step, updates=0)
    assert "env steps/s 1.00" in stream.getvalue().splitlines()[-1]


def test_a_terminal_gets_the_live_table_and_notes_above_it():
    progress, watch, stream = make(stream=Terminal())
    with progress:
        progress.note("something happened")
        watch.now += 10.0
        progress.evaluated(np.arange(2), np.array([400, 402]), np.array([3.0, 5.0]))
        progress.update(env_steps=500, updates=7, returns=np.array([4.0]))
    text = stream.getvalue()
    assert "\x1b[" in text
    for expected in (
        "a run",
        "something happened",
        "500 / 1,000 (50%)",
        "4.00 (1 seed)",
        "return 4.00 (3.00 … 5.00, 2 seeds) at 401 env steps",
    ):
        assert expected in text


@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_that_goes_away_silences_and_never_raises(plain):
    progress, watch, _ = make(stream=LostTerminal(), plain=plain, interval=0.0)
    with progress:
        progress.note("one")
        with progress.compiling("a program"):
            watch.now += 1.0
        for step in range(3):
            watch.now += 1.0
            progress.update(env_steps=step, updates=step)


@pytest.mark.parametrize("plain", [True, False])
def test_a_closed_stream_never_raises(plain):
    progress, _, stream = make(plain=plain, interval=0.0)
    progress.note("one")
    stream.close()
    progress.update(env_steps=1, updates=1)
    progress.close()


def test_an_encoding_without_the_character_does_not_silence():
    progress, _, stream = make(stream=AsciiStream(), interval=0.0)
    progress.update(env_steps=1, updates=1)
    progress.note("fine")
    assert stream.getvalue().endswith("fine\n")
    assert stream.getvalue().isascii()


def test_errors_pass_through_the_context():
    progress, _, _ = make()
    with pytest.raises(KeyError), progress:
        raise KeyError("x")


def test_a_total_of_nothing_is_refused():
    with pytest.raises(ValueError, match="total_env_steps 0"):
        Progress(0, "a run")


def test_words_for_numbers():
    assert spread_text(np.array([np.nan, np.inf])) == "-"
    assert spread_text(np.array([])) == "-"
    assert [duration_text(s) for s in (0.4, 59.4, 59.6, 3599.4, 3600.0, 7.2e6)] == [
        "0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "2,000 h 00 min",
    ]  # fmt: skip
    assert [rate_text(r) for r in (0.0, 1.234, 12345.6)] == ["-", "1.23", "12,346"]
