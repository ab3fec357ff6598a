"""Provenance inside pictures, and bytes that are the same whenever the same picture is made.

Same machine, same browser, same fonts: then PDF, SVG and PNG are byte-identical. PDFs lose their
dates and SVGs their random ids; what the picture was made from stands in the PDF's subject, the
PNG's text and the SVG's metadata.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import plotly.graph_objects as go

from workbench.errors import InvalidValueError
from workbench.figures.browser import Format

KEY = "provenance"
MADE = "D:20000101000000Z"
"""The date every PDF bears; when it was really made stands in the file beside it."""
RANDOM_ID = re.compile(r"\b(topdefs-|defs-|clip|legend|g)([0-9a-f]{6})(?=xy|x|y|-cb|[\"')])")
"""How plotly.js names the parts of one drawing; all of them bear the same six digits."""


def with_stable_ids(figure: go.Figure) -> go.Figure:
    """A copy whose traces have the same ids in every process."""
    copy = go.Figure(figure)
    for i, trace in enumerate(copy.data):
        trace.uid = f"t{i:05d}"
    return copy


def stamp(picture: bytes, form: Format, provenance: Mapping[str, Any]) -> bytes:
    """The picture with its provenance inside."""
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=False)
    return _STAMP[form](picture, text)


def read_provenance(path: Path) -> dict[str, Any]:
    """What a picture was made from.

    Raises:
        InvalidValueError: it is not a picture of this workbench.
    """
    try:
        return json.loads(_READ[path.suffix.removeprefix(".")](path.read_bytes()))
    except (KeyError, ValueError, TypeError, OSError, SyntaxError) as error:
        raise InvalidValueError(
            f"{path} bears no provenance; give a PDF, SVG or PNG that `workbench figures export` "
            "has made."
        ) from error


def _stamp_pdf(picture: bytes, text: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it remarks on how Chromium counts objects
    writer = PdfWriter(clone_from=PdfReader(BytesIO(picture)))
    writer.metadata = None
    writer.add_metadata(
        {"/Subject": text, "/Creator": "immunisation-workbench", "/Producer": "Skia/PDF, pypdf",
         "/CreationDate": MADE, "/ModDate": MADE}
    )  # fmt: skip
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def _stamp_png(picture: bytes, text: str) -> bytes:
    from PIL import Image, PngImagePlugin

    info, out = PngImagePlugin.PngInfo(), BytesIO()
    info.add_itxt(KEY, text)
    with Image.open(BytesIO(picture)) as image:
        image.save(out, "png", pnginfo=info, dpi=(300, 300), optimize=False)
    return out.getvalue()


def _stamp_svg(picture: bytes, text: str) -> bytes:
    drawn = picture.decode()
    drawn = RANDOM_ID.sub(r"\g<1>000000", drawn)
    head, end, rest = drawn.partition(">")
    return f"{head}{end}<metadata>{escape(text)}</metadata>{rest}".encode()


def _read_pdf(picture: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        found = PdfReader(BytesIO(picture)).metadata
    except PyPdfError as error:
        raise ValueError(f"no PDF: {error}") from error
    return (found.subject if found else None) or ""


def _read_png(picture: bytes) -> str:
    from PIL import Image

    with Image.open(BytesIO(picture)) as image:
        return image.info[KEY]


def _read_svg(picture: bytes) -> str:
    found = ElementTree.fromstring(picture).find("{http://www.w3.org/2000/svg}metadata")
    return (found.text if found is not None else None) or ""


_STAMP: dict[str, Callable[[bytes, str], bytes]] = {
    "pdf": _stamp_pdf, "png": _stamp_png, "svg": _stamp_svg,
}  # fmt: skip
_READ: dict[str, Callable[[bytes], str]] = {"pdf": _read_pdf, "png": _read_png, "svg": _read_svg}
