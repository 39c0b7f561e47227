//! What one file of a data directory holds.
