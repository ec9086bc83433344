"""Serving the page to the browser of this machine, and to nobody else."""

from __future__ import annotations

import secrets
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.core.validation import silence
from bokeh.core.validation.warnings import EMPTY_LAYOUT
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from jinja2 import Environment, PackageLoader, StrictUndefined
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from steptrace_analyzer.view.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bokeh.document import Document

    from steptrace_analyzer.view.run import Run

silence(EMPTY_LAYOUT)  # of a second run's pictures, which are made when they are wanted

_HOST: Final = "127.0.0.1"
_TOKEN_BYTES: Final = 32
_UNUSED_MS: Final = 60_000  # after which a page that was closed is forgotten


class View:
    """A server of one page about some runs, on a free port of 127.0.0.1.

    The address holds a secret: what is asked without it is refused, the page's websocket too, which
    takes only connections that the page itself opens.

    Parameters
    ----------
    runs
        The runs to look at.

    Examples
    --------
    >>> view = View(open_runs(["run.zarr"]))  # doctest: +SKIP
    >>> print(view.url)  # doctest: +SKIP
    >>> view.run()  # until it is interrupted  # doctest: +SKIP
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        sockets, port = bind_sockets(_HOST, 0)
        tornado = BokehTornado(
            {"/": Application(FunctionHandler(self._open))},
            prefix=token,
            extra_websocket_origins=[f"{_HOST}:{port}"],
            unused_session_lifetime_milliseconds=_UNUSED_MS,
            ico_path="none",
            default_handler_class=_Refused,
        )
        http = HTTPServer(tornado)
        http.add_sockets(sockets)
        self._server = BaseServer(IOLoop.current(), tornado, http)
        self._server.start()
        self.url = f"http://{_HOST}:{port}/{token}/"

    def run(self, begun: Callable[[], Any] = lambda: None) -> None:
        """Serve until interrupted.

        Parameters
        ----------
        begun
            Called once the server answers.
        """
        loop = self._server.io_loop
        loop.add_callback(begun)
        try:
            loop.start()
        finally:
            self._server.stop()

    def stop(self) -> None:
        """Have :meth:`run` return; from any thread."""
        loop = self._server.io_loop
        loop.add_callback(loop.stop)

    def _open(self, document: Document) -> None:
        Session(document, self._runs)
        template, css = _page()
        document.template = template
        document.template_variables["css"] = css


class _Refused(RequestHandler):  # type: ignore[misc]
    """Answers whatever does not begin with the secret."""

    def prepare(self) -> None:
        self.set_status(403)
        self.finish("Open the address that steptrace printed, with all of its path.")


def _page() -> tuple[Any, str]:
    loader = PackageLoader("steptrace_analyzer.view")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    parts = files("steptrace_analyzer.report") / "colours.css", files(__package__) / "view.css"
    css = "".join(part.read_text(encoding="utf-8") for part in parts)
    return environment.get_template("view.html"), css


def open_browser(url: str) -> Callable[[], Any]:
    """Return what opens an address in the user's browser."""
    import webbrowser

    return partial(webbrowser.open, url)
