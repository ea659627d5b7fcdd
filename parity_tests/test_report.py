"""The report, end to end on real data: whole, self-contained, consistent with its numbers, honest about failures."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import export
import pure
from export.app import command_line
from export.app.pages import numbers
from export.app.report import digits, enhancer, photographs, pipeline
from export.app.report.settings import Settings

NETWORKS = ("plain", "residual", "gated", "dense")
QUICK = Settings().quick()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick report, as the command writes it."""
    out = tmp_path_factory.mktemp("reports") / "report"
    result = CliRunner().invoke(command_line.app, ["report", "--quick", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["passed"] is True
    assert said["page"] == str(out / "index.html")
    return out


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    return json.loads((written / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "index.html").read_text(encoding="utf-8")


class Elements(html.parser.HTMLParser):
    """Every element's name and attributes, the text, and a check that elements are closed."""

    EMPTY = frozenset({"meta", "img", "link", "br", "hr", "line", "path", "circle"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_all_files_are_there_and_nothing_else(written: Path, found: dict[str, Any]) -> None:
    names = {entry.name for entry in written.iterdir()}
    assert names == set(found["files"])
    assert {"index.html", "report.json", "enhancer.onnx"} <= names
    assert {f"{name}.onnx" for name in NETWORKS} <= names
    assert not list(written.parent.glob(".*")), "something unfinished was left beside the report"


def test_the_page_needs_nothing_else(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name, attributes[name][:80])
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert attributes["alt"].strip()
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    outside = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", page)
    assert "http://" not in outside
    assert "https://" not in outside
    assert "url(" not in outside
    assert "@import" not in outside


def test_the_page_fits_phone_and_dark(page: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page
    widths = re.findall(r"(?<![-\w])width: *(\d+)px", page)
    assert all(int(width) < 300 for width in widths), "a fixed width would overflow a phone"


def test_the_page_tells_the_numbers_of_the_json(page: str, found: dict[str, Any]) -> None:
    text = Elements(page).text
    for network in found["networks"].values():
        assert network["title"] in text
        for run in network["trainings"]:
            assert numbers.percent(run["held_out_accuracy"][-1]) in text
        assert numbers.number(network["onnx"]["verdict"]["worst"], 3) in text
        start = network["gradient_flow"]["at_initialisation"]
        assert numbers.number(start["fall_from_last_to_first_layer"]) in text
    for shot in found["photographs"]["shots"]:
        assert shot["title"] in text
        assert numbers.number(shot["luminance"]) in text
    for name in ("torch", "onnxruntime-gpu", "onnxruntime"):
        version = found["environment"]["packages"].get(name)
        assert version is None or f"{name} {version}" in text
    assert f"{found['digits']['held_out']} held-out digits" in text


def test_networks_have_one_depth_and_one_budget(found: dict[str, Any]) -> None:
    settings = found["settings"]
    assert settings["depth"] >= 20
    assert set(NETWORKS) <= set(found["networks"])
    for network in found["networks"].values():
        assert {run["steps"] for run in network["trainings"]} == {-(-1347 // settings["batch"]) * settings["epochs"]}
        assert [run["seed"] for run in network["trainings"]] == list(range(settings["repeats"]))
        for moment in network["gradient_flow"].values():
            low, middle, high = (moment[f"activation_gradient_l2_{which}"] for which in ("p10", "median", "p90"))
            assert len(low) == len(middle) == len(high) == settings["depth"]
            assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
            shown = moment["parameter_gradient_l2_by_layer_and_digit"]
            assert {len(shown), *map(len, shown)} == {settings["depth"], settings["shown"]}


def test_all_digits_are_used_once(found: dict[str, Any]) -> None:
    assert found["digits"] == {"training": 1347, "held_out": 450}
    data = digits.load(QUICK)
    together = torch.cat([data.train_x, data.test_x])
    assert torch.isfinite(together).all()
    changing = data.train_x.std(0) > 0
    assert torch.allclose(data.train_x.mean(0), torch.zeros(64), atol=1e-5)
    assert torch.allclose(data.train_x.std(0)[changing], torch.ones(int(changing.sum())), atol=1e-5)
    per_class = [int((data.test_y == digit).sum()) for digit in range(10)]
    assert max(per_class) - min(per_class) <= 5


def test_files_read_the_digits_as_eager_does(written: Path, found: dict[str, Any]) -> None:
    data = digits.load(QUICK)
    blocks = {network.name: network.block for network in digits.networks(QUICK)}
    for name, network in found["networks"].items():
        params = pure.load(written / network["onnx"]["params_file"])
        loaded = export.load(written / network["onnx"]["file"], device="cpu")
        answers = loaded(params, data.test_x)
        assert digits.accuracy(answers, data.test_y) == network["onnx"]["onnx_accuracy"]
        assert network["onnx"]["onnx_accuracy"] == network["onnx"]["eager_accuracy"] == network["held_out_accuracy"]
        assert network["onnx"]["differing_answers"] == 0
        eager = blocks[name](params, data.test_x)
        assert torch.equal(answers.argmax(1), eager.argmax(1))


def test_verdicts_hold_at_every_batch_size(found: dict[str, Any]) -> None:
    assert found["passed"] is True
    for network in found["networks"].values():
        verdict = network["onnx"]["verdict"]
        assert verdict["passed"]
        cases = {row["case"] for row in verdict["rows"]}
        assert {f"batch={size}" for size in (1, 2, 3, 7, 450, 901)} <= cases
        assert network["onnx"]["ran_on"] in ("cpu", "cuda")
        assert sum(network["onnx"]["providers"].values()) > 0


def test_each_branch_was_taken_and_both_were_forced(found: dict[str, Any]) -> None:
    shots = found["photographs"]["shots"]
    assert len(shots) == 4
    assert {shot["enhanced"] for shot in shots} == {True, False}
    for shot in shots:
        assert shot["enhanced"] == shot["eager_enhanced"] == (shot["luminance"] < found["photographs"]["threshold"])
        assert shot["enhanced"] == (shot["margin"] > 0)
        assert shot["enhanced"] == (shot["luminance_after"] > 1.05 * shot["luminance"])
        assert abs(shot["margin"]) > 100 * shot["rounding"], "decided by rounding"
        assert {"forced true", "forced false"} <= {row["case"] for row in shot["verdict"]["rows"]}
        assert shot["verdict"]["passed"]


def test_the_enhancer_decides_inside_the_file(written: Path) -> None:
    session = onnxruntime.InferenceSession(written / "enhancer.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    assert [name for name in names if not name.startswith("params.")] == ["image"]
    loaded = export.load(written / "enhancer.onnx", device="cpu")
    params = pure.load(written / "enhancer.safetensors")
    picture = photographs.load(QUICK)["china.jpg"][None]
    bright, dark = loaded(params, picture), loaded(params, photographs.darken(picture[0])[None])
    assert torch.equal(bright["image"], picture)
    assert dark["row_luminance"].mean() < enhancer.DARK < bright["row_luminance"].mean()
    assert not torch.equal(dark["image"], photographs.darken(picture[0])[None])


def test_the_enhancing_branch_is_what_its_formula_says() -> None:
    image = photographs.load(QUICK)["flower.jpg"].double()[None] / 8
    params = pure.cast(enhancer.designed(), torch.float64)
    x = image
    for _ in range(enhancer.STEPS):
        x = x + enhancer.ALPHA * x * (1 - x)
    taps = torch.tensor(enhancer.BINOMIAL, dtype=torch.float64) / sum(enhancer.BINOMIAL)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1)
    blur = (windows * (taps[:, None] * taps)).sum((-1, -2))
    expected = (x + enhancer.GAMMA * (x - blur)).clamp(0, 1)
    assert torch.allclose(enhancer.enhance(params, image)["image"], expected, atol=1e-14, rtol=0)


def test_darkening_takes_the_light_that_it_says() -> None:
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert torch.allclose(enhancer.encoded(enhancer.linear_light(values)), values, atol=1e-5)
    picture = photographs.load(QUICK)["china.jpg"]
    ratio = (
        enhancer.row_luminance(picture[None]).mean() / enhancer.row_luminance(photographs.darken(picture)[None]).mean()
    )
    assert ratio.item() == pytest.approx(2**photographs.STOPS, rel=0.02)


def test_the_same_seed_gives_the_same_training(found: dict[str, Any]) -> None:
    from export.app.report import training

    data = digits.load(QUICK)
    (residual,) = [network for network in digits.networks(QUICK) if network.name == "residual"]
    with pipeline._one_thread():
        again = training.train(residual, 0, data, QUICK)
        other = training.train(residual, 1, data, QUICK)
    first, second = found["networks"]["residual"]["trainings"]
    assert list(again.train_loss) == first["train_loss_nats"]
    assert list(other.train_loss) == second["train_loss_nats"]
    assert first["train_loss_nats"] != second["train_loss_nats"]
