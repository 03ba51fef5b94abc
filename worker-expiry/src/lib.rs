//! worker-expiry
