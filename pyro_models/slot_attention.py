"""Slot Attention: an autoencoder whose code is a set of slots, which compete for the image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP, CropCorner, halved
from pyro_models.shapes import Shape, require_batch


class Composition(NamedTuple):
    r"""Images as slots draw them.

    Attributes:
        reconstruction: :math:`\hat{x}`, the sum of colours weighted by masks, of shape
            :math:`(B, C, H, W)`; about [0, 1], but not clipped.
        colours: The image :math:`c_k` that each slot draws, of shape :math:`(B, K, C, H, W)`.
        masks: The share :math:`m_k` of each slot in each pixel, of shape :math:`(B, K, H, W)`, in
            [0, 1]; they sum to 1 over the slots.
    """

    reconstruction: Tensor
    colours: Tensor
    masks: Tensor


class SlotAttention(nn.Module):
    r"""Iterative attention in which slots compete for features.

    Slots begin as draws from one Normal distribution, whose mean and deviation are learned. Each
    iteration normalises the attention over the slots, so that they compete for each of the
    :math:`N` features :math:`f_j`, and updates a slot by the weighted mean of what it has won:

    .. math::
        A_{jk} & = \frac{\exp(k(f_j) \cdot q(s_k) / \sqrt{D})}
            {\sum_l \exp(k(f_j) \cdot q(s_l) / \sqrt{D})}, \qquad
        u_k = \frac{\sum_j (A_{jk} + \epsilon) \, v(f_j)}{\sum_j (A_{jk} + \epsilon)} \\
        s'_k & = \text{GRU}(u_k, s_k), \qquad s_k \leftarrow s'_k + \text{MLP}(\text{LN}(s'_k))

    with linear :math:`k, q, v`, of features and slots that are layer normalised. Slots share all
    weights: permuted slots give permuted results, and their number :math:`K` is no size of any
    weight.

    Args:
        features: The size of a feature.
        slot_dim: The size :math:`D` of a slot.
        hidden: The width of the MLP's hidden layer.
        iterations: The number of iterations, from 1.
        epsilon: :math:`\epsilon`, above 0, which keeps the mean of a slot that wins nothing finite.

    References:
        | Object-Centric Learning with Slot Attention (Locatello et al., 2020), algorithm 1
        | https://arxiv.org/abs/2006.15055
    """

    def __init__(
        self,
        features: int,
        slot_dim: int = 64,
        *,
        hidden: int = 128,
        iterations: int = 3,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self.slot_dim = slot_dim
        self.iterations = iterations
        self.epsilon = epsilon
        self.loc = nn.Parameter(torch.randn(slot_dim) / math.sqrt(slot_dim))
        self.log_scale = nn.Parameter(torch.zeros(slot_dim))
        self.norm_features = nn.LayerNorm(features)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.norm_hidden = nn.LayerNorm(slot_dim)
        # The biases of the layer norms before them are enough.
        self.key = nn.Linear(features, slot_dim, bias=False)
        self.query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.value = nn.Linear(features, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = MLP(slot_dim, slot_dim, (hidden,))

    @torch.no_grad()
    def start_as_clustering(self) -> None:
        r"""Sets weights so that the iterations begin as soft k-means; the equations stay.

        Keys and values become the same function of a feature, the query twice the normalised slot,
        and the GRU's candidate :math:`\tanh(u_k)`, of which it takes most. So a slot is near the
        mean of what it has won, and wins what is near it. With independent weights a slot knows
        more of its noise than of the image, and the first thing that training learns is to make all
        slots alike; from there it takes long to tell them apart again.
        """
        nn.init.eye_(self.query.weight).mul_(2)
        self.value.weight.copy_(self.key.weight)
        # The GRU has weights of the reset gate, the update gate and the candidate, in this order.
        _, update, _ = self.gru.bias_ih.zero_().chunk(3)
        update.fill_(-1.0)
        self.gru.bias_hh.zero_()
        nn.init.eye_(self.gru.weight_ih.chunk(3)[2])
        self.gru.weight_hh.chunk(3)[2].zero_()
        self.mlp.last.weight.mul_(0.1)

    def start(self, noise: Tensor) -> Tensor:
        r"""Returns the first slots, :math:`\mu + \sigma \epsilon`.

        Args:
            noise: Standard Normal :math:`\epsilon`, of shape :math:`(B, K, D)`.
        """
        return self.loc + self.log_scale.exp() * noise

    def attention(self, keys: Tensor, slots: Tensor) -> Tensor:
        r"""Returns the share of each slot in each feature, which sums to 1 over the slots.

        Args:
            keys: :math:`k(f_j)`, of shape :math:`(B, N, D)`.
            slots: Of shape :math:`(B, K, D)`.

        Returns:
            :math:`A`, of shape :math:`(B, N, K)`.
        """
        queries = self.query(self.norm_slots(slots)) / math.sqrt(self.slot_dim)
        return (keys @ queries.mT).softmax(-1)

    def forward(self, features: Tensor, slots: Tensor) -> Tensor:
        r"""Updates slots by all iterations.

        Args:
            features: Of shape :math:`(B, N, F)`.
            slots: The first slots, of shape :math:`(B, K, D)`: see :meth:`start`.

        Returns:
            The last slots, of shape :math:`(B, K, D)`.
        """
        features = self.norm_features(features)
        keys, values = self.key(features), self.value(features)
        for _ in range(self.iterations):
            weights = self.attention(keys, slots) + self.epsilon
            updates = (weights / weights.sum(1, keepdim=True)).mT @ values
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_hidden(slots))
        return slots


class PositionEmbedding(nn.Module):
    r"""Adds a linear function of the position to features.

    The position of a feature is :math:`(y, x, 1 - y, 1 - x)`, where :math:`y` is 0 in the first
    row and 1 in the last one, and :math:`x` is likewise for columns. So it fits maps of any size.

    Args:
        channels: The number :math:`F` of channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, channels)

    def forward(self, features: Tensor, sides: tuple[int, int]) -> Tensor:
        r"""Adds positions.

        Args:
            features: Of shape :math:`(*, F, H, W)`, or :math:`(*, F, 1, 1)` to be repeated.
            sides: :math:`(H, W)`.

        Returns:
            Of shape :math:`(*, F, H, W)`.
        """
        options: dict[str, Any] = {"dtype": features.dtype, "device": features.device}
        y, x = (torch.linspace(0, 1, side, **options) for side in sides)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
        return features + self.linear(torch.cat([grid, 1 - grid], -1)).permute(2, 0, 1)


class PositionedEncoder(nn.Module):
    r"""Convolutions, positions, and a network of each feature.

    Args:
        shape: The images' channels, height and width :math:`(C, H, W)`.
        channels: The number :math:`F` of channels of all convolutions, and the size of a feature.
        kernel: Height and width of the kernels, an odd number.
        strides: The stride of each convolution, before a ReLU.

    Shape:
        :math:`(B, C, H, W)` to :math:`(B, N, F)`.
    """

    def __init__(self, shape: Shape, channels: int, kernel: int, strides: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = shape.channels
        for stride in strides:
            layers += [nn.Conv2d(before, channels, kernel, stride, kernel // 2), nn.ReLU()]
            before = channels
        self.convolutions = nn.Sequential(*layers)
        self.position = PositionEmbedding(channels)
        self.network = nn.Sequential(nn.LayerNorm(channels), MLP(channels, channels, (channels,)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolutions(images)
        features = self.position(features, features.shape[-2:])
        return self.network(features.flatten(2).mT)


class BroadcastDecoder(nn.Module):
    r"""Draws the colours and the logit of a mask from a slot, by spatial broadcast.

    The slot is repeated on a grid, and a position is added at each place. Convolutions follow, each
    before a ReLU, and one to :math:`C + 1` channels. The last ones double both sides; what they
    draw beyond the image is cropped.

    Args:
        slot_dim: The size :math:`D` of a slot.
        shape: The images' channels, height and width :math:`(C, H, W)`.
        channels: The number of channels of each convolution but the last.
        kernel: Height and width of the kernels of convolutions that keep the sides, an odd number;
            that of the last one is 3. Those that double the sides are transposed, of 4x4.
        doublings: How many convolutions double the sides, the last one among them; 0 broadcasts to
            the full resolution.

    Raises:
        ValueError: If there are fewer convolutions than doublings.

    References:
        | Spatial Broadcast Decoder (Watters et al., 2019)
        | https://arxiv.org/abs/1901.07017
    """

    def __init__(
        self,
        slot_dim: int,
        shape: Shape,
        channels: Sequence[int],
        *,
        kernel: int = 5,
        doublings: int = 0,
    ) -> None:
        super().__init__()
        widths = [slot_dim, *channels, shape.channels + 1]
        number = len(widths) - 1
        if not 0 <= doublings <= number:
            raise ValueError(f"{doublings} doublings need as many convolutions: there are {number}")
        self.shape = shape
        self.grid = halved(shape, doublings).sides
        self.position = PositionEmbedding(slot_dim)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            size = 3 if i == number else kernel
            if i > number - doublings:
                layers.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1))
            else:
                layers.append(nn.Conv2d(before, after, size, padding=size // 2))
            layers.append(nn.ReLU())
        self.convolutions = nn.Sequential(*layers[:-1], CropCorner(shape))

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        r"""Draws each slot.

        Args:
            slots: Of shape :math:`(*, D)`.

        Returns:
            Colours, of shape :math:`(*, C, H, W)`, and logits of masks, of shape :math:`(*, H, W)`.
        """
        broadcast = self.position(slots.reshape(-1, slots.shape[-1], 1, 1), self.grid)
        drawn = self.convolutions(broadcast).unflatten(0, slots.shape[:-1])
        colours, logits = drawn.split((self.shape.channels, 1), -3)
        return colours, logits.squeeze(-3)


class SlotAutoencoder(nn.Module):
    r"""An autoencoder whose code is a set of :math:`K` slots, each of which draws an object.

    An encoder maps the image to features with positions, :class:`SlotAttention` maps these to
    slots, and one decoder draws colours :math:`c_k` and the logit :math:`a_k` of a mask from each
    slot alone:

    .. math:: \hat{x} = \sum_k m_k c_k, \qquad m_k = \frac{\exp(a_k)}{\sum_l \exp(a_l)}

    The defaults are sizes for one core of a CPU. Those of the paper have a full resolution
    throughout: ``strides`` of 1 and no ``doublings``. Weights of all but the GRU are drawn by
    :func:`~torch.nn.init.xavier_uniform_`, those of the encoder's convolutions by
    :func:`~torch.nn.init.kaiming_uniform_`, and biases are zero.

    Args:
        shape: The images' channels, height and width :math:`(C, H, W)`; of grey images
            :math:`(H, W)` too.
        slots: The number :math:`K` of slots. The background takes one too.
        slot_dim: The size :math:`D` of a slot.
        hidden: See :class:`SlotAttention`.
        iterations: See :class:`SlotAttention`.
        channels: See :class:`PositionedEncoder`.
        kernel: Of all convolutions that keep the sides: see :class:`PositionedEncoder`.
        strides: See :class:`PositionedEncoder`.
        decoder_channels: See :class:`BroadcastDecoder`.
        doublings: See :class:`BroadcastDecoder`.
        clustering: Whether slots begin as clusters: see :meth:`SlotAttention.start_as_clustering`.

    References:
        | Object-Centric Learning with Slot Attention (Locatello et al., 2020)
        | https://arxiv.org/abs/2006.15055

    Example:
        >>> autoencoder = SlotAutoencoder((3, 35, 40), slots=4)
        >>> drawn = autoencoder(torch.rand(5, 3, 35, 40))
        >>> drawn.colours.shape, drawn.masks.shape
        (torch.Size([5, 4, 3, 35, 40]), torch.Size([5, 4, 35, 40]))
    """

    def __init__(
        self,
        shape: Shape | tuple[int, ...],
        slots: int,
        *,
        slot_dim: int = 64,
        hidden: int = 128,
        iterations: int = 3,
        channels: int = 32,
        kernel: int = 5,
        strides: Sequence[int] = (2, 2, 1, 1),
        decoder_channels: Sequence[int] = (32, 32, 16),
        doublings: int = 3,
        clustering: bool = True,
    ) -> None:
        super().__init__()
        self.shape = Shape.of(shape)
        self.slots = slots
        self.encoder = PositionedEncoder(self.shape, channels, kernel, strides)
        self.attention = SlotAttention(channels, slot_dim, hidden=hidden, iterations=iterations)
        self.decoder = BroadcastDecoder(
            slot_dim, self.shape, decoder_channels, kernel=kernel, doublings=doublings
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.decoder.modules():
            # A pixel drawn with a stride of 2 reads a quarter of the weights.
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.data *= 2
        for module in self.encoder.modules():
            # Else the convolutions' output is so weak beside the positions that slots first ignore
            # the image.
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if clustering:
            # What is in a place tells more of objects than where it is.
            self.encoder.position.linear.weight.data *= 0.5
            self.attention.start_as_clustering()

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        r"""Encodes images to slots.

        Args:
            images: Of shape :math:`(B, C, H, W)`, in [0, 1].
            noise: Standard Normal, of shape :math:`(B, K, D)`, from which slots begin; drawn if not
                given. It may have any number of slots.

        Returns:
            Slots, of shape :math:`(B, K, D)`.

        Raises:
            ValueError: If images are not a batch of the autoencoder's shape.
        """
        require_batch(images, self.shape)
        if noise is None:
            noise = images.new_empty(len(images), self.slots, self.attention.slot_dim).normal_()
        return self.attention(self.encoder(images), self.attention.start(noise))

    def decode(self, slots: Tensor) -> Composition:
        r"""Draws slots, of shape :math:`(B, K, D)`, and composes what they draw."""
        colours, logits = self.decoder(slots)
        masks = logits.softmax(1)
        # As one contraction, it needs no memory for the product of all colours and masks.
        return Composition(torch.einsum("bkhw,bkchw->bchw", masks, colours), colours, masks)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Composition:
        r"""Encodes and decodes images; see :meth:`encode`."""
        return self.decode(self.encode(images, noise))
