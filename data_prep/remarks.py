"""What a conversion says once about all of its images: transparency, and values that leave most of 16 bits unused."""

from __future__ import annotations

from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.record import Record

DIM = 1 << 14
"""A set whose 16-bit values all stay below a quarter of the range comes out dark."""


class Remarks:
    """Counts over the records of one conversion."""

    def __init__(self, settings: EncodeSettings):
        self._settings = settings
        self._transparent = self._deep = self._largest = 0

    def note(self, record: Record) -> None:
        self._transparent += record.transparent
        if record.largest is not None:
            self._deep += 1
            self._largest = max(self._largest, record.largest)

    def lines(self) -> list[str]:
        """One for each remark; usually none."""
        lines = []
        if self._transparent:
            lines.append(
                f"{self._transparent:,} images have transparent pixels: they were laid on {self._settings.background} "
                "(--background chooses another colour)"
            )
        elif self._settings.background != EncodeSettings.background:
            lines.append(
                f"warning: --background {self._settings.background} changed nothing: no image has transparent pixels"
            )
        if self._settings.depth is None and self._deep > 0 and self._largest < DIM:
            depth = max(8, (self._largest.bit_length() + 1) // 2 * 2)
            lines.append(
                f"warning: the largest value of {self._deep:,} images of 16 bits is {self._largest:,} of 65,535, so "
                f"they are dark: if they were taken with {depth} bits, convert again with --depth {depth}"
            )
        if self._settings.depth is not None and not self._deep:
            lines.append(
                f"warning: --depth {self._settings.depth} changed nothing: no image has 16 bits a sample without "
                "saying how many are in use"
            )
        return lines
