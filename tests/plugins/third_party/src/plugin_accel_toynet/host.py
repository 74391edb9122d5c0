"""The host file: imported once toynet is."""

import torch
import toynet


class Leaky(toynet.Leaky):
    """One matrix product instead of the loop."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if reasons(self):
            return super().forward(x)
        time = torch.arange(x.shape[1])
        lag = time[:, None] - time
        kernel = torch.where(lag >= 0, self.decay ** lag.clamp(min=0).to(x), 0)
        return kernel @ x


def classes():
    return {toynet.Leaky: Leaky}


def owns(module):
    return isinstance(module, toynet.Leaky)


def reasons(module):
    return () if 0 < module.decay <= 1 else (f"decay: expected a number in (0, 1], got {module.decay}",)
