//! Dialects: a checked request head becomes a call of one cloud.
