"""Principal components of images, as a linear map that is fitted once and then fixed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyro_models.shapes import Shape, require_shape

MOST_IMAGES = 4_096
"""Most images that components are fitted to."""
NEGLIGIBLE = 1e-4
"""A component whose standard deviation is below this part of the first one's is zero."""


class PrincipalComponents(nn.Module):
    r"""The first principal components of images, each of unit variance.

    .. math:: y_k = w_k^\top (x - \mu) / \sigma_k

    with the mean image :math:`\mu`, orthonormal directions :math:`w_k` in the order of the standard
    deviations :math:`\sigma_k` of the images along them. All are zero before :meth:`fit`. They are
    buffers, not parameters.

    Args:
        shape: The images' shape :math:`(C, H, W)`.
        number: The number :math:`K` of components, at most the number of values of an image.

    Shape:
        :math:`(*, C, H, W)` to :math:`(*, K)`.

    Example:
        >>> images = torch.rand(500, 1, 8, 8)
        >>> components = PrincipalComponents(Shape(1, 8, 8), 3)
        >>> components.fit([images])
        >>> components(images).shape, components(images).var(0).round(decimals=2).tolist()
        (torch.Size([500, 3]), [1.0, 1.0, 1.0])
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.shape = Shape.of(shape)
        self.register_buffer("mean", torch.zeros(self.shape.values))
        self.register_buffer("directions", torch.zeros(self.shape.values, number))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        r"""Fits the components to images; of more than :data:`MOST_IMAGES`, to the first.

        Args:
            batches: Images, each tensor of shape :math:`(*, C, H, W)`.
        """
        from sklearn.decomposition import PCA

        parts: list[Tensor] = []
        for images in batches:
            require_shape(images, self.shape)
            parts.append(images.reshape(-1, self.shape.values).cpu())
            if sum(map(len, parts)) >= MOST_IMAGES:
                break
        rows = torch.cat(parts)[:MOST_IMAGES].numpy()
        number = min(self.directions.shape[1], len(rows))
        pca = PCA(number, svd_solver="randomized", random_state=0).fit(rows)
        deviations = torch.from_numpy(pca.explained_variance_).sqrt()
        kept = deviations > NEGLIGIBLE * deviations[:1]
        scale = torch.where(kept, 1 / torch.where(kept, deviations, 1.0), 0.0)
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.directions.zero_()
        self.directions[:, :number] = torch.from_numpy(pca.components_).mul(scale.unsqueeze(1)).mT

    def forward(self, images: Tensor) -> Tensor:
        r"""Returns the components of images, of shape :math:`(*, K)`.

        Args:
            images: Of shape :math:`(*, C, H, W)`, in [0, 1].
        """
        require_shape(images, self.shape)
        # Differences from the mean would cancel at half the precision.
        with torch.autocast(images.device.type, enabled=False):
            return (images.flatten(-3) - self.mean) @ self.directions
