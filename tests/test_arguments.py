"""Arguments of a trained model's methods: codes and integers of any type, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.arguments import as_codes, whole

CODES = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -0.25]])


@pytest.mark.parametrize(
    "given",
    [
        CODES,
        CODES.double().requires_grad_(),
        CODES.bfloat16(),
        CODES.numpy().astype(np.float64),
        CODES.numpy().astype(">f4"),
        np.asfortranarray(CODES.numpy()),
        CODES.flip(1).numpy()[:, ::-1],
        CODES.tolist(),
        list(CODES.numpy()),
    ],
)
def test_codes_of_any_type(given):
    codes = as_codes(given, 3, torch.device("cpu"))
    assert codes.dtype == torch.float32
    assert not codes.requires_grad
    torch.testing.assert_close(codes, CODES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (CODES[:, :2], "shape (2, 2): this model takes (M, 3)"),
        (CODES[0], "a single code is z[None]"),
        ([], "shape (0,)"),
        (None, "type object"),
        ([[1, 2], [3]], "no array"),
        (np.array([["a", "b", "c"]]), "type <U1"),
        (CODES.to(torch.complex64), "complex"),
        (CODES / 0, "not finite"),
    ],
)
def test_codes_that_are_refused(given, words):
    with refused(words):
        as_codes(given, 3, torch.device("cpu"))


def test_whole_numbers():
    assert [whole("n", value) for value in (2, np.int64(2), torch.tensor(2))] == [2, 2, 2]
    for value, words in ((0, "n is 0: give 1 or more"), (2.5, "n is 2.5: give a whole number")):
        with refused(words):
            whole("n", value)
    with refused("count is 4: give from 0 to 3"):
        whole("count", 4, least=0, most=3)
