"""Ctrl-C: the first asks, the second insists."""

import contextlib
import os
import signal
import threading

import pytest

from lsf_jax.runs.signals import stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_sets_the_flag(number, capfd):
    with stop_requested("saving, then stopping") as stopping:
        assert not stopping()
        os.kill(os.getpid(), number)
        assert stopping()
        assert stopping()
    assert capfd.readouterr().err == "\nsaving, then stopping\n"


def insist(reached: list[str]) -> None:
    with stop_requested("once") as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send several
        reached.append(f"stopping: {stopping()}")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("not interrupted")


def test_a_second_ctrl_c_interrupts_at_once_and_a_second_sigterm_does_not(capfd):
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        insist(reached)
    assert reached == ["stopping: True"]
    assert capfd.readouterr().err.count("once") == 1


def test_an_insisting_ctrl_c_that_a_library_swallows_is_raised_at_the_next_question():
    with pytest.raises(KeyboardInterrupt), stop_requested() as stopping:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):  # as in a destructor
            os.kill(os.getpid(), signal.SIGINT)
        stopping()


def test_previous_handlers_return():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_requested():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(RuntimeError), stop_requested():
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_contexts_nest():
    with stop_requested() as outer:
        with stop_requested() as inner:
            os.kill(os.getpid(), signal.SIGINT)
            assert inner()
        assert not outer()
        os.kill(os.getpid(), signal.SIGINT)
        assert outer()


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT)
    answers = []

    def work() -> None:
        with stop_requested() as stopping:
            answers.append((stopping(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [(False, before)]
