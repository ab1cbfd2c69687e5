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
from ..options import ChangesOption, DeviceOption, NetOption, QuietOption, RunOption, SizeOption

if TYPE_CHECKING:
    from ..config import Settings
    from .settings import Federation

RoundsOption = Annotated[int, typer.Option(min=1, help="How often the sites' networks are averaged.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Epochs that every site trains in a round.")]
MinimumOption = Annotated[int, typer.Option(min=0, help="Fewer valid replies keep the old network. Default: all sites.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Longest wait for sites to connect, in seconds.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Longest wait for the replies of a round, in seconds.")]
CompressionOption = Annotated[str, typer.Option("--compress", help="Of what travels: none, float16 or int8.")]
BatchNormOption = Annotated[str, typer.Option(help="averaged, or local: every site trains with its own (FedBN).")]
MomentumOption = Annotated[float, typer.Option(help="Share of its last step that the server takes again (FedAvgM); 0 is FedAvg.")]
NoiseOption = Annotated[float, typer.Option(min=0, help="Noise multiplier of differential privacy; 0 is without.")]
ClipOption = Annotated[float, typer.Option(help="Longest update of a site (L2 norm) where there is noise.")]
SlicesOption = Annotated[int, typer.Option(min=1, help="A site that claims to have trained on more is not believed.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last round of the run in --output.")]
CertificateAuthority = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Who signed the server's certificate (PEM).")]


def federated(
    datasets: Annotated[list[Path], typer.Argument(metavar="DATASET...", help="One data set or prepared folder for every site.")],
    output: RunOption,
    like: Annotated[Path | None, typer.Option(help="A run of `fit` whose settings to use.")] = None,
    net: NetOption = "monet",
    size: SizeOption = 256,
    changes: ChangesOption = None,
    rounds: RoundsOption = 100,
    epochs: EpochsOption = 1,
    minimum: MinimumOption = 0,
    wait: WaitOption = 600.0,
    timeout: TimeoutOption = 3600.0,
    compression: CompressionOption = "none",
    batch_norm: BatchNormOption = "averaged",
    momentum: MomentumOption = 0.6,
    noise: NoiseOption = 0.0,
    clip: ClipOption = 1.0,
    most_slices: SlicesOption = 100_000,
    device: DeviceOption = "",
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train one network at several sites, all on this machine: a rehearsal with Flower's real processes, on loopback."""
    from ..config_text import read_settings
    from .launch import train_here
    from .settings import Federation

    if like and (net, size, changes) != ("monet", 256, None):
        raise MonetError("--like takes all settings from a run: leave out --net, --size and --set")
    names = [dataset.resolve().name for dataset in datasets]
    if len(set(names)) < len(names):
        raise MonetError(f"the data sets need different names, found {', '.join(names)}")
    count = len(names)
    federation = Federation(
        rounds=rounds,
        epochs=epochs,
        sites=count,
        minimum=minimum or count,
        wait=wait,
        timeout=timeout,
        compression=compression,
        batch_norm=batch_norm,
        momentum=momentum,
        noise=noise,
        clip=clip,
        most_examples=most_slices,
    )
    sites = {name: options.prepared(dataset, output / "sites" / name, None, quiet) for name, dataset in zip(names, datasets, strict=True)}
    settings = read_settings(like) if like else _settings(net, size, changes or [], next(iter(sites.values())).labels)
    with _rounds_bar(f"training {settings.net} at {count} sites", federation, quiet) as progress:
        model = train_here(sites, settings, federation, output, resume=resume, device=device, progress=progress)
    _tell(model, quiet)


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
    rounds: RoundsOption = 100,
    epochs: EpochsOption = 1,
    minimum: MinimumOption = 0,
    wait: WaitOption = 600.0,
    timeout: TimeoutOption = 3600.0,
    compression: CompressionOption = "none",
    batch_norm: BatchNormOption = "averaged",
    momentum: MomentumOption = 0.6,
    noise: NoiseOption = 0.0,
    clip: ClipOption = 1.0,
    most_slices: SlicesOption = 100_000,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """The server of a federated training: wait for the sites, train with them, export, end."""
    from ..config_text import read_settings
    from .launch import serve
    from .run import Tls
    from .settings import Federation

    given = [certificate, private_key, authority]
    if any(given) and not all(given):
        raise MonetError("TLS needs --certificate, --key and --authority")
    tls = Tls(certificate, private_key, authority) if certificate and private_key and authority else None
    settings = read_settings(like)
    federation = Federation(
        rounds=rounds,
        epochs=epochs,
        sites=sites,
        minimum=minimum or sites,
        wait=wait,
        timeout=timeout,
        compression=compression,
        batch_norm=batch_norm,
        momentum=momentum,
        noise=noise,
        clip=clip,
        most_examples=most_slices,
    )
    with _rounds_bar(f"training {settings.net} with {sites} sites", federation, quiet) as progress:
        model = serve(settings, federation, output, host=host, port=port, tls=tls, keys=site_keys or [], resume=resume, progress=progress)
    _tell(model, quiet)


def federated_site(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server listens.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="This site's data set, or a folder that `prepare` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="This site's own folder: prepared scans, log, memory.")],
    name: Annotated[str, typer.Option(help="What the others may call this site; it goes into the exported file.")],
    authority: CertificateAuthority = None,
    private_key: Annotated[Path | None, typer.Option("--key", exists=True, dir_okay=False, help="This site's private key.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Longest time without a server, in seconds.")] = 3600.0,
    device: DeviceOption = "",
    quiet: QuietOption = False,
) -> None:
    """A site of a federated training: train on this machine's scans whenever the server asks, until Ctrl-C."""
    from .launch import join

    prepared = options.prepared(dataset, output / "prepared", None, quiet)
    if not quiet:
        print(f"{name}: {len(prepared.keys)} patients ready for {server}; scans stay here. Stop with Ctrl-C.", flush=True)
    join(prepared, name, server, output, authority=authority, key=private_key, device=device, wait=wait)


def _settings(net: str, size: int, changes: list[str], labels: tuple[str, ...]) -> Settings:
    from monet_edge.architectures import ARCHITECTURES
    from monet_edge.preprocess import Preprocess

    from ..config import STRONG, Settings
    from ..config_text import override

    options.one_of("--net", net, ARCHITECTURES)
    record = Preprocess(size=size, slicing="axial", context=0, intensity="zscore", low=-3.0, high=6.0, threshold=0.5, labels=labels)
    return Settings("federated", net, record, False, override(STRONG, changes), 0, False)


@contextmanager
def _rounds_bar(title: str, federation: Federation, quiet: bool) -> Iterator[Callable[[int], None]]:
    with progress_bar(f"{title}, {federation.rounds} rounds", quiet) as bar:
        told = -1

        def progress(done: int) -> None:
            nonlocal told
            if bar is not None:
                bar(done, federation.rounds)
            elif not quiet and done != told and done:
                print(f"round {done}/{federation.rounds}", flush=True)
            told = done

        yield progress


def _tell(model: Path, quiet: bool) -> None:
    if not quiet:
        print(f"{model}\nrounds, sites and bytes: {model.with_name('rounds.json')}")
