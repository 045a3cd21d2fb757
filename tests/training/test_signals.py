import os
import signal
import threading

import pytest
import torch

from fastvarcon.training.signals import StopRequest

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signal_is_noted_however_often_and_the_old_handler_comes_back(name):
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))
    with StopRequest() as stop:
        assert stop.agreed(CPU, None) is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.agreed(CPU, None) == name
    assert signal.getsignal(number) is before


def test_in_a_thread_it_leaves_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopRequest() as stop:
            seen.append((stop.name, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
