//! The only code that talks to the real metadata service.
