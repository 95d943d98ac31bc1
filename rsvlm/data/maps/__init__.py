"""Anybody's map to features of one schema.

In: GeoJSON, GeoPackage, shapefiles, OSM extracts, Overture in any format, GeoNames. Out: a table of features with one taxonomy.

    features      the table
    cut_pieces    what tiles cut, put together again
    files         the readers of each format
    overture      features of Overture Maps in any format
    raw           a feature as a map has it
    taxonomy      categories, and the cleaning of texts, names and geometry
"""
