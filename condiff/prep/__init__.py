"""Prepared data sets: photos in, parquet shards out."""
