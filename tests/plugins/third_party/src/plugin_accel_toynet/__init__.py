"""The plugin: what the entry point names. It does not import toynet."""

from plugin_accel import hookimpl
from plugin_accel.backends import reference
from plugin_accel.hosts import FrameworkHost


class CountingBackend:
    """Lets the reference backend compute, and counts the calls."""

    name = "counting"
    devices = frozenset({"cpu"})
    saves_input = reference.BACKEND.saves_input

    def __init__(self) -> None:
        self.calls = 0

    def unavailable(self):
        return None

    def details(self):
        return "the reference backend, counted"

    def refuses(self, *args, **kwargs):
        return reference.BACKEND.refuses(*args, **kwargs)

    def forward(self, *args, **kwargs):
        self.calls += 1
        return reference.BACKEND.forward(*args, **kwargs)

    def backward(self, *args, **kwargs):
        self.calls += 1
        return reference.BACKEND.backward(*args, **kwargs)


BACKEND = CountingBackend()


@hookimpl
def plugin_accel_backends():
    return [BACKEND]


@hookimpl
def plugin_accel_hosts():
    return [FrameworkHost("toynet", "toynet", "plugin_accel_toynet.host")]
