"""Mistakes in blocks of one's own, and in calls of any block, are errors that say what to do instead."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from typing import Annotated, Any, Optional

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

import pure
from pure import catalogue, tree
from pure.block import EMPTY, Applied, Block, Extras, Params, Reading, State
from pure.composite import Composite, Run
from pure.errors import ArgumentError, DeviceError, TreeError, UnsupportedError
from pure.layers.activation import activation_name

X = torch.ones(5, 3)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Scaled(Block):
    """x times w, returned as `how` says."""

    how: str = "pair"

    def init(self, generator: Any, dtype: Any = torch.float32, device: Any = "cpu") -> tuple[Params, State]:
        return {"w": torch.full((3,), 2.0, dtype=dtype, device=device)}, {}

    def apply(
        self, params: Any, x: Any, state: Any = EMPTY, extras: Any = EMPTY, training: bool = False, noise: Any = None
    ) -> Any:
        y = x * params["w"]
        return {"pair": (y, state), "alone": y, "streams": (y, y), "three": (y, state, 1)}[self.how]


@pytest.mark.parametrize(("how", "given"), [("alone", "Tensor"), ("streams", "Tensor, Tensor"), ("three", "int")])
@pytest.mark.parametrize("inside", [False, True])
def test_apply_must_return_a_pair(how: str, given: str, inside: bool) -> None:
    block = pure.Sequential(pure.Residual(Scaled(how))) if inside else Scaled(how)
    params, state = block.init(seeded())
    for call in (lambda: block(params, X), lambda: block.apply(params, X, state, training=True)):
        with pytest.raises(ArgumentError, match=rf"Scaled.apply returned .*{given}.*\(y, new_state\).*return y, state"):
            call()
    with pytest.raises(ArgumentError, match="new_state a dict"):
        block.out_shape((5, 3))


def test_a_block_that_returns_a_pair_is_mapped_differentiated_and_compiled() -> None:
    block = pure.Residual(pure.Sequential(scaled=Scaled(), fc=pure.Linear(3, 3)))
    params, state = block.init(seeded())
    expected = block(params, X)
    assert torch.equal(block.apply(params, X, state, training=True)[0], expected)
    assert torch.allclose(vmap(lambda row: block(params, row[None])[0])(X), expected)
    compiled = torch.compile(lambda p, x: block(p, x), fullgraph=True, backend="eager")
    assert torch.equal(compiled(params, X), expected)
    gradient = grad(lambda p: block(p, X).sum())(params)
    assert tree.names(gradient) == tree.names(params)
    _, tangent = jvp(lambda x: block(params, x), (X,), (X,))
    assert tangent.shape == X.shape


@dataclass(frozen=True, repr=False)
class Fork(Composite):
    """The sum of two children, of which one may be misspelt."""

    branch: Block
    other: "Block | None" = None
    name: str = "branch"

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        y = run(self.name, x)
        return y if self.other is None else y + run("other", x)


def test_a_misspelt_child_is_named_with_the_nearest_one() -> None:
    block = Fork(pure.Linear(3, 3), name="brnch")
    params, state = block.init(seeded())
    for call in (lambda: block(params, X), lambda: block.apply(params, X, state, training=True)):
        with pytest.raises(ArgumentError, match=r"Fork.*'brnch'.*did you mean 'branch'"):
            call()


def composite(annotation: Any, **fields: Any) -> type[Composite]:
    """A composite with one field `child` of that annotation."""
    return dataclass(frozen=True, repr=False)(
        type("Made", (Composite,), {"__annotations__": {"child": annotation}, "__module__": __name__, **fields})
    )


ANNOTATIONS = [
    Block,
    pure.Block,
    Block | None,
    Optional[Block],  # noqa: UP045
    Annotated[Block, "of any kind"],
    tuple[Block, ...],
    dict[str, Block],
    "Block",
    "pure.Block",
    "Block | None",
    "Optional[Block]",
    "Annotated[Block, 'of any kind']",
    "tuple[Block, ...]",
    "'Block'",
]


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_a_field_declared_a_block_is_checked_however_it_is_written(annotation: Any) -> None:
    made: Any = composite(annotation)
    with pytest.raises(ArgumentError, match=r"Made child=.*expected a Block: wrap it in Function"):
        made(torch.tanh)
    with pytest.raises(ArgumentError, match=r"pure\.interop\.from_module"):
        made(nn.ReLU())
    several = "tuple" in str(annotation), "dict" in str(annotation)
    child: Any = pure.Linear(3, 3)
    held = made((child,) if several[0] else {"a": child} if several[1] else child)
    assert list(held.children()) == ["child"]


def test_fields_that_are_not_about_blocks_are_left_alone() -> None:
    for annotation, value in ((int, 3), ("Unknown", 3), ("Callable[[Block], int]", len), ("not an annotation", 1)):
        assert composite(annotation)(value).child == value  # type: ignore[call-arg, attr-defined]


@dataclass(frozen=True, repr=False)
class Several(Composite):
    """The branches one after another, then the sum of the heads."""

    branches: tuple[Block, ...]
    heads: Any

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        for index in range(len(self.branches)):
            x = run(f"branches.{index}", x)
        return sum(run(f"heads.{name}", x) for name in self.heads)


def several() -> Several:
    branches: Any = [pure.Sequential(fc=pure.Linear(3, 4), norm=pure.BatchNorm(4)), pure.Dropout(0.5)]
    return Several(branches, {"a": pure.Linear(4, 2), "b": pure.Linear(4, 2)})


def test_fields_may_hold_tuples_and_dicts_of_blocks() -> None:
    block = several()
    params, state = block.init(seeded())
    assert tree.names(params)[:2] == ["branches.0.fc.weight", "branches.0.fc.bias"]
    assert tree.names(params)[-2:] == ["heads.b.weight", "heads.b.bias"]
    assert hash(block) == hash(several())
    assert block == several()
    assert block.branches[1] == pure.Dropout(0.5)
    assert block.heads["a"] == pure.Linear(4, 2)
    assert block.out_shape((5, 3)) == (5, 2)
    noise = block.noise((5, 3), seeded())
    assert {name: leaf.shape for name, leaf in tree.flatten(noise).items()} == {"branches.1.mask": (5, 4)}
    y, new_state = block.apply(params, X, state, training=True, noise=noise)
    assert y.shape == (5, 2)
    assert tree.names(new_state) == tree.names(state)
    assert int(new_state["branches"]["0"]["norm"]["num_batches_tracked"]) == 1
    tagged = Several((pure.Residual(pure.Linear(3, 3)),), {"a": pure.Linear(3, 1)})
    _, seen = pure.capture(tagged)(tagged.init(seeded())[0], X)
    assert list(seen) == ["branches.0.branch", "branches.0.stream"]
    chain = pure.Sequential(block.branches[0], block.branches[1])
    x = chain({"0": params["branches"]["0"]}, X, {"0": state["branches"]["0"]})
    expected = sum(pure.Linear(4, 2)(params["heads"][name], x) for name in "ab")
    assert torch.equal(block(params, X, state), expected)
    assert torch.equal(torch.compile(block, fullgraph=True, backend="eager")(params, X, state), expected)


def test_errors_inside_several_blocks_say_where_they_are() -> None:
    block = several()
    params, state = block.init(seeded())
    with pytest.raises(pure.errors.PureError, match=r"in branches\.0\.fc"):
        block(params, torch.ones(5, 7), state)
    extra = {**params, "heads": {**params["heads"], "c": params["heads"]["a"]}}
    with pytest.raises(TreeError, match=r"heads\.c\.weight"):
        block(extra, X, state)
    whole = dataclasses.replace(block)
    object.__setattr__(whole, "heads", ("x",))  # so that combine runs "heads.x", which is not there
    with pytest.raises(ArgumentError, match=r"'x'.*expected one of a, b"):
        whole(params, X, state)


@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda case: case.name)
def test_replace_gives_the_same_block_and_copies_are_equal(case: Any) -> None:
    block = case.make()
    assert dataclasses.replace(block) == block
    if all(leaf.__name__ != "<lambda>" for leaf in functions(block)):
        assert pickle.loads(pickle.dumps(block)) == block
    assert copy.copy(block) == block


def functions(block: Block) -> list[Any]:
    own = [getattr(block, name) for name in ("fn", "make") if getattr(block, name, None) is not None]
    return [*own, *(fn for child in block.children().values() for fn in functions(child))]


def test_replace_changes_one_field() -> None:
    linear = pure.Linear(3, 4)
    chain = pure.Sequential(a=linear, b=pure.Dropout(0.1))
    changes: list[tuple[Block, dict[str, Any], Block]] = [
        (chain, {"items": (("c", linear),)}, pure.Sequential(c=linear)),
        (pure.Parallel(a=linear, b=linear), {"join": "mean"}, pure.Parallel(a=linear, b=linear, join="mean")),
        (pure.Function(torch.tanh), {"fn": torch.relu}, pure.Function(torch.relu)),
        (pure.Residual(linear), {"scale": 0.5}, pure.Residual(linear, scale=0.5)),
        (pure.Repeat(pure.Linear(3, 3), 2), {"depth": 3}, pure.Repeat(pure.Linear(3, 3), 3)),
        (pure.Activation("relu"), {"name": "gelu"}, pure.Activation("gelu")),
    ]
    for block, change, expected in changes:
        assert dataclasses.replace(block, **change) == expected
        params, _ = block.init(seeded())
        assert block == dataclasses.replace(block)
        assert pickle.loads(pickle.dumps(block)) == block, "after a call too"
        assert isinstance(params, dict)


@pytest.mark.parametrize("name", ["init", "apply", "children", "name", "self", "items", "blocks", "noise", "out_shape"])
@pytest.mark.parametrize("kind", [pure.Sequential, pure.Parallel])
def test_a_child_may_have_any_name(kind: Any, name: str) -> None:
    block = kind(**{name: pure.Linear(3, 3)})
    params, _ = block.init(seeded())
    assert tree.names(params) == [f"{name}.weight", f"{name}.bias"]
    assert torch.equal(block(params, X), pure.Linear(3, 3)(params[name], X))
    assert block.out_shape((5, 3)) == (5, 3)
    assert dataclasses.replace(block) == block


def test_an_activation_is_a_name_or_a_function() -> None:
    x = torch.linspace(-2.0, 2.0, 12).reshape(4, 3)
    assert torch.equal(pure.Activation(torch.relu)({}, x), torch.relu(x))
    makers: list[Any] = [
        lambda a: pure.Residual(pure.Linear(3, 3), activation=a),
        lambda a: pure.GLU(3, 4, a),
        lambda a: pure.nets.residual_mlp(3, 4, 2, activation=a),
        lambda a: pure.Highway.dense(3, activation=a),
        lambda a: pure.skips.ScalarGate(pure.Linear(3, 3), a),
        pure.Activation,
    ]
    for make in makers:
        named, given = make("gelu"), make(torch.nn.functional.gelu)
        params, _ = named.init(seeded())
        assert torch.equal(named(params, x), given(params, x))
        for wrong in (nn.ReLU, nn.ReLU(), 3, None):
            with pytest.raises(ArgumentError, match=r"neither a name nor a function.*torch\.relu"):
                make(wrong)
    with pytest.raises(ArgumentError, match="did you mean 'relu'"):
        pure.Activation(nn.ReLU())  # type: ignore[arg-type]
    assert activation_name(torch.relu) == "relu"


@dataclass(frozen=True)
class Masked(Block):
    """x times the mask in the extras, if there is one."""

    def apply(
        self, params: Any, x: Any, state: Any = EMPTY, extras: Any = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        return x * extras["mask"] if "mask" in extras else x, state


def test_a_key_in_extras_that_nothing_reads_is_refused() -> None:
    net = pure.Sequential(fc=pure.Linear(3, 3), out=Masked())
    params, state = net.init(seeded())
    mask = torch.zeros(5, 3)
    good, bad = {"mask": mask}, {"maks": mask}
    assert torch.equal(net(params, X, state, good), mask)
    message = r"Sequential: no block reads extras 'maks' \(did you mean 'mask'\?\): those read are 'mask'"
    calls: list[Any] = [
        lambda extras: net(params, X, state, extras),
        lambda extras: net.apply(params, X, state, extras, training=True)[0],
        lambda extras: grad(lambda p: net(p, X, state, extras).sum())(params)["fc"]["weight"],
        lambda extras: vmap(lambda row, one: net(params, row[None], state, one)[0])(X, extras),
        lambda extras: jvp(lambda x: net(params, x, state, extras), (X,), (X,))[1],
        lambda extras: pure.capture(net)(params, X, state, extras)[0],
    ]
    for call in calls:
        assert not call(good).any()
        with pytest.raises(ArgumentError, match=message):
            call(bad)
    with pytest.raises(ArgumentError, match=r"Linear: no block reads extras 'mask': there is none to read"):
        pure.Linear(3, 3)(params["fc"], X, {}, good)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert torch.equal(compiled(params, X, state, good), mask)


def test_extras_of_a_child_that_did_not_run_are_not_refused() -> None:
    block = pure.Sequential(pure.Dynamic(pure.Sequential(Masked()), mode="static"), pure.Activation("relu"))
    extras = {"control": False, "mask": torch.zeros(5, 3)}
    assert torch.equal(block({}, X, {}, extras), X)
    branch = pure.Dynamic(Masked(), mode="branch")
    assert torch.equal(branch({}, X, {}, {"control": torch.zeros(()), "mask": torch.zeros(5, 3)}), X)


def test_extras_may_be_listed_and_shared() -> None:
    listing = pure.Function(lambda params, x, state, extras: x + sum(extras.values()))
    assert torch.equal(listing({}, X, {}, {"a": 1.0, "b": 2.0}), X + 3)
    shared = Reading({"mask": torch.zeros(5, 3)})
    params, _ = pure.Linear(3, 3).init(seeded())
    assert pure.Linear(3, 3)(params, X, {}, shared).shape == (5, 3)


def test_state_and_extras_in_each_others_place_say_so() -> None:
    norm = pure.Sequential(fc=pure.Linear(3, 3), norm=pure.BatchNorm(3))
    params, state = norm.init(seeded())
    with pytest.raises(ArgumentError, match="the extras hold its state: give that third"):
        norm(params, X, extras=state)
    with pytest.raises(ArgumentError, match=r"state holds \['control'\].*extras are the fourth"):
        norm(params, X, {"control": torch.ones(())})
    with pytest.raises(ArgumentError, match="extras are the fourth"):
        pure.Linear(3, 3)(params["fc"], X, {"control": torch.ones(())})
    with pytest.raises(ArgumentError, match="extras are Tensor, expected a mapping"):
        norm(params, X, state, torch.ones(2))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="state holds Tensor"):
        norm(params, X, torch.ones(2))  # type: ignore[arg-type]


def test_a_module_in_place_of_a_block_says_from_module() -> None:
    module: Any = nn.Linear(3, 3)
    makers: list[Any] = [
        lambda: pure.Sequential(module),
        lambda: pure.Parallel(a=module),
        lambda: pure.Residual(module),
        lambda: pure.Residual(pure.Linear(3, 3), module),
        lambda: pure.Repeat(module, 2),
        lambda: pure.Rename(module, {"weight": "w"}),
        lambda: pure.Function(module),
        lambda: pure.Dynamic(module),
        lambda: pure.Sequential(nn.ReLU),  # type: ignore[arg-type]
    ]
    for make in makers:
        with pytest.raises(ArgumentError, match=r"pure\.interop\.from_module\(module\)"):
            make()


def test_a_wrong_extra_leaf_is_not_left_out_in_evaluation() -> None:
    block = pure.Sequential(pure.Residual(pure.Sequential(fc=pure.Linear(3, 3), act=pure.Activation("relu"))))
    params, _ = block.init(seeded())
    leaf = params["0"]["branch"]["fc"]["weight"]
    for wrong in (
        {"0": {**params["0"], "shortcut": {"w": leaf}}},
        {"0": {"branch": {**params["0"]["branch"], "act": {"w": leaf}}}},
        {"0": {"branch": {"fc": {**params["0"]["branch"]["fc"], "extra": leaf}}}},
        {**params, "1": {"w": leaf}},
    ):
        with pytest.raises(TreeError, match="extra"):
            block(wrong, X)


def test_flow_is_an_attribute_of_pure() -> None:
    assert pure.flow.gradient_norms
    assert "flow" in dir(pure)
    with pytest.raises(AttributeError, match="flwo"):
        getattr(pure, "flwo")  # noqa: B009


class _Asks(pure.leaf.Leaf):
    """A block of someone's own, with what transforms cannot do."""

    def forward(self, params: Any, x: Any) -> Any:
        return x if x.sum().item() > 0 else -x


class _Selects(pure.leaf.Leaf):
    def forward(self, params: Any, x: Any) -> Any:
        return x[x > 0]


class _HasNoForwardMode(pure.leaf.Leaf):
    def forward(self, params: Any, x: Any) -> Any:
        return torch.cdist(x, x)


def test_what_a_transform_cannot_do_is_no_shape_error() -> None:
    x = torch.ones(3, 2, 4)
    with pytest.raises(UnsupportedError, match=r"use torch\.where in place of if"):
        torch.func.vmap(lambda x: _Asks()({}, x))(x)
    with pytest.raises(UnsupportedError, match="vmap has no rule for it"):
        torch.func.vmap(lambda x: _Selects()({}, x))(x)
    with pytest.raises(UnsupportedError, match="no forward-mode rule: use jacrev or grad"):
        torch.func.jvp(lambda x: _HasNoForwardMode()({}, x), (x,), (x,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_typed_error() -> None:
    for block in (
        pure.Linear(2, 3),
        pure.BatchNorm(2, affine=False),
        pure.interop.from_module(torch.nn.Linear(2, 3))[0],
    ):
        with pytest.raises(DeviceError, match=r"device='cuda' is not available here: .*there is cpu"):
            block.init(torch.Generator(), device="cuda")
