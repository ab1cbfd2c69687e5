"""The layers as they run: what `monet-edge info --plan` shows is what the engine does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import random_tensors, tiny_nnunet
from records import make_record
from typer.testing import CliRunner

from monet_edge import weights
from monet_edge.architectures import monet, unet
from monet_edge.cli import app
from monet_edge.engine import layers
from monet_edge.engine.codegen.simd import AVX2
from monet_edge.engine.plan import Plan
from monet_edge.spec import INPUT, Op, Spec, count_floats, count_macs, fold_batchnorm, infer_shapes

ROOT = Path(__file__).parents[1]
README = ROOT / "monet_edge" / "engine" / "README.md"


def test_rows_are_the_stages_with_their_work_and_their_bytes():
    up = Op("up", "deconv", ("c",), {"filters": 3, "kernel": 4, "stride": 2, "padding": 1, "bias": True, "activation": "none"})
    c = {"filters": 20, "kernel": 5, "stride": 1, "dilation": 2, "padding": 4, "bias": True, "activation": "none"}
    spec = Spec("two", 17, (Op("c", "conv", (INPUT,), c), up))
    way_in, conv, transposed, way_out = layers.rows(Plan(spec, random_tensors(spec), AVX2), 10, 12)
    assert [row.name for row in (way_in, conv, transposed, way_out)] == ["way in", "c", "up", "way out"]
    assert [row.algorithm for row in (way_in, conv, transposed, way_out)] == ["from_planes", "im2col", "winograd", "to_planes"]
    assert conv.shape == "17x10x12 to 20x10x12, conv 5x5 dilation 2"
    assert transposed.shape == "20x10x12 to 3x20x24, conv_transpose 4x4 stride 2"
    assert (way_in.shape, way_out.shape) == ("17x10x12 to 17x10x12", "3x20x24 to 3x20x24")
    assert (conv.macs, transposed.macs, way_in.macs) == (10 * 12 * 25 * 17 * 20, 10 * 12 * 16 * 20 * 3, 0)
    block = 4 * 16  # bytes of 16 channels of a pixel
    assert (way_in.read, way_in.written) == (4 * 17 * 120, 2 * block * 120)
    assert conv.written == 2 * block * 120
    parameters, tables = 2 * 3 * block, 8 * (7 + 2 * 25)
    assert conv.read == 2 * block * 120 + 25 * 32 * 32 * 4 + parameters + tables
    assert (way_out.read, way_out.written) == (block * 480, 4 * 3 * 480)


def test_a_normalisation_is_shown_as_its_two_stages():
    spec = tiny_nnunet(residual=True)
    found = layers.rows(Plan(spec, random_tensors(spec), AVX2), 8, 8)
    rows = [(row.algorithm, row.shape) for row in found if row.name == "encoder.stages.2.blocks.0.conv1.norm"]
    assert rows == [("statistics", "20x2x4 to 20x2x3"), ("normalise", "20x2x4 to 20x2x4")]
    shapes = {row.name: row.shape for row in found}
    assert shapes["encoder.stages.2.blocks.0.conv1.conv"] == "20x4x4 to 20x2x4, conv 1x3 stride 2x1"
    assert shapes["encoder.stages.2.blocks.0.skip.0"] == "20x4x4 to 20x2x4, avgpool 2x1"
    assert shapes["decoder.transpconvs.0"] == "20x2x4 to 20x4x4, conv_transpose 2x1 stride 2x1"
    assert sum(row.macs for row in found) == sum(count_macs(spec, 8, 8).values())


def test_a_convolution_with_leaky_relu_is_counted_once():
    attributes = {
        "filters": 5,
        "kernel": 3,
        "stride": 1,
        "dilation": 1,
        "padding": 1,
        "bias": True,
        "activation": "leaky_relu",
        "slope": 0.1,
    }
    spec = Spec("leaky", 17, (Op("c", "conv", (INPUT,), attributes),))
    found = layers.rows(Plan(spec, random_tensors(spec), AVX2), 4, 4)
    assert [(row.name, row.algorithm, row.macs) for row in found] == [
        ("way in", "from_planes", 0), ("c", "winograd", 16 * 9 * 17 * 5), ("c", "normalise", 0), ("way out", "to_planes", 0)]  # fmt: skip


def test_shapes_name_the_parts_of_a_concat():
    spec = fold_batchnorm(monet())
    shapes = infer_shapes(spec, 256, 256)
    found = {stage.name: layers.describe(stage, shapes) for stage in Plan(spec, random_tensors(spec), AVX2).layers}
    assert found["enc0.s1"] == "16x256x256 to 16x256x256, conv 3x3 dilation 4"
    assert found["dec0.conv"] == "16+32x256x256 to 16x256x256, conv 3x3"


def test_in_the_alternatives_every_suitable_algorithm_has_its_turn():
    spec = fold_batchnorm(unet(4, depth=1))
    tensors = random_tensors(spec)
    plans = layers.alternatives(spec, tensors)
    ran = {(stage.name, plan.algorithm(stage).name) for plan in plans for stage in plan.layers}
    assert ran == {(name, algorithm.name) for name, suitable in plans[0].suitable.items() for algorithm in suitable}
    assert {algorithm for name, algorithm in ran if name == plans[0].layers[0].name} == {"direct", "winograd", "im2col"}


def test_all_alternatives_are_timed_as_often_and_agree():
    spec = fold_batchnorm(monet(filters=4, depth=1))
    tensors = random_tensors(spec)
    race = layers.Race(layers.alternatives(spec, tensors), 24, 20)
    image = np.random.default_rng(0).standard_normal((1, 24, 20)).astype(np.float32)
    race.run(image, counts=False)
    assert race.times == {}
    race.run(image)
    race.run(image)
    first, *others = (program.output for program, _ in race.programs)
    assert all(np.abs(each - first).max() <= 1e-4 for each in others)
    times = layers.measure(spec, tensors, 24, 20, rounds=2)
    assert times.keys() == race.times.keys() > {layer.name for layer in Plan(spec, tensors, AVX2).layers}
    assert set(times["head"]) == {"head1x1", "im2col"}
    table = layers.table(spec, tensors, 24, 20, timed=True)
    assert re.fullmatch(r"head +head1x1 .* head1x1\* \d+\.\d\d, im2col \d+\.\d\d", next(line for line in table if line.startswith("head ")))


def test_the_command_shows_every_layer_and_their_sum(weights_file):
    done = CliRunner().invoke(app, ["info", "--plan", str(weights_file)])
    assert done.exit_code == 0
    spec = weights.load(weights_file).spec
    plan = Plan(spec, random_tensors(spec), AVX2)
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [stage.name for stage in plan.stages]
    assert f"{sum(count_macs(spec, 32, 32).values()) / 1e9:.3f}" in lines[-1]
    assert "ms" not in lines[1]


def test_the_command_knows_networks_of_nnunet(tmp_path):
    spec, path = tiny_nnunet(residual=False), tmp_path / "nnunet.safetensors"
    weights.save(path, spec, random_tensors(spec), make_record("a", "b", size=16), {})
    lines = CliRunner().invoke(app, ["info", "--plan", str(path)]).output.splitlines()
    algorithms = [line.split()[:2] for line in lines if line.startswith("encoder.stages.0.0.convs.0.")]
    name = "encoder.stages.0.0.convs.0"
    assert algorithms == [[f"{name}.conv", "direct"], [f"{name}.norm", "statistics"], [f"{name}.norm", "normalise"]]
    said = CliRunner().invoke(app, ["info", str(path)]).output
    assert f"nnunet-plain, {len(spec.ops)} ops, {count_floats(spec):,} floats" in said


def test_times_without_the_plan_are_refused(weights_file):
    done = CliRunner().invoke(app, ["info", "--time", str(weights_file)])
    assert done.exit_code == 2
    assert "--time shows its times in the table of --plan" in done.output


def test_the_readme_shows_what_the_command_prints():
    """But for the milliseconds, which are those of one machine."""
    command, *shown = re.search(r"```console\n\$ (monet-edge info .*?)\n```", README.read_text(), re.DOTALL)[1].splitlines()
    words = [word for word in command.split()[1:] if word != "--time"]
    done = subprocess.run([sys.executable, "-m", "monet_edge", *words], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    printed = done.stdout.splitlines()
    assert len(shown) == len(printed)
    for line, real in zip(shown, printed, strict=True):
        assert line.startswith(real)


def test_the_readme_names_every_algorithm_and_file():
    text = README.read_text()
    for path in (ROOT / "monet_edge" / "engine").rglob("*.py"):
        assert path.name == "__init__.py" or f"`{path.name}`" in text, path
