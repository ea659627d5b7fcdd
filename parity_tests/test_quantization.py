"""8-bit files: made by ONNX Runtime's quantiser from our own, they keep the call, and their verdict can fail."""

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import export
import pure
from export.errors import ArgumentError, LoadError, UnsupportedOpError, VerificationError, WriteError
from export.files import protobuf_wire
from export.quantization import intervals
from export.quantization.integer_kernels import kernels
from parity_tests import edited_files
from pure import nets

BATCH = (None, {0: "batch"}, None)


@dataclasses.dataclass(frozen=True)
class Digits:
    """A trained ResNet, its float and 8-bit files, and digits that neither training nor calibration saw."""

    block: pure.Block
    args: tuple[Any, ...]
    exact: Path
    small: Path
    calibration: list[tuple[Tensor]]
    held_out: list[tuple[Tensor]]
    labels: Tensor

    def judge(self, path: Path | None = None, **options: Any) -> export.QuantizationVerdict:
        options = {"fn": self.block, "args": self.args, **options}
        return export.verify_quantized(path or self.small, self.exact, self.held_out, **options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.images).float()[:, None] / 16, torch.from_numpy(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    seen, held_out = order[:1200], order[1200:]
    block = nets.resnet_v1(
        num_classes=10, depths=(1, 1), block="basic", widths=(8, 16), stem_channels=8, stem="3x3", in_channels=1
    )
    params, state = block.init(torch.Generator().manual_seed(0))

    def loss(params: Any, state: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        scores, state = block.apply(params, x, state, {}, True, {})
        return cross_entropy(scores, y), state

    optimizer, step = pure.optim.adamw(1e-2), pure.value_and_grad(loss, has_aux=True)
    opt_state = optimizer.init(params)
    for rows in seen.repeat(5).split(64):
        (_, state), gradient = step(params, state, images[rows], labels[rows])
        params, opt_state = optimizer.step(gradient, opt_state, params)
    folder = tmp_path_factory.mktemp("digits")
    args = (params, images[:32], state)
    export.to_onnx(block, args, folder / "exact.onnx", bake=(0, 2), dynamic=BATCH)
    calibration = [(images[rows],) for rows in seen[:200].split(64)]  # the last one has 8 samples
    export.quantize(folder / "exact.onnx", folder / "small.onnx", calibration)
    batches = [(images[rows],) for rows in held_out.split(256)]
    return Digits(block, args, folder / "exact.onnx", folder / "small.onnx", calibration, batches, labels[held_out])


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def tensor_bytes(path: Path) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)


def test_every_convolution_runs_on_integers_and_the_file_shrinks(digits: Digits) -> None:
    before, model = operators(digits.exact), onnx.load(digits.small)
    assert os.path.getsize(digits.small) < os.path.getsize(digits.exact)
    assert tensor_bytes(digits.small) < 0.35 * tensor_bytes(digits.exact)
    assert before["Conv"] == before["BatchNormalization"] == operators(digits.small)["Conv"]
    assert "BatchNormalization" not in operators(digits.small)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            data, weight = made[node.input[0]], made[node.input[1]]
            assert data.op_type == weight.op_type == "DequantizeLinear"
            assert tensors[weight.input[0]].data_type == onnx.TensorProto.INT8
            assert len(onnx.numpy_helper.to_array(tensors[weight.input[1]])) == tensors[weight.input[0]].dims[0]
    ran = kernels(digits.small)
    assert len(ran.integer["QLinearConv"]) == before["Conv"]
    assert set(ran.floating) == {"ReduceMean"}
    assert not kernels(digits.exact).integer


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_good_calibration_passes_on_held_out_digits(digits: Digits, method: Any, tmp_path: Path) -> None:
    written = export.quantize(digits.exact, tmp_path / "small.onnx", digits.calibration, method=method)
    assert (written.method, written.batches) == (method, len(digits.calibration))
    verdict = digits.judge(written.path, labels=digits.labels)
    assert verdict, verdict.table()
    assert verdict.baseline == "eager float64"
    (leaf,), (agreement,) = verdict.leaves, verdict.agreements
    assert leaf.sqnr_db is not None
    assert leaf.float_sqnr_db is not None
    assert leaf.limit_db < leaf.sqnr_db < leaf.float_sqnr_db
    assert agreement.samples == len(digits.labels)
    assert agreement.low >= agreement.limit
    assert verdict.accuracy is not None
    assert verdict.accuracy.float_accuracy > 0.9
    assert verdict.size < verdict.reference_size


@pytest.mark.parametrize(
    "spoil",
    [lambda x: 100 * x, lambda x: x / 100, lambda x: torch.full_like(x, 0.5), torch.zeros_like],
    ids=["times 100", "by 100", "constant", "zero"],
)
@pytest.mark.parametrize("fn", [True, False], ids=["eager", "float file"])
def test_bad_calibration_fails(digits: Digits, spoil: Callable[[Tensor], Tensor], fn: bool, tmp_path: Path) -> None:
    export.quantize(digits.exact, tmp_path / "bad.onnx", [(spoil(x),) for (x,) in digits.calibration])
    verdict = digits.judge(tmp_path / "bad.onnx") if fn else digits.judge(tmp_path / "bad.onnx", fn=None)
    assert not verdict
    assert verdict.status == "fail"
    assert "below the limit" in verdict.leaves[0].reason
    with pytest.raises(VerificationError, match="FAIL"):
        verdict.raise_if_failed()


def test_the_numbers_of_the_verdict_are_what_they_are_called(digits: Digits) -> None:
    x = torch.cat([x for (x,) in digits.held_out])
    params, _, state = pure.cast(digits.args, torch.float64)
    reference = digits.block(params, x.double(), state)
    own, exact = (export.load(path, device="cpu")(x) for path in (digits.small, digits.exact))
    verdict = digits.judge(labels=digits.labels)
    (leaf,), (agreement,), accuracy = verdict.leaves, verdict.agreements, verdict.accuracy
    signal, error = reference.var(0, correction=0).mean(), own.double() - reference
    assert leaf.sqnr_db == pytest.approx(float(10 * torch.log10(signal / error.square().mean())))
    raw = reference.square().mean()
    assert leaf.raw_sqnr_db == pytest.approx(float(10 * torch.log10(raw / error.square().mean())))
    assert leaf.raw_sqnr_db >= leaf.sqnr_db
    assert leaf.cosine == pytest.approx(float(torch.cosine_similarity(own.double().ravel(), reference.ravel(), 0)))
    assert leaf.largest == pytest.approx(float(error.abs().max()))
    assert agreement.same == int((own.argmax(1) == exact.argmax(1)).sum())
    right, before = own.argmax(1) == digits.labels, exact.argmax(1) == digits.labels
    assert accuracy is not None
    assert (accuracy.accuracy, accuracy.float_accuracy) == (float(right.double().mean()), float(before.double().mean()))
    assert accuracy.test.lost == int((before & ~right).sum())
    assert accuracy.test.gained == int((right & ~before).sum())
    found = json.loads(json.dumps(verdict.to_dict()))
    assert found["passed"] is True
    assert found["leaves"][0]["sqnr_db"] == leaf.sqnr_db
    assert f"{leaf.sqnr_db:.1f}" in verdict.table()
    assert "float ReduceMean: pool.mean.ReduceMean" in verdict.table()


def test_limits_can_be_stated(digits: Digits) -> None:
    assert not digits.judge(min_sqnr_db=60)
    assert digits.judge(min_sqnr_db=10, min_agreement=0.5)
    few = [(digits.held_out[0][0][:10],)]
    sparse = export.verify_quantized(digits.small, digits.exact, few, min_agreement=0.9)
    assert sparse.agreements[0].status == "fail", "ten samples show nothing, whatever they answer"
    assert sparse.leaves[0].status == "pass"


def test_latency_is_measured_if_asked_for(digits: Digits) -> None:
    assert digits.judge().latency is None
    latency = digits.judge(latency=True).latency
    assert latency is not None
    assert 0 < latency.low <= latency.ratio <= latency.high
    assert min(latency.float_ms, latency.quantized_ms) > 0


class Pair(NamedTuple):
    """A container of the call."""

    left: Tensor
    right: Tensor


def two(params: dict[str, Tensor], inputs: dict[str, Tensor], gain: Tensor) -> dict[str, Any]:
    hidden = torch.relu(inputs["a"] @ params["first"] + inputs["b"])
    return {"pair": Pair(hidden @ params["second"] * gain, hidden), "positive": hidden.sum(1) > 0, "none": None}


def test_trees_and_dynamic_batches_go_through(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    params = {name: torch.randn(16, 16, generator=drawn) / 4 for name in ("first", "second")}

    def batch(size: int) -> tuple[Any, ...]:
        inputs = {name: torch.randn(size, 16, generator=drawn) for name in "ab"}
        return inputs, torch.tensor(2.0)

    exact, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    export.to_onnx(two, (params, *batch(4)), exact, bake=(0,), dynamic=(None, {0: "n"}, None))
    export.quantize(exact, small, [batch(256), batch(5)])
    before, after = (export.load(path, device="cpu") for path in (exact, small))
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    assert [i.name for i in onnx.load(small).graph.input] == [i.name for i in onnx.load(exact).graph.input]
    for size in (1, 2, 7):
        inputs, gain = batch(size)
        found = after(inputs, gain)
        assert isinstance(found["pair"], Pair)
        assert found["none"] is None
        assert found["pair"].left.shape == (size, 16)
        assert after.bind(inputs)(gain)["pair"].left.equal(found["pair"].left)
    with pytest.raises(ArgumentError, match=r"inputs\.b: missing"):
        after({"a": inputs["a"]}, gain)
    verdict = export.verify_quantized(small, exact, [batch(50), batch(150)], fn=two, args=(params, *batch(4)))
    assert verdict, verdict.table()
    assert len(verdict.kernels.integer["QLinearMatMul"]) == 2, "a sum that is no bias must not be fused into a product"
    assert [row.leaf for row in verdict.leaves] == ["out.pair.left", "out.pair.right"]
    assert [row.leaf for row in verdict.agreements] == ["out.positive"]


def test_the_file_is_still_ours(digits: Digits) -> None:
    before, after = (protobuf_wire.read_header(path) for path in (digits.exact, digits.small))
    own = json.loads(after.metadata["pure_export.quantized"])
    assert (own["method"], own["batches"]) == ("minmax", len(digits.calibration))
    new = {key: after.metadata[key] for key in ("pure_export.quantized", "pure_export.digest")}
    assert {**after.metadata} == {**before.metadata, **new}
    assert before.metadata["pure_export.digest"] != after.metadata["pure_export.digest"]
    assert after.producer == before.producer
    node = protobuf_wire.find_node(digits.small, "conv1.convolution.Conv")
    assert node is not None
    assert "conv.py" in node.metadata["source"]
    onnx.checker.check_model(onnx.load(digits.small), full_check=True)


def test_without_batches_only_linear_weights_become_8_bit(tmp_path: Path) -> None:
    block = nets.residual_mlp(features=32, hidden_features=64, depth=3, scale=0.5)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    exact = export.to_onnx(block, (params, x), tmp_path / "exact.onnx", bake=(0,), dynamic=({}, {0: "n"}))
    written = export.quantize(exact.path, tmp_path / "small.onnx")
    assert (written.method, written.batches) == ("dynamic", 0)
    assert set(written.kernels.integer) == {"DynamicQuantizeMatMul"}
    assert written.size < 0.5 * written.source_size
    verdict = export.verify_quantized(written.path, exact.path, [(x,)], fn=block, args=(params, x))
    assert verdict, verdict.table()


def test_a_weight_that_an_embedding_and_a_head_share(tmp_path: Path) -> None:
    """The quantiser makes one tensor of it, which then fits only one of the two."""
    drawn = torch.Generator().manual_seed(0)
    table = torch.randn(50, 16, generator=drawn)

    def tied(table: Tensor, tokens: Tensor) -> Tensor:
        return torch.nn.functional.embedding(tokens, table) @ table.T

    tokens = torch.randint(0, 50, (64, 8), generator=drawn)
    export.to_onnx(tied, (table, tokens), tmp_path / "exact.onnx", bake=(0,), dynamic=(None, {0: "n"}))
    export.quantize(tmp_path / "exact.onnx", tmp_path / "small.onnx", [(tokens[:32],)])
    verdict = export.verify_quantized(tmp_path / "small.onnx", tmp_path / "exact.onnx", [(tokens[32:],)], scores="out")
    assert verdict, verdict.table()
    assert "Gather" in verdict.kernels.integer


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_repeated_blocks_branches_and_external_data(external: bool, tmp_path: Path) -> None:
    block = nets.residual_mlp(features=16, hidden_features=32, depth=6, scale=0.5)
    params, _ = block.init(torch.Generator().manual_seed(0))
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))

    def branching(params: Any, weight: Tensor, x: Tensor) -> Tensor:
        y = block(params, x)
        return torch.cond(y.sum() > 0, lambda y: y @ weight, lambda y: y - y @ weight, (y,))

    x = torch.randn(128, 16, generator=torch.Generator().manual_seed(1))
    args = (params, weight, x)
    exact, dynamic = tmp_path / "exact.onnx", (None, None, {0: "n"})
    export.to_onnx(branching, args, exact, bake=(0, 1), dynamic=dynamic, external=external)
    assert onnx.load(exact).functions, "the repeated block is one function, into which the quantiser would not look"
    parts = list(tmp_path.iterdir())
    assert len(parts) == 1 + external
    written = export.quantize(exact, tmp_path / "small.onnx", [(x[:64],)], exclude=("0.*",))
    assert written.source_size == sum(part.stat().st_size for part in parts)
    assert sorted(tmp_path.iterdir()) == sorted([*parts, written.path])
    assert not onnx.load(written.path).functions
    assert len(written.kernels.integer["QGemm"]) == 10, "all but the two of the block that is excluded"
    assert len(written.kernels.floating["MatMul"]) == 2, "the quantiser leaves what is inside a branch in float"
    verdict = export.verify_quantized(written.path, exact, [(x[64:],)], fn=branching, args=args)
    assert verdict, verdict.table()


