"""Recorded results as Markdown tables. Pure functions of the JSON under results/: no figure is typed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monet_train.card import quality_table

OURS, RIVAL = "monet-edge", "OpenVINO fp32"
MISSING = "not measured"
TITLES = {"monet": "MoNet", "unet-16": "U-Net-16", "unet-64": "U-Net-64", "attention-unet": "Attention U-Net"}
Row = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; figures are right-aligned, the first column is not."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def caption(machine: Row, timed: bool = True) -> str:
    """On what, when and with which versions; for times also whether others were at work."""
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    busy = f" (busy with other work: load {machine['load']:.1f} at the start)" if timed and (machine["load"] or 0) > 0.5 else ""
    gpu = f"{machine['gpu']}; " if machine.get("gpu") else ""
    return f"{gpu}{machine['cpu']}, {cores}{busy}; {machine['system']}; {machine['date']}, revision {machine['revision']}; {versions}."


def milliseconds(row: Row) -> str:
    """Minimum and median of a slice."""
    return f"{1e3 * row['min']:.1f} / {1e3 * row['median']:.1f}"


def networks(rows: Sequence[Row]) -> str:
    """For every network and mode, a runner a line: times, how many times ours, distance from PyTorch float32 and float64."""
    sections = []
    for network in dict.fromkeys(row["network"] for row in rows):
        groups: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            if row["network"] == network:
                groups.setdefault((row["mode"], row["threads"]), []).append(row)
        head = [TITLES.get(network, f"{network}, as shipped")]
        columns: dict[str, dict[tuple[str, int], Row]] = {}
        for (mode, threads), group in groups.items():
            what = "one slice" if mode == "slice" else f"volume of {group[0]['slices']}"
            head += [f"{what}, {threads} thread{'s' if threads > 1 else ''}", "ours is faster by"]
            for row in group:
                columns.setdefault(row["runner"], {})[mode, threads] = row
        lines = []
        for runner, found in columns.items():
            cells: list[str] = [f"**{runner}**" if runner == OURS else runner]
            for key, group in groups.items():
                row = found.get(key, {"failed": ""})
                if "failed" in row:
                    cells += [f"failed: {row['failed'].split(':')[0]}" if row["failed"] else "", ""]
                else:
                    cells += [milliseconds(row), "" if row is group[0] else f"{row['median'] / group[0]['median']:.2f}"]
            measured = [row for row in found.values() if "error32" in row]
            cells += [f"{max(row[key] for row in measured):.0e}" if measured else "" for key in ("error32", "error64")]
            lines.append(cells)
        sections.append(table([*head, "max diff from PyTorch fp32", "fp64"], lines))
    return "\n\n".join(sections)


def proof(found: Row) -> str:
    """What the disassembly of our kernels holds."""
    return (
        f"Our kernels as compiled for this run: {found['instructions']:,} instructions, of which {found['zmm']:,} name a 512-bit, "
        f"{found['ymm']:,} a 256-bit and {found['xmm']:,} a 128-bit register; {found['foreign']:,} are foreign to `--isa {found['isa']}`."
    )


def layers(rows: Sequence[Row]) -> str:
    """A network a table, a layer a line: the chosen algorithm's time and rate, the alternatives, and OpenVINO's time for the layer."""
    networks = dict.fromkeys(row["network"] for row in rows)
    return "\n\n".join(_layers(TITLES[network], [row for row in rows if row["network"] == network]) for network in networks)


def _layers(title: str, rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["algorithms"]))
    lines = []
    for row in rows:
        times = row["algorithms"]
        best = min(times, key=lambda name: times[name]["min"])
        chosen = times[row["chosen"]]["min"]
        rate = f"{row['macs'] / chosen / 1e9:.0f}" if row["macs"] else ""
        cells = [f"{1e3 * times[name]['min']:.3f}" if name in times else "" for name in names]
        cells = [f"**{cell}**" if name == row["chosen"] else cell for name, cell in zip(names, cells, strict=True)]
        wrong = "" if chosen <= 1.05 * times[best]["min"] else f"{best} is {chosen / times[best]['min']:.2f} times faster"
        rival = row.get("rival")
        lines.append([row["layer"], row["shape"], rate, *cells, f"{1e3 * rival['min']:.3f} {rival['kind']}" if rival else "",
                      f"{rival['min'] / chosen:.2f}" if rival else "", wrong])  # fmt: skip
    return table([title, "shape", "GMAC/s", *(f"{name}, ms" for name in names), "OpenVINO, ms", "ours is faster by", "wrong choice"], lines)


def cores(rows: Sequence[Row]) -> str:
    """What several threads, and several processes, make of our one thread."""
    lines = []
    for title, name, single in (
        ("volume of slices, {} threads", "volume", "one thread"),
        ("volume of slices, {} processes that share nothing", "processes", "one thread"),
        ("one slice, {} threads", "slice", "one thread, slice"),
    ):
        for found in rows:
            times = milliseconds(found[single]), milliseconds(found[name]), ratio(found[single], found[name])
            lines.append([title.format(found["threads"]), *times])
    return table(["MoNet", "one thread, ms", "several, ms", "faster by: medians (minima)"], lines)


def ratio(slow: Row | None, fast: Row | None) -> str:
    """By how much something is faster, by its median and by its minimum."""
    if not slow or not fast:
        return MISSING
    return f"{slow['median'] / fast['median']:.2f} times ({slow['min'] / fast['min']:.2f})"


def startup(found: Row) -> str:
    """Import, first slice, memory and the command line."""
    imports = table(
        ["in a process of its own", "ms, min / median"], [[f"`{title}`", milliseconds(row)] for title, row in found["imports"].items()]
    )
    first = table(
        ["MoNet, one thread, process start to end of the first slice", "seconds, min / median", "peak memory, MB"],
        [[title, f"{row['min']:.2f} / {row['median']:.2f}", f"{row['peak'] / 1e6:.0f}"] for title, row in found["first_slice"].items()],
    )
    cli = table(
        ["`monet-edge segment` of a 512x512x150 int16 .nii.gz", "seconds", "peak memory, MB"],
        [[f"{n} thread{'s' if n != '1' else ''}", f"{row['min']:.2f}", f"{row['peak'] / 1e6:.0f}"] for n, row in found["cli"].items()],
    )
    return "\n\n".join((first, imports, cli))


def disk(rows: Sequence[Row]) -> str:
    """The whole command beside the time of its slices, beside the peer, and its memory."""

    def seconds(row: Row) -> str:
        return f"{row['median']:.2f} s ({row['min']:.2f})"

    shown = []
    for row in rows:
        depth, height, width = row["ct"]
        n = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        for part, what in (
            ("one", f"`monet-edge segment` of a {width}x{height}x{depth} int16 .nii.gz, `brain-flair`"),
            ("many", f"{row['smalls']} volumes of 79x67x64 in one call, `hippocampus`"),
        ):
            if part in row:
                ours, slices = row[part]["command"], row[part]["slices"]
                shown.append([what, n, seconds(ours), f"{seconds(slices)} in `Model.predict`", ratio(ours, slices)])
            if "dice" in row.get(part, {}):
                what = f"the same job with nibabel, SciPy and OpenVINO; Dice of its mask with ours {row[part]['dice']:.3f}"
                peer = row[part]["peer"]
                shown.append([what, n, seconds(peer), f"{seconds(ours)} by ours", ratio(peer, ours)])
        if "deep" in row:
            peak, volume = (row["deep"][key] / 1e6 for key in ("peak", "volume"))
            shape = "x".join(map(str, row["deep_shape"][::-1]))
            over = f"{peak - volume:.0f} MB more"
            shown.append([f"peak memory of the command, {shape} int16", n, f"{peak:.0f} MB", f"{volume:.0f} MB is the volume", over])
        if "head" in row:
            shape, peak = "x".join(map(str, row["head_shape"][::-1])), row["head"]["peak"] / 1e6
            shown.append([f"`monet-edge segment` of {shape} voxels of 1 mm, `brain`", n, seconds(row["head"]), "", f"peak {peak:.0f} MB"])
    return table(["whole process, warm kernels, medians (minima)", "", "takes", "beside", "which is"], shown)


def nnunet(rows: Sequence[Row]) -> str:
    """Slices of an imported network in every runtime, and whole cases beside nnU-Net's predictor."""
    slices, cases = [], []
    for row in rows:
        n = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        what, first = f"a slice of {row['patch']}x{row['patch']}, {n}", row["slice"][0]
        for one in row["slice"]:
            slices.append([what, one["runner"], milliseconds(one), "" if one is first else ratio(one, first), f"{one['error']:.0e}"])
        ours, theirs = row["case"].values()
        seconds, memory = (" / ".join(f"{one[key] * scale:.{digits}f}" for one in (ours, theirs))
                           for key, scale, digits in (("median", 1, 2), ("peak", 1e-6, 0)))  # fmt: skip
        cases.append([f"{row['slices']} slices of {row['patch']}x{row['patch']}, {n}", seconds, ratio(theirs, ours), memory,
                      f"{ours['peak'] / theirs['peak']:.2f}", f"{row['differ']} of {row['voxels']:,}"])  # fmt: skip
    head = [
        "whole case, ours / nnU-Net's predictor",
        "seconds",
        "ours is faster by",
        "peak memory, MB",
        "ours is of theirs",
        "voxels that differ",
    ]
    top = ["", "runner", "ms, min / median", "ours is faster by", "max diff of logits from PyTorch fp64"]
    return f"{table(top, slices)}\n\n{table(head, cases)}"


