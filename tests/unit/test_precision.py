"""What `auto` means on which processor."""

from pathlib import Path

import pytest

from quartzite.config import Precision
from quartzite.engines.openvino.precision import choose, processor_flags


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_auto_takes_bf16_where_the_processor_has_it(flag: str) -> None:
    """A processor with native bf16 computes in bf16, and the reason names the flag."""
    arithmetic = choose("auto", frozenset({"avx2", flag}))
    assert (arithmetic.compute, arithmetic.storage, arithmetic.name) == ("bf16", "float", "bf16")
    assert flag in arithmetic.reason


def test_auto_takes_f32_where_bf16_would_be_emulated() -> None:
    """A processor without native bf16 computes in f32, although OpenVINO would offer bf16."""
    arithmetic = choose("auto", frozenset({"avx2", "avx512f"}))
    assert arithmetic.name == "f32"
    assert "no native bf16" in arithmetic.reason


def test_bf16_is_honoured_and_its_emulation_told() -> None:
    """Asked for by name, bf16 is taken everywhere; the reason says when it is emulated."""
    assert choose("bf16", frozenset()).compute == "bf16"
    assert "emulates" in choose("bf16", frozenset()).reason
    assert "emulates" not in choose("bf16", frozenset({"avx512_bf16"})).reason


@pytest.mark.parametrize("wanted", ["auto", "bf16"])
def test_products_are_convolutions_in_bf16_with_amx_alone(wanted: Precision) -> None:
    """They were measured to be faster there, and with floating-point weights."""
    assert choose(wanted, frozenset({"amx_bf16", "avx512_bf16"})).convolves
    assert not choose(wanted, frozenset({"avx512_bf16"})).convolves
    assert not choose("f32", frozenset({"amx_bf16"})).convolves
    assert not choose("int8", frozenset({"amx_bf16"})).convolves


@pytest.mark.parametrize(("flags", "compute"), [({"amx_bf16"}, "bf16"), (set(), "f32")])
def test_int8_stores_rows_and_computes_in_the_best_precision(flags: set[str], compute: str) -> None:
    """int8 is about storage; products use what `auto` would."""
    arithmetic = choose("int8", frozenset(flags))
    assert (arithmetic.name, arithmetic.storage, arithmetic.compute) == ("int8", "int8", compute)


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_int8_dynamic_computes_products_in_int8(flag: str) -> None:
    """Where the processor multiplies int8, activations come to int8 in groups, and the reason says so."""
    arithmetic = choose("int8-dynamic", frozenset({"avx512_bf16", flag}))
    assert (arithmetic.name, arithmetic.storage, arithmetic.compute) == ("int8-dynamic", "int8", "bf16")
    assert arithmetic.group == 128
    assert "products in int8" in arithmetic.reason


def test_int8_dynamic_has_int8_products_with_amx_where_the_graph_makes_them() -> None:
    """A graph that brings each token to int8 needs no groups of the plugin's; without AMX the plugin does it better."""
    arithmetic = choose("int8-dynamic", frozenset({"amx_bf16", "amx_int8", "avx512_vnni"}), in_graph=True)
    assert (arithmetic.name, arithmetic.group, arithmetic.by_token) == ("int8-dynamic", 0, True)
    assert "products in int8" in arithmetic.reason
    without = choose("int8-dynamic", frozenset({"avx512_bf16", "avx512_vnni"}), in_graph=True)
    assert (without.group, without.by_token) == (128, False)
    assert choose("int8", frozenset({"amx_int8", "avx512_vnni"}), in_graph=True).by_token is False


def test_int8_dynamic_says_where_amx_has_no_int8_products() -> None:
    """OpenVINO leaves activations in bf16 there: nobody is told otherwise, and the closer weights stay."""
    arithmetic = choose("int8-dynamic", frozenset({"amx_bf16", "amx_int8", "avx512_vnni"}))
    assert (arithmetic.name, arithmetic.group) == ("int8-dynamic", 128)
    assert "products in bf16" in arithmetic.reason
    assert "products in int8" not in arithmetic.reason


def test_int8_dynamic_is_int8_where_the_processor_has_no_int8_products() -> None:
    """Without VNNI the weights are int8 all the same, and what is shown at start is what is done."""
    arithmetic = choose("int8-dynamic", frozenset({"avx2"}))
    assert (arithmetic.name, arithmetic.group) == ("int8", 0)
    assert "VNNI" in arithmetic.reason


def test_f32_is_f32_everywhere() -> None:
    """Asked for f32, no flag changes it."""
    assert choose("f32", frozenset({"amx_bf16"})).name == "f32"


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    """Both spellings of the flags line are understood."""
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: none\n", encoding="utf-8")
    arm.write_text("processor : 0\nFeatures : fp asimd bf16\n", encoding="utf-8")
    assert processor_flags(x86) == {"fpu", "avx512_bf16"}
    assert "asimd" in processor_flags(arm)


def test_a_system_without_the_file_has_no_flags(tmp_path: Path) -> None:
    """Where the system does not tell, the safe precision is chosen."""
    assert processor_flags(tmp_path / "absent") == frozenset()
