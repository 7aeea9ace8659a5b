from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from otpr.training.stopping import Abandoned, Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_only_asks(number: signal.Signals, capfd):
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert "Once more stops at once" in capfd.readouterr().out


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_second_signal_ends_the_process_even_in_compiled_code(numbers: tuple[signal.Signals, ...]):
    """Any long call into C stands for it: Python's own handlers cannot run meanwhile."""
    script = """if True:
        import hashlib, os
        from otpr.training.stopping import StopRequest
        with StopRequest() as stop:
            print("ready", flush=True)
            while not stop.requested:
                pass
            print("asked", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)  # minutes, in C
    """
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(numbers[0])
    while process.stdout.readline() != "asked\n":
        assert process.poll() is None
    time.sleep(0.2)
    signalled = time.monotonic()
    process.send_signal(numbers[1])
    process.communicate(timeout=60)
    assert time.monotonic() - signalled < 10
    assert process.returncode == -numbers[1]


def test_leaving_raises_only_where_a_stop_was_requested():
    with StopRequest() as stop:
        stop.leave_if_requested("at 5")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match=r"^at 5$"):
            stop.leave_if_requested("at 5")


def test_work_returns_and_raises_as_if_it_were_called():
    with StopRequest() as stop:
        assert stop.do(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            stop.do(divmod, 7, 0)


def test_work_is_done_in_place_where_no_signal_is_handled():
    stop = StopRequest()
    assert stop.do(threading.current_thread) is threading.current_thread()
    with stop:
        assert stop.do(threading.current_thread) is not threading.current_thread()


def test_a_stop_leaves_work_behind():
    go_on = threading.Event()
    with StopRequest() as stop:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Abandoned):
            stop.do(go_on.wait)
        with pytest.raises(Abandoned):
            stop.abandon()
    go_on.set()


def test_a_process_ends_while_compiled_code_goes_on():
    """With its exit status and its last words, though the work would take minutes."""
    script = """if True:
        import hashlib
        from otpr.training.stopping import Abandoned, StopRequest, exit_process
        with StopRequest() as stop:
            print("ready", flush=True)
            try:
                stop.do(hashlib.pbkdf2_hmac, "sha256", b"", b"", 1_000_000_000)
            except Abandoned:
                print("saved")
        exit_process(7)
    """
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - signalled < 10
    assert process.returncode == 7
    assert rest.endswith("saved\n")


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
