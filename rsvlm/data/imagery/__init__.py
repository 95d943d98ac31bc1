"""Anybody's imagery into chips.

In: GeoTIFF by file or address, folders, XYZ tiles, MBTiles, STAC items. Out: windows of red, green and blue, with their place.

    sources       what imagery there is, and its chips
    chip_layout   where chips lie
    bands         which bands are red, green, blue and transparency
    values        what values mean: no data, black, white
    windows       pixels of any part of a raster or a mosaic
    ground        outlines of chips, and how much of the ground is under them
    tile_mosaics  mosaics of Web Mercator tiles
    tile_rows     which way rows of tiles count
    band_files    scenes that come as a file for each band
    remote        rasters on web servers, by ranges of bytes
"""
