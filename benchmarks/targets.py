"""What this runtime promises, beside what was measured."""

from __future__ import annotations

from typing import Any

from .tables import MISSING, OURS, RIVAL, Row, ratio, table


def targets(results: dict[str, Any], other: dict[str, Any]) -> str:
    """What this runtime promises, beside what was measured; of the ``other`` machine only what differs there."""

    def timed(isa: str, network: str, runner: str, results: dict[str, Any] = results) -> Row | None:
        for row in results.get(f"network-{isa}", {}).get("rows", ()):
            if (row["network"], row["mode"], row["threads"], row["runner"]) == (network, "slice", 1, runner) and "median" in row:
                return row
        return None

    def against(isa: str, network: str, rival: str = RIVAL, results: dict[str, Any] = results) -> str:
        return ratio(timed(isa, network, rival, results), timed(isa, network, OURS, results))

    def fastest(isa: str, network: str) -> str:
        """The float32 peer to beat: under SSE4.2 that need not be OpenVINO."""
        rows = results.get(f"network-{isa}", {}).get("rows", ())
        alike = [row for row in rows if (row["network"], row["mode"], row["threads"]) == (network, "slice", 1)]
        peers = {row["runner"]: row["median"] for row in alike if "median" in row}
        return min(peers.keys() - {OURS, "OpenVINO bf16"}, key=peers.__getitem__, default=RIVAL)

    def seconds(row: Row | None, less: Row | None = None) -> str:
        if not row:
            return MISSING
        median, least = (row[key] - (less[key] if less else 0) for key in ("median", "min"))
        return f"{median:.2f} s ({least:.2f})"

    def two(kind: str, results: dict[str, Any] = results, isa: str = "native") -> str:
        """Two threads, or processes, against one thread."""
        rows = [row for row in results.get(f"cores-{isa}", {}).get("rows", ()) if row["threads"] == 2]
        return ratio(rows[0]["one thread, slice" if kind == "slice" else "one thread"], rows[0][kind]) if rows else MISSING

    def way(threads: int, part: str, slow: str, fast: str, isa: str = "native") -> str:
        """From disk to disk: one contestant against another."""
        rows = [row[part] for row in results.get(f"disk-{isa}", {}).get("rows", ()) if row["threads"] == threads and part in row]
        return ratio(rows[0].get(slow), rows[0].get(fast)) if rows else MISSING

    def head() -> str:
        """A whole head with `brain`, held to AVX2."""
        rows = [row["head"] for row in results.get("disk-avx2", {}).get("rows", ()) if row["threads"] == 2 and "head" in row]
        return f"{seconds(rows[0])}, {rows[0]['peak'] / 1e6:.0f} MB" if rows else MISSING

    def nnunet(threads: int, part: str, patch: int = 256) -> str:
        """nnU-Net's default network: a slice against OpenVINO, a whole case against nnU-Net, or what memory of theirs ours takes."""
        return f"{imported(threads, part, patch, results)}; with AMX {imported(threads, part, patch, other)}"

    def imported(threads: int, part: str, patch: int, results: dict[str, Any]) -> str:
        for row in results.get("nnunet-native", {}).get("rows", ()):
            if (row["threads"], row["patch"]) == (threads, patch):
                runners = {one["runner"]: one for one in row["slice"]}
                ours, theirs = row["case"].values()
                return {
                    "slice": ratio(runners[RIVAL], runners[OURS]),
                    "case": ratio(theirs, ours),
                    "peak": f"{ours['peak'] / theirs['peak']:.2f} times",
                }[part]
        return MISSING

    quantized = {row["runner"]: row for row in results.get("int8", {}).get("rows", {}).get("AVX2", ())}
    start = results.get("startup-native", {}).get("rows", {})
    cold, warm = (start.get("first_slice", {}).get(name) for name in ("monet-edge, cold", OURS))
    errors = [row[key] for name, found in results.items() if name.startswith("network-") for row in found["rows"]
              if row["runner"] == OURS for key in ("error32", "error64") if key in row]  # fmt: skip
    return table(
        ["what", "must", "reach for", "measured: medians (minima)"],
        [
            ["MoNet, one thread, against OpenVINO fp32", "2.2 times", "3 times", against("native", "monet")],
            ["the same with trained weights, those of brain-flair", "2.2 times", "3 times", against("native", "brain-flair")],
            ["MoNet, both held to AVX2", "2.3 times", "2.8 times", against("avx2", "monet")],
            [
                "the same with trained weights, against OpenVINO int8",
                "1.5 times",
                "2 times",
                ratio(*map(quantized.get, ("OpenVINO int8", OURS))),
            ],
            ["MoNet, both held to SSE4.2", "3.6 times", "4.5 times", against("sse4.2", "monet")],
            ["the same, against the fastest float32 peer", "faster", "", against("sse4.2", "monet", fastest("sse4.2", "monet"))],
            ["MoNet, one thread, against OpenVINO bf16", "faster", "1.5 times", against("native", "monet", "OpenVINO bf16")],
            ["the same on a machine with AMX, too wide for MoNet's layers", "", "", against("native", "monet", "OpenVINO bf16", other)],
            ["two threads, volume of slices, against one", "1.9 times", "1.97 times", two("volume")],
            ["the same on a machine with more cores", "1.9 times", "1.97 times", two("volume", other)],
            ["two processes in their place, which share nothing", "", "", two("processes")],
            ["two threads, one slice, against one", "1.7 times", "1.9 times", two("slice")],
            ["the same, held to AVX2", "1.7 times", "1.9 times", two("slice", isa="avx2")],
            ["the same on a machine with more cores", "1.7 times", "1.9 times", two("slice", other)],
            ["U-Net-16, one thread, against OpenVINO fp32", "1.8 times", "2.4 times", against("native", "unet-16")],
            ["U-Net-64, one thread, against OpenVINO fp32", "1.8 times", "2.4 times", against("native", "unet-64")],
            ["largest difference of a probability, all rows", "1e-4", "5e-5", f"{max(errors):.1e}" if errors else MISSING],
            [
                "the whole command beside its slices, 512x512x150, two threads",
                "at most 1.3 times",
                "1.1 times",
                way(2, "one", "command", "slices"),
            ],
            ["the same, held to AVX2", "at most 1.2 times", "1.1 times", way(2, "one", "command", "slices", "avx2")],
            ["one thread", "at most 1.12 times", "1.06 times", way(1, "one", "command", "slices")],
            ["one thread, held to AVX2", "at most 1.12 times", "1.06 times", way(1, "one", "command", "slices", "avx2")],
            ["48 small volumes, two threads", "at most 1.25 times", "1.1 times", way(2, "many", "command", "slices")],
            ["a head of 256x256x256 by `brain`, two threads, held to AVX2", "10 s, 400 MB", "7 s", head()],
            [
                "the job with nibabel, SciPy and OpenVINO against ours, two threads",
                "2.5 times",
                "3 times",
                way(2, "one", "peer", "command"),
            ],
            [
                "nnU-Net's default 2-D network, 256x256, one slice, one thread, against OpenVINO fp32",
                "1.5 times",
                "2 times",
                nnunet(1, "slice"),
            ],
            ["the same, 512x512", "1.5 times", "2 times", nnunet(1, "slice", 512)],
            ["a whole case of 256x256, two threads, against nnU-Net's predictor", "4 times", "6 times", nnunet(2, "case")],
            ["the same, 512x512", "4 times", "6 times", nnunet(2, "case", 512)],
            ["memory of such a process of one thread, beside nnU-Net's, 256x256", "at most 0.2 times", "", nnunet(1, "peak")],
            ["of two threads", "at most 0.2 times", "", nnunet(2, "peak")],
            ["of one thread, 512x512", "at most 0.2 times", "", nnunet(1, "peak", 512)],
            ["of two threads, 512x512", "at most 0.2 times", "", nnunet(2, "peak", 512)],
            ["compilation (cold less warm first slice)", "2.5 s", "1.5 s", seconds(cold, warm)],
            ["start to end of the first slice, warm", "0.6 s", "0.4 s", seconds(warm)],
            ["peak memory of a process with one slice", "200 MB", "150 MB", f"{warm['peak'] / 1e6:.0f} MB" if warm else MISSING],
        ],
    )
