"""Products of rows of a known length, written as convolutions."""

from functools import cache

import numpy as np
import openvino as ov
import pytest
from openvino import PartialShape, Type, opset15

from quartzite.domain import Encoded
from quartzite.engines.blocks import Layout, end_to_end
from quartzite.engines.openvino import bert, graph
from quartzite.engines.openvino.qwen3 import Qwen3Graph, expected_tensors
from quartzite.registry.card import BertShape, Qwen3Shape
from quartzite.weights.tensor import Tensor

WIDTH = graph.LEAST_CONVOLVED
BERT = BertShape(1, WIDTH, 16, 2 * WIDTH, 50, 64, 2, 1e-12, "gelu", 0)
QWEN3 = Qwen3Shape(1, WIDTH, 16, 8, 64, 2 * WIDTH, 50, 64, 1e-6, 10_000.0)
STORED = ("F32", "F16", "BF16")


def _tensor(name: str, values: np.ndarray, dtype: str) -> Tensor:
    whole = values.astype(np.float32)
    stored = {"F32": whole, "F16": whole.astype(np.float16), "BF16": (whole.view(np.uint32) >> 16).astype(np.uint16)}
    return Tensor(name, dtype, stored[dtype])


@cache
def _weights(dtype: str) -> tuple[Tensor, Tensor]:
    """Return a matrix and a bias, the same every time: graphs use their memory."""
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal((2 * WIDTH, WIDTH)) / np.sqrt(WIDTH)
    return _tensor("w", matrix, dtype), _tensor("b", generator.standard_normal(2 * WIDTH), dtype)


@cache
def _bert() -> dict[str, Tensor]:
    """Return the tensors of one layer, scaled as trained ones are."""
    generator = np.random.default_rng(2)
    shapes = bert.expected_tensors(BERT).items()
    return {name: _tensor(name, generator.standard_normal(sizes) * 0.03, "F32") for name, sizes in shapes}


def _kinds(model: ov.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ops()]


def _compile(model: ov.Model) -> ov.CompiledModel:
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _product(shape: list[int], dtype: str, *, convolves: bool, bias: bool = True) -> ov.Model:
    states = opset15.parameter(PartialShape(shape), Type.f32)
    weight, added = _weights(dtype)
    result = graph.product(states, weight, None, added if bias else None, convolves)
    return ov.Model([result], [states], "product")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("shape", [[1, 24, WIDTH], [3, 8, WIDTH]])
def test_a_convolution_is_the_product(shape: list[int], dtype: str, bias: bool) -> None:
    """Of undivided rows and of rows in blocks, with weights of all stored types."""
    states = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    weight, added = _weights(dtype)
    right = states @ weight.as_f32().T + (added.as_f32() if bias else 0)
    model = _product(shape, dtype, convolves=True, bias=bias)
    assert "Convolution" in _kinds(model)
    result = _compile(model)([states])[0]
    assert result.shape == right.shape
    # Weights in bf16 meet states in bf16, as they do where this is used; not those with a bias, which would be rounded.
    np.testing.assert_allclose(result, right, atol=0.06 if dtype == "BF16" and not bias else 1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("convolves", [True, False])
def test_an_activation_comes_after_the_bias(convolves: bool, bias: bool) -> None:
    """Of a product as of a convolution."""
    states = np.random.default_rng(6).standard_normal((1, 8, WIDTH)).astype(np.float32)
    weight, added = _weights("F32")
    right = states @ weight.as_f32().T + (added.as_f32() if bias else 0)
    given = opset15.parameter(PartialShape([1, 8, WIDTH]), Type.f32)
    result = graph.product(given, weight, None, added if bias else None, convolves, "silu")
    found = _compile(ov.Model([result], [given], "product"))([states])[0]
    np.testing.assert_allclose(found, right / (1 + np.exp(-right)), atol=1e-4)


@pytest.mark.parametrize("shape", [[1, -1, WIDTH], [-1, 8, WIDTH]])
def test_rows_of_any_length_are_no_convolutions(shape: list[int]) -> None:
    """There the plugin transposes in memory, at twice the cost of the product."""
    assert "Convolution" not in _kinds(_product(shape, "F32", convolves=True))


def test_nothing_is_a_convolution_unless_asked() -> None:
    """On other processors products are as fast."""
    assert "Convolution" not in _kinds(_product([1, 24, WIDTH], "F32", convolves=False))


@pytest.mark.parametrize(("grid", "starts"), [((1, 64), (0, 20, 50)), ((2, 32), (0, 32, 52))])
def test_a_bert_of_convolutions_has_the_same_vectors(grid: tuple[int, int], starts: tuple[int, ...]) -> None:
    """All but the product that narrows states are convolutions: five a layer."""
    generator = np.random.default_rng(4)
    items = [Encoded(generator.integers(0, 50, size).astype(np.int32)) for size in (20, 12, 10)]
    inputs, layout = bert.BertInputs(BERT, _bert(), "mean"), Layout(64, grid[1], starts)
    model = bert.BertGraph(BERT, _bert(), "mean", convolves=True).build(grid, 4)
    assert _kinds(model).count("Convolution") == 5
    own = _compile(model)(inputs.packed(items, layout, 4))[0]
    any_row = _compile(bert.BertGraph(BERT, _bert(), "mean", convolves=True).build(None, 4))
    shared = any_row(inputs.packed(items, end_to_end([20, 12, 10], 64), 4))[0]
    np.testing.assert_allclose(own[:3], shared[:3], atol=1e-5)


def test_a_qwen3_layer_has_its_widening_products_as_convolutions() -> None:
    """Queries, gate and up, and what keeps the width: the output of attention. Keys and values are narrower here."""
    generator = np.random.default_rng(5)
    shapes = expected_tensors(QWEN3).items()
    tensors = {name: _tensor(name, generator.standard_normal(sizes) * 0.03, "F32") for name, sizes in shapes}
    model = Qwen3Graph(QWEN3, tensors, "mean", convolves=True).build(4, tokens=32)
    assert _kinds(model).count("Convolution") == 4
    (gate,) = (node for node in model.get_ops() if node.get_type_name() == "Swish")
    # Behind anything else, the plugin would round the product to bf16 before the activation.
    assert gate.input_value(0).get_node().get_type_name() == "Convolution"
    assert "Convolution" not in _kinds(Qwen3Graph(QWEN3, tensors, "last", convolves=True).build(4))
