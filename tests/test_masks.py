"""Label maps and tight boxes of masks, by hand and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_models.masks import label_maps, tight_boxes


def blocks(*boxes: tuple[int, int, int, int], sides: tuple[int, int] = (7, 9)) -> Tensor:
    """A mask of ones in each box (x0, y0, x1, y1), of shape (n, H, W)."""
    masks = torch.zeros(len(boxes), *sides)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks


@pytest.mark.parametrize(
    "box", [(0, 0, 9, 7), (0, 0, 1, 1), (8, 6, 9, 7), (2, 3, 8, 4), (3, 0, 4, 7), (0, 0, 0, 0)]
)
def test_a_block_has_its_own_box(box):
    masks = blocks(box, (1, 2, 3, 4))
    assert tight_boxes(masks).tolist() == [list(box), [1, 2, 3, 4]]
    assert tight_boxes(masks[None]).shape == (1, 2, 4)


def test_a_box_has_the_pixels_above_the_threshold():
    mask = torch.zeros(7, 9)
    mask[2, 3], mask[5, 6], mask[0, 8] = 0.9, 0.4, 0.2
    assert tight_boxes(mask).tolist() == [3, 2, 4, 3]
    assert tight_boxes(mask, threshold=0.3).tolist() == [3, 2, 7, 6]
    assert tight_boxes(mask, threshold=0.4).tolist() == [3, 2, 4, 3]
    assert tight_boxes(mask, threshold=0.1).tolist() == [3, 0, 9, 6]
    assert tight_boxes(mask, threshold=0.95).tolist() == [0, 0, 0, 0]


def test_random_masks_have_the_boxes_of_numpy():
    masks = (torch.rand(30, 6, 8, generator=torch.Generator().manual_seed(0)) > 0.95).float()
    for mask, box in zip(masks, tight_boxes(masks).int().tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        ends = [columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0]
        starts = [columns.min(), rows.min()] if len(rows) else [0, 0]
        assert box == starts + ends
    assert (masks.sum((1, 2)) == 0).any()


def test_a_pixel_is_of_the_object_with_the_largest_mask():
    masks = blocks((0, 0, 4, 4), (2, 2, 6, 6), (0, 6, 9, 7))
    masks[1] *= 0.8
    labels = label_maps(masks[None].repeat(3, 1, 1, 1), torch.tensor([3, 2, 0]))
    assert labels.shape == (3, 7, 9)
    assert labels[0, 3, 3] == 1  # Where both are, the larger one.
    assert labels[0, 5, 5] == 2
    assert labels[0, 6].tolist() == [3] * 9
    # Objects beyond the count are absent, however large their masks are.
    assert labels[1, 6].tolist() == [0] * 9
    assert torch.equal(labels[1, :6], labels[0, :6])
    assert not labels[2].any()


def test_the_sum_of_masks_decides_what_is_foreground():
    masks = torch.tensor([0.3, 0.4, 0.9])[None, :, None, None]
    assert label_maps(masks, torch.tensor([1])).item() == 0
    # Neither object has half of the pixel, but both have more.
    assert label_maps(masks, torch.tensor([2])).item() == 2
    assert label_maps(masks, torch.tensor([2]), threshold=0.75).item() == 0


class BoxesAndLabels(nn.Module):
    def forward(self, masks: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return tight_boxes(masks), label_maps(masks, counts)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    """Boxes and labels of a batch of any size."""
    batch = torch.export.Dim("batch", min=1)
    examples = (torch.zeros(2, 3, 7, 9), torch.zeros(2, dtype=torch.long))
    shapes = ({0: batch}, {0: batch})
    return torch.export.export(BoxesAndLabels().eval(), examples, dynamic_shapes=shapes)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(5, 3, 7, 9, generator=generator) > 0.9).float()
    return {"masks": masks, "counts": torch.tensor([0, 1, 2, 3, 3])}


def test_a_program_has_boxes_and_labels_for_any_batch(program, inputs):
    outputs = zip(program.module()(*inputs.values()), BoxesAndLabels()(**inputs), strict=True)
    assert all(torch.equal(exported, value) for exported, value in outputs)


def test_onnx_has_the_same_boxes_and_labels(program, inputs, tmp_path):
    pytest.importorskip("onnxscript")
    import onnxruntime

    file = tmp_path / "boxes.onnx"
    torch.onnx.export(program, dynamo=True, verbose=False, input_names=[*inputs]).save(file)
    session = onnxruntime.InferenceSession(str(file))
    outputs = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    for exported, value in zip(outputs, BoxesAndLabels()(**inputs), strict=True):
        np.testing.assert_array_equal(exported, value)