def test_weights_take_7_bits_unless_asked_otherwise_and_the_verdict_says_so(digits: Digits, tmp_path: Path) -> None:
    """With 8 bits, processors that add two products in 16 bits saturate: right on one machine and wrong on another."""
    for batches in (digits.calibration, None):
        export.quantize(digits.exact, tmp_path / "7.onnx", batches)
        weights = [
            onnx.numpy_helper.to_array(tensor).astype(int)
            for tensor in onnx.load(tmp_path / "7.onnx").graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
        ]
        assert 60 < max(abs(weight).max() for weight in weights if weight.size > 1) <= 64
    assert not digits.judge().kernels.wide
    assert "VNNI" not in digits.judge().table()
    export.quantize(digits.exact, tmp_path / "8.onnx", digits.calibration, reduce_range=False)
    verdict = digits.judge(tmp_path / "8.onnx")
    integer = verdict.kernels.integer
    assert sorted(verdict.kernels.wide) == sorted([*integer["QGemm"], *integer["QLinearConv"]])
    assert f"weights of {len(verdict.kernels.wide)} take more than 7 bits" in verdict.table()


def test_a_zero_point_is_no_weight(tmp_path: Path) -> None:
    """int8 activations have zero points such as -128, where ONNX Runtime keeps them (on ARM, or so written)."""
    for largest, wide in ((64, ()), (65, ("product",))):
        values = {
            "xs": np.float32(0.1),
            "xz": np.int8(-128),
            "w": np.full((4, 4), largest, np.int8),
            "ws": np.float32(0.1),
            "wz": np.int8(0),
            "ys": np.float32(0.1),
            "yz": np.int8(-128),
        }
        node = onnx.helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], "product")
        ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, [2, 4]) for name in "xy"]
        constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "f.onnx")
        assert kernels(tmp_path / "f.onnx").wide == wide


