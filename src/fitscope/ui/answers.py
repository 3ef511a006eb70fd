"""Answers of the server: JSON, and numbers behind a header."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from fitscope.ui.describe import plain


def json_answer(value: Any) -> Response:
    """JSON, with words for what JSON cannot say."""
    return JSONResponse(plain(value))


def binary_answer(header: dict[str, Any], values: NDArray[np.float32]) -> Response:
    """The length of the header (uint32), the header as JSON, padded to 4 bytes, the values."""
    try:
        # Of a thousand sites much faster than `plain`.
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError):
        text = json.dumps(plain(header), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I", len(text)) + text + values.astype("<f4", copy=False).tobytes()
    return Response(body, media_type="application/octet-stream")
