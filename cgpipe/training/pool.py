"""The image pool."""

from __future__ import annotations

from typing import Any

import torch


class ImagePool:
    """A pool of earlier translations, so that a discriminator does not only follow the newest (arXiv 1612.07828).

    Until it holds ``size`` pictures, each new one is stored and returned; after that each new one is, with probability
    0.5, swapped for a random stored one. With ``size`` 0 the input is returned. Without ``one_size``, pictures of
    several sizes are stored together; they must then come one at a time.
    """

    def __init__(self, size: int, *, seed: int = 0, one_size: bool = True) -> None:
        self.size = size
        self.one_size = one_size
        self._pictures: list[torch.Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def exchange(self, pictures: torch.Tensor) -> torch.Tensor:
        """Swaps (N, C, H, W) for pictures of the same number and shape."""
        if self.size == 0:
            return pictures
        if self.one_size and self._pictures and self._pictures[0].shape != pictures.shape[1:]:
            self._pictures.clear()  # The crop size has changed.
        return torch.stack([self._exchange_one(picture) for picture in pictures])

    def _exchange_one(self, picture: torch.Tensor) -> torch.Tensor:
        if len(self._pictures) < self.size:
            self._pictures.append(picture.clone())
            return picture
        if torch.rand((), generator=self._random) < 0.5:
            return picture
        index = int(torch.randint(self.size, (), generator=self._random))
        old, self._pictures[index] = self._pictures[index], picture.clone()
        return old.to(picture.device)  # that of a state was loaded to the CPU

    def state_dict(self) -> dict[str, object]:
        """Everything that determines what the pool returns next."""
        return {"pictures": self._pictures, "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._pictures = list(state["pictures"])
        self._random.set_state(state["random"])
