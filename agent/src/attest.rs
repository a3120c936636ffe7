//! Who is calling: facts recorded by the kernel become selectors. Never believes a pid without its start time, and never widens: what could not be looked up is unavailable, not absent.
