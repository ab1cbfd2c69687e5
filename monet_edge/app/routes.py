"""What the page may ask for. Paths are relative to the token, which `guard` has taken off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import formats, phantom
from ..about import DISCLAIMER, __version__
from ..errors import MonetError, ScanError
from ..registry import card
from ..volume.geometry import spacing
from ..weights import Weights
from . import results
from .cases import LIMIT, Case, Cases, TooLarge
from .findings import HIGHEST, LOWEST, tell, with_threshold
from .worker import Worker, explain

FILES = {  # of the page, with what they are
    "index.html": "text/html",
    "app.css": "text/css",
    "app.js": "text/javascript",
    "elements.js": "text/javascript",
    "found.js": "text/javascript",
    "viewer.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "niivue.umd.js": "text/javascript",
}
JSON_BYTES = 1 << 12  # of a request that is no file


class Page:
    """The page's server side.

    Parameters
    ----------
    cases : Cases
    worker : Worker
    models : mapping of str to Weights
        That can be chosen.
    """

    def __init__(self, cases: Cases, worker: Worker, models: Mapping[str, Weights]) -> None:
        self._cases, self._worker, self._models = cases, worker, models

    def application(self) -> Starlette:
        """The ASGI application."""
        case = "/cases/{case}"
        return Starlette(
            exception_handlers={KeyError: _missing, ClientDisconnect: _gone, MonetError: self.refused, Exception: self.refused},
            routes=[
                Route("/", self.file),
                Route("/static/{name}", self.file),
                Route("/models", self.models),
                Route("/models/{model}", self.card),
                Route("/cases", self.open, methods=["POST"]),
                Route(case, self.close, methods=["DELETE"]),
                Route(case, self.state, methods=["GET"]),
                Route(f"{case}/files", self.receive, methods=["POST"]),
                Route(f"{case}/phantom", self.phantom, methods=["POST"]),
                Route(f"{case}/header", self.header, methods=["POST"]),
                Route(f"{case}/scan.nii", self.scan),
                Route(f"{case}/mask.nii", self.mask),
                Route(f"{case}/work", self.work, methods=["POST"]),
                Route(f"{case}/work", self.stop, methods=["DELETE"]),
                Route(f"{case}/threshold", self.threshold, methods=["POST"]),
                Route(f"{case}/results/{{name}}", self.result),
            ],
        )

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in FILES:
            return PlainTextResponse("no such file", 404)
        folder = "vendor" if name.startswith("niivue") else "page"
        return Response(resources.files(__package__).joinpath(folder, name).read_bytes(), media_type=FILES[name])

    async def models(self, request: Request) -> Response:
        """What can be chosen, and what is taken."""
        about = [
            {
                "name": name,
                "contents": weights.contents,
                **{key: weights.provenance.stated(key) for key in ("modality", "dice", "licence")},
            }
            for name, weights in self._models.items()
        ]
        kinds = {"scans": list(formats.SCANS), "limit": LIMIT}
        return JSONResponse({"models": about, "version": __version__, "disclaimer": DISCLAIMER, **kinds})

    async def card(self, request: Request) -> Response:
        """The card of a shipped model; empty for others."""
        weights = self._models[request.path_params["model"]]
        return PlainTextResponse(await run_in_threadpool(card, weights.name, weights.sha256))

    async def open(self, request: Request) -> Response:
        """A new case, without files."""
        return JSONResponse({"case": self._cases.make().name}, 201)

    async def close(self, request: Request) -> Response:
        """Stop, forget, remove."""
        self._cases.close(request.path_params["case"])
        return Response(status_code=204)

    async def state(self, request: Request) -> Response:
        """What a case is at, and what was found."""
        case = self._case(request)
        told = {"state": case.state, "stage": case.stage, "done": case.done, "total": case.total, "error": case.error}
        found = case.found  # looked at last: it is there before the state says so
        return JSONResponse({**told, "ahead": self._worker.ahead(case), "found": None if found is None else tell(found)})

    async def receive(self, request: Request) -> Response:
        """A file of a case: its bytes are the body, its name is ``?name=``."""
        declared = request.headers.get("content-length", "0")
        self._cases.demand_room(int(declared))  # h11 has seen that it is a number
        with self._cases.receive(self._case(request), request.query_params.get("name", "")) as receiver:
            async for part in request.stream():
                receiver.write(part)
        return Response(status_code=204)

    async def phantom(self, request: Request) -> Response:
        """A synthetic head instead of a file."""
        path = self._case(request).folder / "files" / "phantom.nii.gz"
        await run_in_threadpool(lambda: phantom.save(phantom.make()[0], path))
        return Response(status_code=204)

    async def header(self, request: Request) -> Response:
        """All files are there: what scan they are, or which series they hold, one of which ``?series=`` chooses."""
        case, wanted = self._case(request), request.query_params.get("series")
        try:
            header = await run_in_threadpool(case.look, wanted)
        except ScanError:
            several = {} if wanted else await run_in_threadpool(case.series)
            if not several:
                raise
            return JSONResponse({"series": [{"number": number, "text": text} for number, text in several.items()]})
        about = {"shape": list(header.shape), "spacing": spacing(header.affine), "volumes": header.volumes}
        return JSONResponse({**about, "masks": results.endings(header)})

    async def scan(self, request: Request) -> Response:
        """The scan for the viewer."""
        case, volume = self._case(request), request.query_params.get("volume", "0")
        if case.header is None or not volume.isdecimal():
            raise ScanError("there is no such scan")
        scan = await run_in_threadpool(formats.read, case.header, int(volume))
        return _streamed(*results.shown(scan.voxels, scan, scan.slope, scan.inter))

    async def mask(self, request: Request) -> Response:
        """The mask for the viewer."""
        found = self._case(request).found
        if found is None:
            raise ScanError("there is no mask yet")
        return _streamed(*results.shown(found.finding.mask, found.finding.scan))

    async def work(self, request: Request) -> Response:
        """Segment a case: ``{"model": NAME, "volume": NUMBER}``."""
        case, asked = self._case(request), await _json(request)
        volume = asked.get("volume", 0)
        if case.state in ("new", "waiting", "working") or not isinstance(volume, int) or volume < 0:
            raise ScanError("this scan cannot be segmented now")
        self._worker.ask(case, self._models[str(asked.get("model"))], volume)
        return Response(status_code=202)

    async def stop(self, request: Request) -> Response:
        """Stop segmenting."""
        self._worker.stop(self._case(request))
        return Response(status_code=204)

    async def threshold(self, request: Request) -> Response:
        """Another threshold: ``{"threshold": NUMBER}``; answers as `state`."""
        case, threshold = self._case(request), (await _json(request)).get("threshold")
        if not isinstance(threshold, (int, float)) or not LOWEST <= threshold <= HIGHEST:
            raise ScanError(f"threshold: expected {LOWEST} to {HIGHEST}")
        await run_in_threadpool(_set_threshold, case, float(threshold))
        return await self.state(request)

    async def result(self, request: Request) -> Response:
        """A result as a file to be saved."""
        case, name = self._case(request), request.path_params["name"]
        path = await run_in_threadpool(_make, case, name)
        return FileResponse(path, media_type="application/octet-stream", headers={"Content-Disposition": "attachment"})

    async def refused(self, request: Request, error: Exception) -> Response:
        """One line for whoever sits before the page."""
        case = None
        with suppress(KeyError):  # none is meant, or it is gone
            case = self._case(request)
        status = 413 if isinstance(error, TooLarge) else 422 if isinstance(error, MonetError) else 500
        close = {"Connection": "close"}  # what was sent may not have been read to its end
        return JSONResponse({"error": explain(error, case)}, status, close)

    def _case(self, request: Request) -> Case:
        return self._cases[request.path_params["case"]]


async def _missing(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this is not here any more: drop the scan again"}, 404)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def _set_threshold(case: Case, threshold: float) -> None:
    with case.lock:
        if case.found is None or case.found.likely is None:
            raise ScanError("there is no threshold to set: the likeliest of several labels counts")
        case.found = with_threshold(case.found, threshold)


def _make(case: Case, name: str) -> Path:
    """The file of a result, made anew: a threshold may have changed."""
    with case.lock:
        if case.found is None:
            raise ScanError("there is no result yet")
        path = case.folder / "results" / name
        maker = results.makers(len(case.found.weights.preprocess.labels))[name]
        path.unlink(missing_ok=True)
        maker(path, case.found)
        return path


def _streamed(size: int, parts: Any) -> Response:
    return StreamingResponse(parts, media_type="application/octet-stream", headers={"Content-Length": str(size)})


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > JSON_BYTES:
            raise TooLarge(f"more than {JSON_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MonetError("expected an object of JSON")
    return found