def test_what_is_excluded_stays_float(digits: Digits, tmp_path: Path) -> None:
    written = export.quantize(digits.exact, tmp_path / "part.onnx", digits.calibration, exclude=("fc", "layer1.*"))
    floating = [name for names in written.kernels.floating.values() for name in names]
    assert any(name.startswith("fc.") for name in floating)
    assert any(name.startswith("layer1.") for name in floating)
    assert all(
        name.startswith("layer2.") or name.startswith("conv1.") for name in written.kernels.integer["QLinearConv"]
    )


@pytest.fixture
def linear(tmp_path: Path) -> Iterator[Path]:
    """A file with a baked weight; the folder must hold nothing else at the end."""
    args = (torch.eye(8), torch.ones(4, 8))
    export.to_onnx(lambda w, x: x @ w, args, tmp_path / "f.onnx", bake=(0,), dynamic=(None, {0: "n"}))
    content = (tmp_path / "f.onnx").read_bytes()
    yield tmp_path / "f.onnx"
    assert (tmp_path / "f.onnx").read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.onnx"]


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "batches is empty"),
        ([torch.ones(4, 8)], r"batches\[0\] must be the tuple of arguments of f\(x\)"),
        ([(torch.ones(4, 8),), (torch.ones(4, 7),)], r"batches\[1\]: .*axis 1 must be 8, got 7"),
        ([({"x": torch.ones(4, 8)},)], "expected a tensor, got a dict"),
        ([(torch.ones(4, 8), torch.ones(1))], r"takes 1 arguments, f\(x\) \(w is inside the file\)"),
        ([(torch.ones(4, 8).double(),)], "expected float32, got float64"),
        ([(torch.full((4, 8), torch.nan),)], "x holds NaN or infinities"),
        ({"x": torch.ones(4, 8)}, "a sequence of tuples"),
        (3, "a sequence of tuples"),
    ],
    ids=["empty", "bare tensor", "shape", "tree", "count", "dtype", "nan", "dict", "number"],
)
def test_batches_that_do_not_fit(linear: Path, batches: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=f"(?s){said}"):
        export.quantize(linear, linear.with_name("out.onnx"), batches)