def int8(found: Row) -> str:
    """OpenVINO in int8 beside float32 and ours, under every instruction set."""
    lines = []
    for title, rows in found["rows"].items():
        for row in rows:
            ours = row["runner"] == OURS
            apart = ["", "", ""] if ours else [f"{row['median'] / rows[0]['median']:.2f}", f"{row['dice']:.3f}", f"{row['error']:.0e}"]
            lines.append([title if ours else "", f"**{OURS}**" if ours else row["runner"], milliseconds(row), *apart])
    head = ["held to", "`brain-flair`", "one slice, 1 thread", "ours is faster by", "Dice of masks with ours", "max diff of a probability"]
    return f"{table(head, lines)}\n\n{caption(found['machine'])}"


def resolutions(found: Mapping[str, Any] | None) -> str:
    """Dice between masks of one head at several resolutions, and between tiles and whole slices."""
    if not found:
        return "Not measured yet."
    rows, settings = found["rows"], found["settings"]
    shown = []
    for row in rows["heads"]:
        mm, shape = (" x ".join(f"{length:g}" for length in row[key]) for key in ("mm", "shape"))
        each = row["labels"].values()
        least = f", of {len(each)} structures {sum(each) / len(each):.3f} on average, {min(each):.3f} at least" if len(each) > 1 else ""
        shown.append([f"`{settings['model']}`, {mm} mm ({shape})", f"Dice with the mask at 1 mm {row['dice']:.3f}{least}", "0.95"])
    tiles = rows["tiles"]
    pooled = sum(row["dice"] * row["voxels"] for row in tiles) / sum(row["voxels"] for row in tiles)
    one, step = max(row["one_pixel"] for row in tiles), max(row["steps"] / row["steps_whole"] for row in tiles)
    each = ", ".join(f"{row['dice']:.3f}" for row in tiles)
    shown += [
        [f"tiles, {len(tiles)} mosaics of `{settings['data']}`", f"Dice with the whole slices {pooled:.3f} ({each})", "0.98"],
        ["the same, a network of one pixel", f"largest difference of a probability {one:.1e}", "1e-6"],
        ["step of a probability across borders of tiles", f"at most {step:.2f} times that of whole slices, same places", "1.1"],
    ]
    return table(["what", "measured", "must"], shown)


