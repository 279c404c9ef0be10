//! Fuzz targets for everything that strangers send. They are in `tests/fuzz.rs`.
