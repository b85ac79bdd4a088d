"""States brought to int8 in the graph, token by token."""

from collections.abc import Callable
from functools import cache

import numpy as np
import openvino as ov
import pytest
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino import graph, levels, qwen3
from quartzite.engines.openvino.int8 import SCALE, quantise
from quartzite.engines.openvino.precision import INT8_PRODUCTS, processor_flags
from quartzite.registry.card import Activation, Qwen3Shape
from quartzite.weights.tensor import Tensor

IN, OUT = 96, 64
needs_vnni = pytest.mark.skipif(
    not processor_flags() & set(INT8_PRODUCTS), reason="without VNNI int8 products saturate; nothing takes them there"
)
Brought = Callable[[graph.Node], levels.Levels]


def _tensor(values: np.ndarray) -> Tensor:
    return Tensor("t", "F32", values.astype(np.float32))


@cache
def _weights() -> tuple[Tensor, Tensor, Tensor]:
    """Return the same tensors every time: graphs use their memory."""
    generator = np.random.default_rng(0)
    whole, scale = quantise(generator.standard_normal((OUT, IN)).astype(np.float32))
    return Tensor("w", "I8", whole), _tensor(scale), _tensor(generator.standard_normal(OUT))


def _compiled(brought: Brought, length: int = -1) -> ov.CompiledModel:
    states = opset15.parameter(PartialShape([1, length, IN]), Type.f32)
    model = ov.Model([levels.product(brought(states), *_weights())], [states], "product")
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _run(brought: Brought, states: np.ndarray) -> np.ndarray:
    return np.array(_compiled(brought).create_infer_request().infer([states[None]])[0][0])


def _right(states: np.ndarray) -> np.ndarray:
    weight, scale, bias = _weights()
    return states @ (weight.data * scale.as_f32()).T + bias.as_f32()


def _near(states: np.ndarray, result: np.ndarray, step: np.ndarray) -> None:
    """Check that no output differs by more than a half step of every state, and few by more than a tenth of that."""
    weight, scale, _ = _weights()
    most = 0.51 * step * np.abs(weight.data * scale.as_f32()).sum(axis=1)
    away = np.abs(result - _right(states))
    assert (away <= most + 1e-5).all()
    assert np.median(away / most) < 0.1


@needs_vnni
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_signed_states_keep_their_product_whatever_their_size(size: float) -> None:
    """Every token has a step of its own, so a small one beside large ones is as close as they are."""
    generator = np.random.default_rng(1)
    states = (generator.standard_normal((5, IN)) * size * np.float32([[1], [50], [0.02], [1], [3]])).astype(np.float32)
    _near(states, _run(levels.signed, states), np.abs(states).max(axis=1, keepdims=True) / 127)


@needs_vnni
@pytest.mark.parametrize("smooths", [False, True])
def test_lifted_states_keep_their_product(smooths: bool) -> None:
    """States of which none is far below zero have steps half as wide; multipliers are those that the weights lack."""
    states = np.abs(np.random.default_rng(2).standard_normal((4, IN))).astype(np.float32) - np.float32(0.1)
    multipliers = (
        np.random.default_rng(3).uniform(0.5, 2, IN).astype(np.float32) if smooths else np.ones(IN, np.float32)
    )
    result = _run(lambda node: levels.lifted(node, 0.1, _tensor(multipliers) if smooths else None), states)
    lifted = (states + np.float32(0.1)) * multipliers
    smooth = lifted - np.float32(0.1) * multipliers
    _near(smooth, result, lifted.max(axis=1, keepdims=True) / 255)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu"])
def test_no_activation_is_below_its_lift(kind: Activation) -> None:
    """What is below would be cut off."""
    states = opset15.parameter(PartialShape([1, -1]), Type.f32)
    model = ov.Model([graph.activate(states, kind)], [states], "activation")
    found = ov.Core().compile_model(model, "CPU").create_infer_request()
    lowest = float(found.infer([np.linspace(-12, 12, 100_001, dtype=np.float32)[None]])[0].min())
    assert -levels.LIFTS[kind] <= lowest <= -levels.LIFTS[kind] + 1e-3


def test_a_token_of_zeros_gives_the_bias() -> None:
    """Nothing is divided by zero."""
    result = _run(levels.signed, np.zeros((2, IN), dtype=np.float32))
    np.testing.assert_allclose(result, np.repeat(_weights()[2].as_f32()[None], 2, axis=0), atol=1e-6)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    """The same token gets the same outputs beside one a thousand times as large, to the last bit."""
    states = np.random.default_rng(4).standard_normal((3, IN)).astype(np.float32)
    louder = states * np.float32([[1], [1000], [1]])
    np.testing.assert_array_equal(_run(levels.signed, states)[::2], _run(levels.signed, louder)[::2])


@needs_vnni
def test_the_product_is_one_of_int8_by_int8() -> None:
    """What is paid for is had: the plugin multiplies int8, and does not widen it. The other is of the step."""
    nodes = _compiled(levels.signed, length=8).get_runtime_model().get_ops()
    products = [node.get_rt_info() for node in nodes if "FullyConnected" in node.get_rt_info()["layerType"].astype(str)]
    assert [about["primitiveType"].astype(str).rpartition("_")[2] for about in products] == ["f32", "i8"]


@needs_vnni
def test_all_products_of_a_qwen3_layer_but_the_last_are_int8_by_int8() -> None:
    """What `down_proj` meets stays as it is: its widest channels would take the levels of the others."""
    shape = Qwen3Shape(1, 64, 4, 2, 32, 128, 50, 64, 1e-6, 10_000.0)
    generator = np.random.default_rng(5)
    tensors: dict[str, Tensor] = {}
    for name, sizes in qwen3.expected_tensors(shape).items():
        values = generator.standard_normal(sizes).astype(np.float32)
        tensors[name] = Tensor(name, "F32", values)
        if len(sizes) == 2 and name != qwen3.WORDS:
            whole, scale = quantise(values)
            tensors |= {name: Tensor(name, "I8", whole), name + SCALE: Tensor(name + SCALE, "F32", scale)}
    model = qwen3.Qwen3Graph(shape, tensors, "last", by_token=True).build(2)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    about = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [info["primitiveType"].astype(str) for info in about if "FullyConn" in info["layerType"].astype(str)]
    names = " ".join(kinds)
    assert names.count("_i8") == 6, names
