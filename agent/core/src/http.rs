//! Bytes of a request head, checked strictly before anything interprets them.
