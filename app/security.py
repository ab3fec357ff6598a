"""Who may talk to the app: this machine's browser, on the address it was given, with the token.

Dash checks neither Host nor Origin, so any web page could drive an app on loopback (DNS rebinding,
cross-site requests), and on a shared machine so could any other user. Three walls, before every
request: the Host is exactly one of ours, a foreign Origin or a write without one is refused, and
everything needs the token that the printed address carries. The browser is told to load and to
connect nowhere else (docs/decisions/ says why scripts may not call `eval`).
"""

import hmac
from collections.abc import Sequence

from dash import Dash
from flask import Flask, Response, g, request

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
TOKEN = "token"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host in (*LOOPBACK, "::1")


def protect(app: Dash, *, host: str, port: int, token: str | None) -> None:
    """Put the walls in front of an app. Call once its callbacks are all defined.

    Args:
        app: the app.
        host: the address it is served on.
        port: the port.
        token: what every request must carry in the query or as a cookie; None for no such wall.
    """
    policy = content_security_policy(app.csp_hashes())
    names = dict.fromkeys([*LOOPBACK, f"[{host}]" if ":" in host.strip("[]") else host])
    guard(app.server, hosts=[f"{name}:{port}" for name in names], token=token, policy=policy)


def guard(server: Flask, *, hosts: Sequence[str], token: str | None, policy: str) -> None:
    """Refuse what does not come from our own page, and mark every answer with the policy."""
    cookie = "workbench-" + hosts[0].rpartition(":")[2]  # cookies do not know ports

    @server.before_request
    def check() -> Response | None:
        origin = request.headers.get("Origin")
        if request.host not in hosts:
            return _refuse(
                403,
                f"This app answers on {', '.join(hosts)} only. Through ssh use the same port on "
                f"both sides: ssh -L {hosts[0].rpartition(':')[2]}:{hosts[0]} MACHINE",
            )
        if origin is not None and origin != f"{request.scheme}://{request.host}":
            return _refuse(403, "This request comes from another page.")
        if request.method not in ("GET", "HEAD") and origin is None:
            return _refuse(403, "A request that is not a page's own must say where it comes from.")
        if token is None or _same(request.cookies.get(cookie), token):
            return None
        if request.method == "GET" and _same(request.args.get(TOKEN), token):
            g.set_token = True
            return None
        return _refuse(
            401,
            "This app needs its token: open the whole address that was printed in the terminal "
            "when it started. A new start makes a new token.",
        )

    @server.after_request
    def mark(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["Content-Security-Policy"] = policy
        if token is not None and g.get("set_token", False):
            response.set_cookie(cookie, token, httponly=True, samesite="Strict")
            response.headers["Cache-Control"] = "no-store"
        return response


def content_security_policy(script_hashes: Sequence[str]) -> str:
    """Everything from this server only; inline scripts by their hash; no `eval`, no frames.

    Mantine writes its style sheet from a script, which is why styles may be inline.
    """
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", *script_hashes]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "object-src": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _same(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _refuse(status: int, why: str) -> Response:
    return Response(why + "\n", status, mimetype="text/plain")
