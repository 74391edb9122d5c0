"""Competitors must compute the same before they are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import plugin_accel
from plugin_accel.bench.workload import HOST, UNBIND, Peer

# Largest error relative to the largest entry. Parameter gradients are sums over up to 10^7 terms in another order.
INPUT_TOLERANCE, PARAMETER_TOLERANCE = 1e-5, 1e-4


class DisagreementError(RuntimeError):
    """A competitor is not what it should be, so its speed means nothing."""


@dataclass(frozen=True)
class Agreement:
    """How a competitor compares with the host.

    Attributes:
        flipped: Output elements that are not equal bit for bit.
        input_gradient: Largest error of the input's gradient, relative to its largest entry; ``None`` in inference.
        parameter_gradient: The same for the parameters.
    """

    flipped: int
    input_gradient: float | None
    parameter_gradient: float | None


def check(peers: Sequence[Peer]) -> tuple[float, dict[str, Agreement]]:
    """Compare every competitor with the first, the host, over two carried calls.

    Returns:
        The mean of the host's output (the spikes per neuron step) and the agreement of each competitor.

    Raises:
        DisagreementError: An output differs in any bit, a gradient by more than the tolerance, or a backend's layer
            runs the host's own forward.
    """
    host, *others = peers
    output, input_gradient, gradients = _observe(host)
    found = {host.name: Agreement(0, *((0.0, 0.0) if host.mode == "train" else (None, None)))}
    for peer in others:
        its_output, its_input_gradient, its_gradients = _observe(peer)
        flipped = int((its_output != output).sum())
        if host.mode == "infer":
            agreement = Agreement(flipped, None, None)
        else:
            worst = max((_error(a, b) for a, b in zip(gradients, its_gradients, strict=True)), default=0.0)
            agreement = Agreement(flipped, _error(input_gradient, its_input_gradient), worst)
        _demand(peer.name, agreement, output.numel())
        if peer.name not in (HOST, UNBIND):
            _demand_acceleration(peer)
        found[peer.name] = agreement
    return output.mean().item(), found


def _observe(peer: Peer) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Output of two carried calls, gradient of the input, gradients of the parameters."""
    peer.reset()
    peer.prepare()
    with peer.context():
        if peer.mode == "infer":
            with torch.no_grad():
                outputs = [peer.layer(peer.x), peer.layer(peer.x)]
            gradient = torch.empty(0)
        else:
            outputs = [peer.layer(peer.x), peer.layer(peer.x)]
            torch.autograd.backward(outputs, [peer.upstream, peer.upstream])
            assert peer.x.grad is not None
            gradient = peer.x.grad
    parameters = [p.grad for p in peer.layer.parameters() if p.grad is not None]
    peer.reset()
    peer.prepare()
    return torch.stack([output.detach() for output in outputs]), gradient, parameters


def _error(expected: torch.Tensor, got: torch.Tensor) -> float:
    scale = expected.abs().max().item()
    return (expected - got).abs().max().item() / scale if scale else got.abs().max().item()


def _demand_acceleration(peer: Peer) -> None:
    with peer.context():
        rows = plugin_accel.report(peer.layer).rows
    if [(row.status, row.backend, row.reasons) for row in rows] != [("accelerated", peer.name, ())]:
        raise DisagreementError(
            f"bench: expected the layer to run on the backend '{peer.name}', got {rows or 'a layer of no known host'}; "
            "its time would be the host's"
        )


def _demand(name: str, agreement: Agreement, elements: int) -> None:
    if agreement.flipped:
        raise DisagreementError(
            f"bench: expected '{name}' to give the host's output, got {agreement.flipped} of {elements} elements that "
            "differ; its time would mean nothing"
        )
    for what, error, tolerance in (
        ("the input's gradient", agreement.input_gradient, INPUT_TOLERANCE),
        ("the parameters' gradients", agreement.parameter_gradient, PARAMETER_TOLERANCE),
    ):
        if error is not None and not error <= tolerance:
            raise DisagreementError(
                f"bench: expected '{name}' to give {what} of the host within {tolerance:g}, "
                f"got an error of {error:.2e}; its time would mean nothing"
            )
