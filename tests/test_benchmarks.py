"""The benchmark's pages come from measured data alone, and what they compare is what they say."""

import re

import naive
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import chart, cores, disk, machine, measure, ncnn_model, paper_page, peers, readme_page, records, tables
from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.spec import fold_batchnorm

SMALL = {
    "monet": fold_batchnorm(monet(filters=4, depth=1, classes=3)),
    "unet": fold_batchnorm(unet(4, depth=2)),
    "attention-unet": fold_batchnorm(attention_unet(4, depth=2)),
}


def row(runner, median, error=1e-6, **more):
    default = {"network": "monet", "mode": "slice", "threads": 1, "slices": 1, "min": median * 0.9, "rounds": 5}
    return {"runner": runner, "median": median, "error32": error, "error64": error, **default, **more}


@pytest.fixture
def case(request, tmp_path):
    spec = SMALL[request.param]
    random = peers.random_case("monet", tmp_path)
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in peers.tensor_shapes(spec).items()}
    return peers.Case(spec, tensors, random.folder)


def test_contestants_take_turns():
    order = []
    times = measure.interleave({name: lambda name=name: order.append(name) for name in "ABC"}, seconds=0, least=3)
    assert "".join(order) == "AABBCC" + "ABC" * 3  # two warm-ups each first
    assert [len(found) for found in times.values()] == [3, 3, 3]


def test_a_fast_wrong_answer_shows():
    text = tables.networks([row("monet-edge", 0.020), row("OpenVINO fp32", 0.050), row("OpenVINO bf16", 0.010, error=0.4)])
    assert "| OpenVINO fp32 | 45.0 / 50.0 | 2.50 | 1e-06 | 1e-06 |" in text
    assert "| OpenVINO bf16 | 9.0 / 10.0 | 0.50 | 4e-01 | 4e-01 |" in text


def test_a_peer_that_fails_is_said_to():
    failed = {key: value for key, value in row("ncnn", 1).items() if key not in ("median", "min", "error32", "error64")}
    assert "failed: RuntimeError" in tables.networks([row("monet-edge", 0.02), failed | {"failed": "RuntimeError: no such layer"}])


def test_a_wrong_choice_of_algorithm_is_named():
    def layer(direct):
        times = {"winograd": {"min": 1e-3}, "im2col": {"min": direct}}
        return {"network": "monet", "layer": "x", "shape": "", "macs": 10**8, "chosen": "winograd", "algorithms": times}

    assert "im2col is 2.00 times faster" in tables.layers([layer(0.5e-3)])
    assert "times faster" not in tables.layers([layer(3e-3)])
    assert "| 100 | **1.000** |" in tables.layers([layer(3e-3)])  # 1e8 MACs in a millisecond


@pytest.mark.slow
def test_a_second_core_is_measured_against_one_in_the_same_rounds():
    found = cores.measure(threads=2, rounds=1)
    assert all(found[name]["rounds"] == 1 for name in ("one thread", "volume", "processes", "one thread, slice", "slice"))
    times = {"one thread": 0.04, "volume": 0.02, "processes": 0.025, "one thread, slice": 0.04, "slice": 0.032}
    text = tables.cores([{"threads": 2} | {name: {"min": 0.9 * time, "median": time} for name, time in times.items()}])
    gains = [line.split(" | ")[-1] for line in text.splitlines()[2:]]
    assert gains == ["2.00 times (2.00) |", "1.60 times (1.60) |", "1.25 times (1.25) |"]


@pytest.mark.slow
def test_the_command_is_measured_beside_its_slices_and_a_peer():
    found = disk.measure(threads=1, rounds=1, ct=(6, 96, 96), deep=(8, 96, 96), head=(8, 96, 96), smalls=2)
    assert all(found[part][title]["rounds"] == 1 for part in ("one", "many") for title in ("command", "slices"))
    assert found["one"].get("dice", 1) > 0.9  # a fast wrong answer would show; without OpenVINO there is no peer
    assert found["deep"]["peak"] > found["deep"]["volume"] == 2 * 8 * 96 * 96
    assert found["head"]["median"] > 0
    assert found["head"]["peak"] > 1 << 20


