"""Label maps and draws to images and labels: plain tensor operations without a choice of their own, so that they compile.

The order is a scanner's: tissue is placed and moved, has its brightness, is blended into the scan's voxels in all three
directions, gets bias, gamma and noise; then the skull is stripped, and the runtime's normalisation follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import Draw
from .labels import DEPTHS, WHITE_PLACES

BACKGROUND = 0.03  # of the 99.5th percentile: `monet_edge.intensities.measure`
SPOTS = (-0.5, 0.5, 1.5)  # from one cluster to the next; a fifteenth of a lesioned white matter lies above the last


def render(ids: Tensor, draw: Draw, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Make the images of a batch.

    Parameters
    ----------
    ids : (M, Z, H, W) uint8
        See `maps.LabelMaps`.
    draw : Draw
    low, high : float
        Percentiles of the head's foreground that become 0 and 1.

    Returns
    -------
    images : (N, C, S, S) float32 in [0, 1]
        Slices with their neighbours, as the runtime normalises them.
    labels : (N, S, S) uint8
        Of the middle slice.
    """
    scan = acquire(ids, draw)
    voxels = probe(ids, draw, scan.bias, scan.left)
    middle = scan.found.shape[1] // 2
    labels = torch.where(scan.visible[:, scan.visible.shape[1] // 2], _of_ids(draw.labels, scan.found[:, middle]), 0)
    return normalise(scan.slices, voxels, low, high), labels


class Acquired(NamedTuple):
    """What a scanner, and a skull stripping after it, make of a draw.

    Attributes
    ----------
    slices : (N, C, S, S) float32
        Slices with their neighbours, at least 0; 0 where nothing is visible.
    visible : (N, C, S, S) bool
        What no stripping took away and the scan holds.
    found : (N, K, S, S) uint8
        The ids of the planes.
    bias : (N, S, S) float32
        The bias field.
    left : (N,) float32
        How much of the texture's SD is left when voxels are blended.
    """

    slices: Tensor
    visible: Tensor
    found: Tensor
    bias: Tensor
    left: Tensor


def acquire(ids: Tensor, draw: Draw) -> Acquired:
    """Make the slices of a batch as they leave the scanner; arguments as for `render`."""
    found, spots = look_up(ids, draw)
    context, size = draw.grain.shape[1] // 2, draw.grain.shape[-1]
    offsets = torch.arange(-context, context + 1, device=ids.device).float()
    pixels = (torch.arange(size, device=ids.device) - size // 2).float()
    through = acquisition(draw.planes, offsets, draw.thickness[:, 0], draw.phase[:, 0], draw.blur[:, 0])
    rows, columns = (acquisition(pixels[None], pixels, draw.thickness[:, i], draw.phase[:, i], draw.blur[:, i]) for i in (1, 2))
    shade = _between(draw.shade, *draw.texture.shape[1:3])[:, :, 0]
    tissue = brightness(draw, found, cluster(spots), draw.texture, shade, myelin(draw, found))
    slices = torch.einsum("nck,nkyx->ncyx", through, tissue)
    slices = torch.matmul(torch.matmul(rows[:, None], slices), columns[:, None].mT)
    bias = F.interpolate(draw.bias, (size, size), mode="bicubic", align_corners=False)[:, 0].exp()
    slices = scanner(slices, bias[:, None], draw.gamma[:, None, None, None], draw.noise[:, None, None, None], draw.grain)
    kept = torch.einsum("nck,nkyx->ncyx", through, _of_ids(draw.kept, found).float()) > 0.5
    visible = kept & _inside(draw.window, size)
    left = torch.stack([matrix.square().sum(-1).mean(-1) for matrix in (through, rows, columns)]).prod(0).sqrt()
    return Acquired(slices * visible, visible, found, bias, left)


def coordinates(draw: Draw) -> Tensor:
    """Where in the box of its map every voxel of every plane lies: (N, K, S, S, 3) float32, along z, y, x."""
    size, planes = draw.texture.shape[-1], draw.planes.shape[1]
    pixels = (torch.arange(size, device=draw.planes.device) - size // 2).float()
    z = draw.planes[:, :, None, None, None]
    y = (pixels - draw.shift[:, :1])[:, None, :, None, None]
    x = (pixels - draw.shift[:, 1:])[:, None, None, :, None]
    columns = draw.matrix[:, None, None, None].unbind(-1)
    moved = draw.centre[:, None, None, None] + z * columns[0] + y * columns[1] + x * columns[2]
    return moved + _between(draw.bend, planes, size).movedim(2, -1)


def look_up(ids: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The id of every voxel of every plane (N, K, S, S) uint8, and the spots' value there (N, K, S, S) float32."""
    place = coordinates(draw)
    _, *box = ids.shape
    limits = torch.tensor(box, device=ids.device)
    nearest = (place + 0.5).floor().long()
    inside = ((nearest >= 0) & (nearest < limits)).all(-1)
    z, y, x = torch.minimum(nearest.clamp_min(0), limits - 1).unbind(-1)
    flat = ((draw.head[:, None, None, None] * box[0] + z) * box[1] + y) * box[2] + x
    found = torch.where(inside, ids.reshape(-1)[flat], 0)
    return found, _between(draw.spots, place.shape[1], place.shape[2])[:, :, 0]


def _between(controls: Tensor, planes: int, size: int) -> Tensor:
    """Smooth fields (N, 2 F, g, g), of the first plane and of the last, at every voxel between: (N, K, F, S, S)."""
    fine = F.interpolate(controls, (size, size), mode="bicubic", align_corners=False)
    first, last = fine.unflatten(1, (2, -1))[:, None].unbind(2)
    weight = torch.linspace(0, 1, planes, device=controls.device)[:, None, None, None]
    return first + weight * (last - first)


def _of_ids(table: Tensor, found: Tensor) -> Tensor:
    """A table's (N, IDS) values of ids (N, ...)."""
    first = torch.arange(len(table), device=table.device).view(-1, *[1] * (found.dim() - 1)) * table.shape[1]
    return table.reshape(-1)[first + found.long()]


def cluster(spots: Tensor) -> Tensor:
    """Which cluster of its tissue a voxel is of: int64 of the same shape."""
    return sum(((spots > edge).long() for edge in SPOTS), torch.zeros_like(spots, dtype=torch.int64))


def brightness(draw: Draw, found: Tensor, clusters: Tensor, texture: Tensor, shade: Tensor, white: Tensor | float = 0.0) -> Tensor:
    """Brightness of voxels with ids, clusters, normal texture and shade, and a share of white matter's brightness, of one shape (N, ...).

    Never below 0.
    """
    means = _of_ids(draw.means.flatten(1), clusters * draw.means.shape[2] + found.long())
    of_white = draw.means[:, 0, WHITE_PLACES[0] * DEPTHS].view(-1, *[1] * (found.dim() - 1))
    means = means + white * (of_white - means)
    return (means + _of_ids(draw.sds, found) * texture + _of_ids(draw.shades, found) * shade).clamp_min(0)


def myelin(draw: Draw, found: Tensor) -> Tensor:
    """How much of white matter's brightness the voxels of every plane take on: (N, K, S, S) float32, the more the nearer it is.

    A nucleus has no edge where fibres enter it: the thalamus is the brighter the more lateral. Its border must be known by its shape.
    """
    pixels = torch.arange(found.shape[-1], device=found.device).float()
    plane, line = _gaussian(draw.planes, draw.reach), _gaussian(pixels[None], draw.reach)[:, None]
    places = found // DEPTHS
    white = ((places == WHITE_PLACES[0]) | (places == WHITE_PLACES[1])).float()
    near = torch.einsum("nkj,njyx->nkyx", plane, line @ white @ line.mT)
    return _of_ids(draw.myelin, found) * (2 * near).clamp_max(1)  # beside a flat border half of what is near is white


def _gaussian(places: Tensor, sd: Tensor) -> Tensor:
    """A blur of values at places (N or 1, F) by an SD (N,): a matrix (N, F, F) whose rows sum to 1."""
    return torch.softmax(-(places[:, :, None] - places[:, None]).square() / (2 * sd.square()[:, None, None]), dim=-1)


def acquisition(fine: Tensor, wanted: Tensor, thickness: Tensor, phase: Tensor, blur: Tensor) -> Tensor:
    """What a scan's resolution makes of one direction: a matrix from fine positions to wanted ones.

    Parameters
    ----------
    fine : (N or 1, F) float32
        Where the tissue is known, mm.
    wanted : (O,) float32
        Where pixels are wanted, 1 mm apart around 0.
    thickness, phase, blur : (N,) float32
        Of the scan's samples: their width and distance, at least 1 mm; where they begin, as a share of it; the SD of a blur.

    Returns
    -------
    (N, O, F) float32
        Every sample is a Gaussian as wide as the slice at half its height, between samples it is linear. The identity where
        samples are 1 mm wide and lie where pixels are wanted.
    """
    count = len(wanted) + 2
    width = thickness[:, None, None]
    numbers = torch.arange(count, device=wanted.device) - count // 2
    samples = (numbers + phase[:, None])[:, :, None] * width  # (N, J, 1)
    # FWHM = 2.355 SD; what is 1 mm wide is not blurred at all
    variance = (width.square() - 1).clamp_min(0) / 2.355**2 + blur[:, None, None].square()
    profile = torch.softmax(-(fine[:, None] - samples).square() / (2 * variance.clamp_min(1e-3)), dim=-1)
    linear = (1 - (wanted[:, None] - samples.mT).abs() / width).clamp_min(0)
    return linear @ profile


def scanner(slices: Tensor, bias: Tensor, gamma: Tensor, noise: Tensor, grain: Tensor) -> Tensor:
    """Bias field, gamma and noise; magnitudes, as a scanner gives them, are never below 0."""
    return ((slices * bias).clamp_min(1e-6) ** gamma + noise * grain).abs()


def probe(ids: Tensor, draw: Draw, bias: Tensor, left: Tensor) -> Tensor:
    """Voxels from all over the head as the scan would have them: (N, P) float32."""
    found = ids.reshape(-1)[draw.probes]
    tissue = brightness(draw, found, cluster(draw.probe_spots), draw.probe_texture * left[:, None], draw.probe_shade)
    shade = torch.gather(bias.flatten(1), 1, draw.probe_pixels)
    return scanner(tissue, shade, draw.gamma[:, None], draw.noise[:, None], draw.probe_grain) * _of_ids(draw.kept, found)


def normalise(slices: Tensor, voxels: Tensor, low: float, high: float) -> Tensor:
    """What `monet_edge.preprocess` does to a volume with intensities "percentile", its statistics taken from some of its voxels.

    Parameters
    ----------
    slices : (N, C, S, S) float32
        At least 0.
    voxels : (N, P) float32
        Of the whole volume.
    low, high : float
        Percentiles.
    """
    voxels = voxels.sort(dim=1).values
    last = voxels.shape[1] - 1
    floor = BACKGROUND * voxels[:, int(0.995 * last), None]
    count = (voxels > floor).sum(1, keepdim=True)

    def quantile(percent: float) -> Tensor:
        place = last + 1 - count + (percent / 100 * (count - 1)).round().long()
        return torch.gather(voxels, 1, place.clamp(0, last))[:, :, None, None]

    dark, bright = quantile(low), quantile(high)
    scaled = ((slices - dark) / (bright - dark).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(slices > floor[:, :, None, None], scaled, 0.0)


def _inside(window: Tensor, size: int) -> Tensor:
    """Which pixels a scan holds: (N, 1, S, S) bool."""
    pixels = torch.arange(size, device=window.device)
    first_row, last_row, first_column, last_column = window[:, :, None].unbind(1)
    rows, columns = (pixels >= first_row) & (pixels <= last_row), (pixels >= first_column) & (pixels <= last_column)
    return (rows[:, :, None] & columns[:, None])[:, None]