@pytest.mark.parametrize(
    ("out", "options", "error", "said"),
    [
        ("f.onnx", {}, ArgumentError, "out is the file itself"),
        ("no/out.onnx", {}, WriteError, "does not exist"),
        ("out.onnx", {"method": "maxmin"}, ArgumentError, "did you mean 'minmax'"),
        ("out.onnx", {"activations": "int4"}, ArgumentError, "activations must be one of uint8, int8"),
        ("out.onnx", {"exclude": ("mn",)}, ArgumentError, "no node or block is named 'mn'"),
        ("out.onnx", {"exclude": "mm"}, ArgumentError, "must be a tuple of patterns"),
        ("out.onnx", {"exclude": ("*",)}, ArgumentError, "nothing in .* could be made 8-bit"),
    ],
)
def test_options_that_do_not_fit(linear: Path, out: str, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        export.quantize(linear, linear.parent / out, [(torch.ones(4, 8),)], **options)


def test_files_that_cannot_be_quantised(tmp_path: Path) -> None:
    def product(w: Tensor, x: Tensor) -> Tensor:
        return x @ w

    def refused(fn: Callable[..., Any], args: tuple[Any, ...], bake: tuple[int, ...], said: str, batch: Any) -> None:
        export.to_onnx(fn, args, tmp_path / "f.onnx", bake=bake)
        with pytest.raises((ArgumentError, UnsupportedOpError), match=said):
            export.quantize(tmp_path / "f.onnx", tmp_path / "out.onnx", batch)
        assert not (tmp_path / "out.onnx").exists()

    w, x = torch.eye(8), torch.ones(4, 8)
    refused(product, (w, x), (), r"no weight is inside .*bake=\(0,\) for w", [(w, x)])
    refused(torch.tanh, (x,), (), "there is nothing to quantise", [(x,)])
    refused(product, (w.double(), x.double()), (0,), "takes float32", [(x.double(),)])
    image, kernel = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    refused(lambda w, x: torch.conv2d(x, w), (kernel, image), (0,), "give calibration batches", None)
    mask = lambda w, x: x @ w + torch.full((8,), -torch.inf)  # noqa: E731
    refused(mask, (w, x), (0,), "no finite range", [(x,)])
    model = onnx.load(tmp_path / "f.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ArgumentError, match="was not written by to_onnx"):
        export.quantize(tmp_path / "foreign.onnx", tmp_path / "out.onnx", [(x,)])


def test_a_quantised_file_is_not_quantised_again(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is quantised already"):
        export.quantize(digits.small, tmp_path / "again.onnx", digits.calibration)


def test_the_tensors_of_a_quantised_file_are_not_those_of_the_call(digits: Digits) -> None:
    with pytest.raises(LoadError, match="is quantised, so that params"):
        export.weights(digits.small)


def changed(path: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    edited_files.save(model, target)
    return target


def test_nan_and_another_structure_fail(digits: Digits, tmp_path: Path) -> None:
    def break_scale(model: onnx.ModelProto) -> None:
        scale = next(tensor for tensor in model.graph.initializer if tensor.name == "out_scale")
        scale.CopyFrom(
            onnx.numpy_helper.from_array(np.full_like(onnx.numpy_helper.to_array(scale), np.nan), scale.name)
        )

    broken = digits.judge(changed(digits.small, tmp_path / "nan.onnx", break_scale))
    assert not broken
    assert "are NaN or inf" in broken.leaves[0].reason
    drawn = torch.Generator().manual_seed(0)
    w, x = torch.randn(8, 8, generator=drawn), torch.randn(64, 8, generator=drawn)
    for name, fn in {"bare": lambda w, x: x @ w, "tree": lambda w, x: {"y": x @ w}}.items():
        export.to_onnx(fn, (w, x), tmp_path / f"{name}.onnx", bake=(0,))
    export.quantize(tmp_path / "tree.onnx", tmp_path / "small.onnx", [(x,)])
    other = export.verify_quantized(tmp_path / "small.onnx", tmp_path / "bare.onnx", [(x,)])
    assert not other
    assert "the outputs of the two files differ" in other.table()
    same = export.verify_quantized(tmp_path / "bare.onnx", tmp_path / "bare.onnx", [(x,)])
    assert not same
    assert "nothing in" in same.problems[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "597 samples, got 3 labels"),
        ({"labels": torch.zeros(597)}, "must be integers"),
        ({"scores": "logits"}, "no output is named 'logits'"),
        ({"args": None}, "fn needs args"),
        ({"args": (torch.ones(2),), "fn": torch.tanh}, "are not among their leaves"),
        ({"min_agreement": 95}, "from 0 to 1"),
    ],
    ids=["label count", "label dtype", "scores", "no args", "other fn", "percent"],
)
def test_verdicts_that_make_no_sense_are_errors(digits: Digits, options: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        digits.judge(**options)


def test_nothing_is_printed_logged_or_left_behind(
    digits: Digits, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    root, seen = logging.getLogger(), []
    handlers, filters = list(root.handlers), list(root.filters)

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    root.addHandler(listening := Listening())
    before = digits.exact.read_bytes()
    for method in ("minmax", "entropy"):
        export.quantize(digits.exact, tmp_path / "small.onnx", digits.calibration, method=method)
    root.removeHandler(listening)
    assert (list(root.handlers), list(root.filters), seen) == (handlers, filters, [])
    assert capfd.readouterr() == ("", "")
    assert digits.exact.read_bytes() == before
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["small.onnx", "temporary"]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 7), (8, 10), (10, 10), (590, 597), (0, 0)])
def test_intervals_are_those_of_scipy(successes: int, trials: int) -> None:
    from scipy.stats import binomtest  # deferred: slow to import

    if not trials:
        assert intervals.wilson(0, 0) == intervals.clopper_pearson(0, 0) == (0.0, 1.0)
        return
    reference = binomtest(successes, trials)
    assert intervals.wilson(successes, trials) == pytest.approx(tuple(reference.proportion_ci(method="wilson")))
    assert intervals.clopper_pearson(successes, trials) == pytest.approx(tuple(reference.proportion_ci(method="exact")))
    test = intervals.mcnemar(successes, trials - successes, 1000)
    assert test.p == pytest.approx(reference.pvalue)
    assert test.low <= test.change <= test.high


def test_the_command(digits: Digits, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from export.app import command_line

    x = torch.cat([x for (x,) in (*digits.calibration, *digits.held_out)]).numpy()
    labels = np.concatenate([np.zeros(200, np.int64), digits.labels.numpy()])
    np.savez(tmp_path / "good.npz", x=x, labels=labels)
    np.savez(tmp_path / "bad.npz", x=np.concatenate([100 * x[:200], x[200:]]))
    np.savez(tmp_path / "other.npz", y=x)

    def run(name: str, *words: object) -> Any:
        out = tmp_path / "out.onnx"
        given = ["quantize", digits.exact, tmp_path / name, "--out", out, "--calibration", 200, *words]
        return CliRunner().invoke(command_line.app, [str(word) for word in given])

    good = run("good.npz", "--json")
    assert good.exit_code == 0, good.output
    found = json.loads(good.stdout)
    assert found["passed"] is True
    assert found["baseline"] == "the float file"
    assert found["accuracy"]["samples"] == len(digits.labels)
    shown = run("good.npz", "--exclude", "fc")
    assert shown.exit_code == 0, shown.output
    assert "PASS" in shown.stdout
    assert "float Gemm: fc." in shown.stdout
    assert run("bad.npz").exit_code == 1
    wrong = run("other.npz")
    assert wrong.exit_code == 2
    assert "x: missing" in wrong.stderr
    assert run("none.npz").exit_code == 2
    assert "none is left" in run("good.npz", "--calibration", 797).stderr
