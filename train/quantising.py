"""ONNX programs whose dense layers compute with int8: smaller, and faster on a CPU."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from train.errors import InputError, require

DENSE = ("MatMul", "Gemm")
"""The operations that are quantised. ONNX Runtime's convolutions of int8 with a scale that is found
anew for each input are slower than those of floats."""


def int8(program: bytes, name: str) -> bytes:
    r"""Quantises the dense layers of an ONNX program.

    A weight :math:`w` is stored as :math:`q = \text{round}(w / s)`, with one :math:`s` for each
    output of a layer, and :math:`|q| \le 64`: processors without instructions for int8 add
    products of seven bits in 16. The inputs of a layer are rounded to 256 levels between their
    smallest and largest value in the batch, so what an image gives depends a little on the others.
    Nothing is calibrated, so no data are needed.

    Args:
        program: The content of an ``.onnx`` file.
        name: What messages call it.

    Returns:
        The content of another one, with the same inputs and outputs, which are still floats.

    Raises:
        InputError: If ONNX Runtime is not installed, or the program has no dense layers.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise InputError(
            "--int8 needs ONNX Runtime: pip install 'structured-latents[onnx]', or leave it out"
        ) from None
    model = onnx.load_from_string(program)
    require(
        any(node.op_type in DENSE for node in model.graph.node),
        f"--int8: the {name} has no dense layers, and convolutions of int8 are no faster: leave "
        "--int8 out",
    )
    # It advises, on the root logger, a step that these programs do not need.
    logger, silent = logging.getLogger(), logging.Filter()
    silent.filter = lambda record: False  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        logger.addFilter(silent)
        try:
            quantize_dynamic(
                model,
                file,
                op_types_to_quantize=list(DENSE),
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        finally:
            logger.removeFilter(silent)
        return file.read_bytes()
