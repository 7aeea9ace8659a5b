from __future__ import annotations

import os
import signal
import threading

import pytest

from otpr.training.stopping import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_only_asks_and_the_second_interrupts_at_once(number: signal.Signals, capfd):
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert "Once more stops at once" in capfd.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_leaving_raises_only_where_a_stop_was_requested():
    with StopRequest() as stop:
        stop.leave_if_requested("at 5")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match=r"^at 5$"):
            stop.leave_if_requested("at 5")


def test_earlier_handlers_are_put_back_whatever_happens():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail_inside() -> None:
        with StopRequest():
            assert signal.getsignal(signal.SIGINT) != before[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_signals_stay_as_they_are():
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGINT), False)]