def test_the_whole_way_is_told_as_times_of_its_slices():
    seconds = {title: {"min": 0.9 * time, "median": time} for title, time in (("command", 4.8), ("slices", 4.0), ("peer", 12.0))}
    row = {"threads": 2, "ct": [150, 512, 512], "deep_shape": [300, 512, 512], "smalls": 48,
           "one": seconds | {"dice": 0.998}, "many": seconds, "deep": {"peak": 300e6, "volume": 157e6}}  # fmt: skip
    lines = tables.disk([row]).splitlines()[2:]
    assert [line.split(" | ")[-1] for line in lines] == [
        "1.20 times (1.20) |",
        "2.50 times (2.50) |",
        "1.20 times (1.20) |",
        "143 MB more |",
    ]


def test_a_part_joins_what_was_measured_on_this_machine_and_nothing_else(tmp_path):
    path, here = tmp_path / "disk-native.json", machine.describe()
    for row in ({"threads": 1, "one": 1}, {"threads": 2, "one": 2}, {"threads": 2, "many": 3}):
        records.record(path, here, records.merged(path, here, row))
    assert records.load(tmp_path)["disk-native"]["rows"] == [{"threads": 2, "one": 2, "many": 3}, {"threads": 1, "one": 1}]
    assert records.merged(path, here | {"revision": "another"}, {"threads": 2, "deep": 4}) == [{"threads": 2, "deep": 4}]


def test_int8_is_told_with_how_far_its_masks_are():
    rows = [{"runner": name, "dice": agree, "error": 0.4, "min": 0.9 * time, "median": time}
            for name, agree, time in (("monet-edge", 1.0, 0.04), ("OpenVINO int8", 0.989, 0.08))]  # fmt: skip
    text = tables.int8({"rows": {"AVX2": rows}, "machine": machine.describe()})
    assert "|  | OpenVINO int8 | 72.0 / 80.0 | 2.00 | 0.989 | 4e-01 |" in text


def test_pages_are_what_the_records_give():
    found = records.load(records.RESULTS)
    for page, text in (
        ("README.md", readme_page.page(found, records.load(records.RESULTS / records.OTHER))),
        ("PAPER.md", paper_page.page(found, records.pictures(records.RESULTS), records.load(records.RESULTS / records.SHORT))),
    ):
        assert (records.HERE / page).read_text(encoding="utf-8") == text, (
            f"python -m benchmarks writes {page}; edit its template or measure again"
        )


def test_pages_without_results_say_so():
    assert "Not measured yet." in readme_page.page({}, {})
    page = paper_page.page({})
    assert paper_page.MISSING in page
    assert "| MoNet | 403,556 | 401,666 |" in page
    assert "| Attention U-Net | 31,753,349 | 31,741,573 |" in page


def test_an_older_instruction_set_is_told_to_both_sides():
    environment = machine.environment("avx2", 1)
    assert environment["NUMBA_CPU_NAME"] == "haswell"
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "NUMBA_CPU_NAME" not in machine.environment("native", 1)


@pytest.mark.parametrize(
    ("isa", "line", "foreign"),
    [
        ("avx2", "vfmadd231ps (%rax),%zmm1,%zmm2", True),
        ("avx2", "vmulps %ymm1,%ymm16,%ymm2", True),
        ("avx2", "vfmadd231ps (%rax),%ymm1,%ymm15", False),
        ("sse4.2", "vmulps %xmm1,%xmm2,%xmm3", True),
        ("sse4.2", "mulps  %xmm1,%xmm2", False),
    ],
)
def test_foreign_instructions_are_recognised(isa, line, foreign):
    assert bool(re.search(machine.ISAS[isa].foreign, f"  10:\tc5 f0 59\t{line}")) is foreign