def spacing(found: Row | None) -> str:
    """Dice of two networks, one that squeezes and one that works in millimetres, on copies of the same scans: mean and least case."""
    if not found:
        return "Not measured yet."
    names = ("squeezed", "millimetres")
    shown = [[row["copy"], *(f"{_mean(row[name]):.3f} ({min(row[name]):.3f})" for name in names)] for row in found["rows"]]
    head = ["scans", "squeezed", f"pixels of {found['settings']['mm']:g} mm"]
    return f"{table(head, shown)}\n\n{caption(found['machine'], timed=False)}"


def quality(rows: Mapping[str, Row]) -> str:
    """How well the expected Dice holds, by data set or by what was done to the scans."""
    return "\n".join(quality_table(rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def archive(parts: Mapping[str, Row]) -> str:
    """Runs over many scans, by part: what is promised, and what was found."""

    def failures(row: Row) -> str:
        return f"{row['results']} results, {row['twice']} twice, {len(row['failures'])} written down as failed"

    shown = []
    for name, row in parts.items():
        n = f"{row['scans']:,}"
        if name == "restart":
            shown.append(
                [f"start again over {n} results, all there", "60 s, 300 MB", f"{row['seconds']:.1f} s, {row['peak'] / 1e6:.0f} MB"]
            )
        elif name == "empty":
            shown.append(["a task of Dask's of which nothing is done, two workers", "10 ms", f"{1e3 * row['seconds']:.1f} ms"])
        elif name == "smalls":
            times = ", ".join(f"{ratio(row[way], row['slices'])} (`--{way}`)" for way in ("jobs 1", "jobs 2"))
            shown.append([f"{n} volumes of 79x67x64, `hippocampus`, over their slices' time, two threads", "1.15 times", times])
        elif name == "pair":
            what = f"two workers of one thread beside one, {n} scans of 128x128x24, `brain-flair`"
            shown.append([what, "1.85 times", f"{row['gain']:.2f} times"])
        elif name == "kills":
            what = f"{n} scans on two workers, one of them killed {row['killed']} times"
            shown.append([what, "all, once", failures(row)])
        elif name == "poison":
            shown.append([f"{n} scans, one of which kills its worker", "all but one, exit 1", f"{failures(row)}, exit {row['status']}"])
        elif name == "driver":
            what = f"{n} scans, the run killed after {row['before']} results and begun again"
            shown.append([what, "all, none twice", failures(row)])
        elif name == "share":
            shown.append([f"{n} scans in {row['files']} parts at once", "all, once", failures(row)])
    return table(["", "promised", "found"], shown)
