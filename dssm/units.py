"""Bytes and seconds as a reader sees them: three digits, or two units."""


def bytes_shown(size: float) -> str:
    """Returns bytes for reading.

    >>> bytes_shown(512), bytes_shown(2_500_000), bytes_shown(1.2e13)
    ('512 B', '2.50 MB', '12.0 TB')
    """
    if size < 999.5:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{_three_digits(size)} {unit}"
    return f"{_three_digits(size / 1000)} TB"


def seconds_shown(seconds: float) -> str:
    """Returns a time for reading.

    >>> seconds_shown(0.0123), seconds_shown(83.4), seconds_shown(272), seconds_shown(7500), seconds_shown(3e6)
    ('12.3 ms', '83.4 s', '4 min 32 s', '2 h 5 min', '833 h')
    """
    if 0 < seconds < 0.9995:
        return f"{_three_digits(seconds * 1000)} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    if minutes < 6000:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 3600:,.0f} h"


def _three_digits(number: float) -> str:
    return f"{number:.2f}" if number < 9.995 else f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"
