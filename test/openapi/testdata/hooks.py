"""What schemathesis cannot read from the document."""

import schemathesis
from schemathesis.transport.requests import REQUESTS_TRANSPORT

LIMIT = 128  # bytes of a name; the limit of the document counts characters
WEEK = 7 * 24 * 3600  # seconds: the default of kept.max_ttl, which the document cannot know
UNITS = {"d": 86400, "h": 3600, "ms": 0.001, "m": 60, "s": 1}


@REQUESTS_TRANSPORT.serializer("application/x-ndjson")
def lines(context, payload):
    """Lines of text are sent as they are."""
    return {"data": payload if isinstance(payload, bytes) else str(payload).encode()}


def seconds(ttl):
    """Returns a ttl in seconds."""
    if not isinstance(ttl, str):
        return ttl if isinstance(ttl, (int, float)) else 0
    total, number, rest = 0.0, "", ttl
    while rest:
        if rest[0] in "0123456789.":
            number, rest = number + rest[0], rest[1:]
            continue
        unit = next((u for u in ("ms", "d", "h", "m", "s") if rest.startswith(u)), None)
        if unit is None or not number:
            return 0
        total, number, rest = total + float(number) * UNITS[unit], "", rest[len(unit):]
    return total


def fits(value):
    """Reports whether each text is within the limit in bytes, each ttl within a week, and each deadline within the ttl."""
    if isinstance(value, dict):
        ttl = seconds(value.get("ttl", WEEK))
        return ttl <= WEEK and seconds(value.get("deadline", 0)) <= ttl and all(fits(v) for v in value.values())
    if isinstance(value, list):
        return all(fits(v) for v in value)
    if isinstance(value, str):
        size = len(value.encode("utf-8", "surrogatepass"))
        return size == len(value) or size <= LIMIT
    return True


@schemathesis.hook
def filter_body(context, body):
    return fits(body)


def travels(parameters):
    """Reports whether no value is . or .., which clients and servers take out of a path. A later call may use it there."""
    return not {".", ".."} & set(map(str, (parameters or {}).values()))


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    return fits(path_parameters) and travels(path_parameters)


@schemathesis.hook
def filter_query(context, query):
    # A cursor is what an answer had as its next.
    return fits(query) and travels(query) and (query or {}).get("after", "now") in ("", "now")
