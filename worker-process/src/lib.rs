//! worker-process
