"""The commands `federated`, `federated-server` and `federated-site` of monet-train: parse, call one library function, print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monet_edge.errors import MonetError
from monet_edge.terminal import progress_bar

from .. import options
from ..defaults import NET, SLICES
from ..options import DeviceOption, NetOption, QuietOption, RunOption, SiteVolumeOption, SizeOption

if TYPE_CHECKING:
    from ..config import Recipe, Settings
    from ..prepare import Prepared

ChangesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe, or federated.NAME.")
]
FederatedOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting federated.NAME.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last round of the run in --output.")]
CertificateAuthority = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Who signed the server's certificate (PEM).")]


def federated(
    datasets: Annotated[list[Path], typer.Argument(metavar="DATASET...", help="One data set or prepared folder for every site.")],
    output: RunOption,
    like: Annotated[Path | None, typer.Option(help="A run of `fit` whose settings to use.")] = None,
    net: NetOption = NET,
    size: SizeOption = SLICES.size,
    changes: ChangesOption = None,
    device: DeviceOption = "",
    volume: SiteVolumeOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train one network at several sites, all on this machine: a rehearsal with Flower's real processes, on loopback."""
    from ..config_text import read_settings
    from .launch import train_here
    from .settings import PREFIX, make_federation
    from .site import check_site

    ours = [change for change in changes or [] if change.startswith(PREFIX)]
    recipe = [change for change in changes or [] if change not in ours]
    if like and (net, size, recipe) != (NET, SLICES.size, []):
        raise MonetError(f"--like takes all settings from a run: leave out --net, --size and --set, but for --set {PREFIX}NAME=VALUE")
    names = [dataset.resolve().name for dataset in datasets]
    if len(set(names)) < len(names):
        raise MonetError(f"the data sets need different names, found {', '.join(names)}")
    federation = make_federation(len(names), ours)
    known, chosen = read_settings(like) if like else None, _recipe(net, recipe)  # refused before the data sets are prepared
    sites = {
        name: options.prepared(dataset, output / "sites" / name, options.volumes(dataset, volume), quiet)
        for name, dataset in zip(names, datasets, strict=True)
    }
    settings = known or _settings(net, size, chosen, next(iter(sites.values())))
    for prepared in sites.values():
        check_site(settings, prepared)
    with _rounds_bar(f"training {settings.net} at {len(sites)} sites", federation.rounds, quiet) as progress:
        model = train_here(sites, settings, federation, output, resume=resume, device=device, progress=progress)
    _print_paths(model, quiet)


def federated_server(
    like: Annotated[Path, typer.Argument(metavar="RUN", help="A run of `fit` whose settings to use, see its config.json.")],
    output: RunOption,
    sites: Annotated[int, typer.Option(min=1, help="So many must be connected before the first round.")],
    host: Annotated[str, typer.Option(help="Address to listen on. Anything but loopback needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the sites find the server.")] = 8000,
    certificate: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The server's certificate (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option("--key", exists=True, dir_okay=False, help="The certificate's key (PEM).")] = None,
    authority: CertificateAuthority = None,
    site_keys: Annotated[list[Path] | None, typer.Option("--site-key", exists=True, help="A site's public key; once for each.")] = None,
    changes: FederatedOption = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """The server of a federated training: wait for the sites, train with them, export, end."""
    from ..config_text import read_settings
    from .launch import serve
    from .run import Tls
    from .settings import make_federation

    given = [certificate, private_key, authority]
    if any(given) and not all(given):
        raise MonetError("TLS needs --certificate, --key and --authority")
    tls = Tls(certificate, private_key, authority) if certificate and private_key and authority else None
    settings = read_settings(like)
    federation = make_federation(sites, changes or [])
    with _rounds_bar(f"training {settings.net} with {sites} sites", federation.rounds, quiet) as progress:
        model = serve(settings, federation, output, host=host, port=port, tls=tls, keys=site_keys or [], resume=resume, progress=progress)
    _print_paths(model, quiet)


def federated_site(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server listens.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="This site's data set, or a folder that `prepare` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="This site's own folder: prepared scans, log, memory.")],
    name: Annotated[str, typer.Option(help="This site's name, as the server and the exported file show it.")],
    authority: CertificateAuthority = None,
    private_key: Annotated[Path | None, typer.Option("--key", exists=True, dir_okay=False, help="This site's private key.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Longest time without a server, in seconds.")] = 3600.0,
    device: DeviceOption = "",
    volume: SiteVolumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """A site of a federated training: train on this machine's scans whenever the server asks, until Ctrl-C."""
    from .launch import join

    prepared = options.prepared(dataset, output / "prepared", options.volumes(dataset, volume), quiet)
    if not quiet:
        print(f"{name}: {len(prepared.keys)} patients ready for {server}; scans stay here. Stop with Ctrl-C.", flush=True)
    join(prepared, name, server, output, authority=authority, key=private_key, device=device, wait=wait)


def _recipe(net: str, changes: list[str]) -> Recipe:
    """Recipe `strong` with changes, of a network that exists."""
    from monet_edge.architectures import ARCHITECTURES

    from ..config import STRONG
    from ..config_text import override
    from .settings import AT_SITES

    options.one_of("--net", net, ARCHITECTURES)
    for change in changes:
        if change.partition("=")[0] in ("epochs", *AT_SITES):
            raise MonetError(f"--set {change}: fixed at the sites, which train federated.rounds times federated.epochs epochs")
    return override(STRONG, changes)


def _settings(net: str, size: int, recipe: Recipe, first: Prepared) -> Settings:
    """Of a training at sites that have the labels and the images of the first."""
    from ..config import Settings, make_preprocess
    from ..dataset import image_names

    record = make_preprocess(first.labels, image_names(first), size=size)
    return Settings(dataset="federated", net=net, preprocess=record, recipe=recipe)


@contextmanager
def _rounds_bar(title: str, rounds: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar, or where there is no terminal a line a round."""
    with progress_bar(f"{title}, {rounds} rounds", quiet) as bar:
        printed = 0

        def progress(done: int) -> None:
            nonlocal printed
            if bar is not None:
                bar(done, rounds)
            elif not quiet and done > printed:
                print(f"round {done}/{rounds}", flush=True)
                printed = done

        yield progress


def _print_paths(model: Path, quiet: bool) -> None:
    if not quiet:
        print(f"{model}\nrounds, sites and bytes: {model.with_name('rounds.json')}")
