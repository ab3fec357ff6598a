"""Colours as numbers: contrast on a ground, and how they look to colour-blind readers."""

import numpy as np

COLOUR_BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
                   (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
                     (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
                   (0.004733, 0.691367, 0.303900)),
}  # fmt: skip
"""Machado, Oliveira & Fernandes, IEEE TVCG 2009, doi:10.1109/TVCG.2009.113, severity 1."""


def channels(colour: str) -> np.ndarray:
    """Red, green and blue of `#rrggbb`, each in [0, 1]."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def hexadecimal(rgb: np.ndarray) -> str:
    """The colour as `#rrggbb`."""
    return "#" + "".join(f"{round(255 * float(x)):02x}" for x in np.clip(rgb, 0, 1))


def rgba(colour: str, opacity: float) -> str:
    """A colour with an opacity; a solid one stays `#rrggbb`."""
    if opacity >= 1:
        return colour
    red, green, blue = (round(255 * x) for x in channels(colour))
    return f"rgba({red},{green},{blue},{opacity:.3g})"


def linear(rgb: np.ndarray) -> np.ndarray:
    """SRGB values without their gamma curve (IEC 61966-2-1)."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    one, two = (float(linear(channels(x)) @ (0.2126, 0.7152, 0.0722)) for x in (a, b))
    return (max(one, two) + 0.05) / (min(one, two) + 0.05)


def over(colour: str, ground: str, opacity: float) -> str:
    """What an eye sees of a colour with an opacity on a ground."""
    return hexadecimal(opacity * channels(colour) + (1 - opacity) * channels(ground))


def readable(colour: str, ground: str, least: float = 3.0, opacity: float = 1.0) -> str:
    """The colour, moved towards black or white until it stands out from the ground.

    Three to one is what WCAG 2.2 (1.4.11) asks of lines and markers.

    Args:
        colour: to be moved.
        ground: what it is read against.
        least: contrast that is enough.
        opacity: with which the colour will be drawn.
    """
    away = np.zeros(3) if contrast("#000000", ground) > contrast("#ffffff", ground) else np.ones(3)
    for share in np.linspace(0, 1, 101):
        moved = hexadecimal((1 - share) * channels(colour) + share * away)
        if contrast(over(moved, ground, opacity), ground) >= least:
            return moved
    return hexadecimal(away)


def distance(a: str, b: str, sight: str | None = None) -> float:
    """CIE76 difference ΔE of two colours, for normal or for colour-blind sight."""
    return float(np.linalg.norm(_lab(a, sight) - _lab(b, sight)))


def _lab(colour: str, sight: str | None) -> np.ndarray:
    """CIE L*a*b* under D65."""
    rgb = linear(channels(colour))
    if sight is not None:
        rgb = np.clip(np.array(COLOUR_BLIND[sight]) @ rgb, 0, 1)
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = np.array(to_xyz) @ rgb / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
