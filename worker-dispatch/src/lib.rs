//! worker-dispatch
