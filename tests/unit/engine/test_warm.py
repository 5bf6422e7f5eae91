"""Compiling kernels ahead of the first run."""

import importlib
import inspect

import numpy as np
from numba.core.sigutils import normalize_signature

from skymill.engine.warm import compile_module, read_signatures


def test_every_signature_names_a_kernel_with_so_many_arguments():
    signatures = read_signatures()
    assert len(signatures) > 15
    for module, functions in signatures.items():
        for name, types in functions:
            kernel = getattr(importlib.import_module(module), name)
            arguments, result = normalize_signature(types)
            assert len(arguments) == len(inspect.signature(kernel.py_func).parameters), name
            assert result is None


def test_what_is_compiled_ahead_serves_the_call():
    module = "skymill.measure._deblend_kernels"
    from skymill.measure._deblend_kernels import model_total

    [wanted] = [f for f in read_signatures()[module] if f[0] == "model_total"]
    assert compile_module(module, [wanted]) == []
    count = len(model_total.signatures)
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    total = np.zeros((2, 2), np.float32)
    ones = np.ones(1, np.float32)
    model_total(zero, zero, one, one, zero, ones, ones, total)
    assert len(model_total.signatures) == count
    assert total.sum() == 1.0


def test_a_kernel_that_is_gone_is_reported_not_raised():
    problems = compile_module("skymill.measure._deblend_kernels", [("no_such", "(int64,)")])
    assert problems == ["skymill.measure._deblend_kernels.no_such: AttributeError"]