@pytest.mark.parametrize("case", SMALL, indirect=True)
def test_both_references_agree(case, rng):
    image = rng.standard_normal((1, 8, 12)).astype(np.float32)
    ref = peers.reference(case, image[None], double=True)[0]
    comp = naive.values(case.spec, case.tensors, image)[case.spec.output]
    assert_allclose(comp, ref, atol=1e-7)  # PyTorch's probabilities leave in float32


@pytest.mark.parametrize("case", SMALL, indirect=True)
def test_ncnn_runs_the_network_that_we_run(case, rng):
    pytest.importorskip("ncnn", reason="the extra bench is not installed")
    images = rng.standard_normal((1, 1, 8, 12)).astype(np.float32)
    assert_allclose(peers.ncnn(case, 1)(images), peers.reference(case, images, double=False), atol=1e-4)


def test_ncnn_blobs_are_read_once():
    param, _ = ncnn_model.write(SMALL["unet"], {name: np.zeros(s, np.float32) for name, s in peers.tensor_shapes(SMALL["unet"]).items()})
    read = []
    for line in param.splitlines()[2:]:
        _, _, inputs, _, *names = line.split()
        read += names[: int(inputs)]
    assert len(read) == len(set(read))


def test_the_chart_says_what_was_recorded(tmp_path):
    def texts(path):
        return re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8"))

    found = records.load(records.RESULTS)
    chart.draw(found, tmp_path / "speed.svg")
    assert texts(records.HERE / "speed.svg") == texts(tmp_path / "speed.svg")
    ours = next(row for row in found["network-native"]["rows"] if row["runner"] == "monet-edge")
    assert f"{1e3 * ours['median']:.0f} ms" in texts(tmp_path / "speed.svg")


def test_the_speed_in_the_readme_is_the_recorded_one():
    found = records.load(records.RESULTS)["network-native"]["rows"]
    alike = [row for row in found if (row["network"], row["mode"], row["threads"]) == ("monet", "slice", 1)]
    ms = {row["runner"]: 1e3 * row["min"] for row in alike}  # a neighbour on the machine makes the medians, and the difference, larger
    text = (records.HERE.parent / "README.md").read_text(encoding="utf-8")
    assert f"{ms['monet-edge']:.0f} ms, OpenVINO 2026.4 {ms['OpenVINO fp32']:.0f} ms" in text


def test_runs_over_many_scans_are_told_beside_what_is_promised():
    times = {title: {"min": 0.9 * time, "median": time} for title, time in (("jobs 1", 13.0), ("jobs 2", 11.0), ("slices", 10.0))}
    kept = {"results": 5, "twice": 0, "failures": {}, "status": 0}
    parts = {
        "restart": {"seconds": 8.0, "peak": 240e6}, "empty": {"seconds": 0.003}, "smalls": times, "pair": {"gain": 1.9},
        "kills": kept | {"killed": 3}, "poison": kept | {"failures": {"a": "b"}, "status": 1}, "driver": kept | {"before": 2},
        "share": kept | {"files": 7},
    }  # fmt: skip
    assert set(parts) == set(readme_page.ARCHIVE)
    text = tables.archive({name: {"scans": 5, **row} for name, row in parts.items()})
    found = [line.strip("| ").split(" | ")[-1] for line in text.splitlines()[2:]]
    assert found == [
        "8.0 s, 240 MB", "3.0 ms", "1.30 times (1.30) (`--jobs 1`), 1.10 times (1.10) (`--jobs 2`)", "1.90 times",
        "5 results, 0 twice, 0 written down as failed", "5 results, 0 twice, 1 written down as failed, exit 1",
        "5 results, 0 twice, 0 written down as failed", "5 results, 0 twice, 0 written down as failed",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("part", ["restart", "empty"])
def test_runs_over_many_scans_are_measured(part):
    archive = pytest.importorskip("benchmarks.archive", reason="the extra cluster is not installed", exc_type=ModuleNotFoundError)
    found = archive.measure(threads=2, part=part, quick=True, rounds=1)
    assert found["scans"] == archive.QUICK[part]
    assert found[{"restart": "peak", "empty": "ended"}[part]] > 0
