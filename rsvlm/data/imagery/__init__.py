"""Anybody's imagery into chips.

In: GeoTIFF by file or address, folders, XYZ tiles, MBTiles, STAC items. Out: windows of red, green and blue, with their place.

    sources       what imagery there is, and its chips
    chip_layout   where chips lie
    bands         which bands are red, green, blue and transparency
    values        what values mean: no data, black, white
    windows       pixels of any part of a raster or a mosaic
    tile_mosaics  mosaics of Web Mercator tiles
    remote        rasters on web servers, by ranges of bytes
"""
