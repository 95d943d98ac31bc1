"""Anybody's map to features of one schema.

In: GeoJSON, GeoPackage, shapefiles, OSM extracts, Overture GeoParquet, GeoNames. Out: a table of features with one taxonomy.

    features      the table
    files         the readers of each format
    taxonomy      categories, and the cleaning of texts, names and geometry
"""
