"""Paths as text that UTF-8, JSON, Parquet and terminals hold, whatever bytes a file's name has."""


def as_text(path: str) -> str:
    r"""A path in which bytes that are no UTF-8 stand as ``\xNN``.

    Python gives such a byte as a lone surrogate, which no encoding writes.

    >>> as_text("caf\udce9.mp3"), as_text("café.mp3")
    ('caf\\xe9.mp3', 'café.mp3')
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return path.encode("utf-8", "backslashreplace").decode("utf-8")
