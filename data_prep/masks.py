"""Masks are `sayo.geometry.masks`; this name stays until every source imports them there."""

from sayo.geometry.masks import Rle, agree, box_of, encode, encode_pixels, extent

Drawn = Rle
__all__ = ["Drawn", "Rle", "agree", "box_of", "encode", "encode_pixels", "extent"]
