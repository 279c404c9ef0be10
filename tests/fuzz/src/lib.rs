//! Fuzz targets for input that the gateway does not trust. The targets are in `tests/fuzz.rs`.
