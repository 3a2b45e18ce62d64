"""multipart/form-data, as far as one audio upload needs it."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP


def fields_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """The form's fields by name; empty for anything that is not a form."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    if message.get_content_type() != "multipart/form-data":
        return {}
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            fields[name] = payload
    return fields
