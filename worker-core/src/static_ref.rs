//! A handle to what lives as long as the process.

use std::fmt;
use std::ops::Deref;

#[cfg(not(feature = "static-ref-arc"))]
type Pointer<T> = &'static T;
#[cfg(feature = "static-ref-arc")]
type Pointer<T> = std::sync::Arc<T>;

/// A shared handle to a value that is made once and never freed: settings, process-wide caches.
///
/// By default it is a leaked `&'static T`, so that a clone is a copy of a pointer and no counter bounces between cores.
/// With the feature `static-ref-arc` it is an `Arc<T>`: for programs that make and drop whole workers many times, and
/// for leak checkers. `benches/static_ref.rs` measures what the default gains.
pub struct StaticRef<T: 'static>(Pointer<T>);

impl<T: 'static> StaticRef<T> {
    /// Moves the value to where it stays.
    pub fn new(value: T) -> Self {
        #[cfg(not(feature = "static-ref-arc"))]
        return Self(Box::leak(Box::new(value)));
        #[cfg(feature = "static-ref-arc")]
        return Self(std::sync::Arc::new(value));
    }
}

impl<T> Clone for StaticRef<T> {
    #[inline]
    fn clone(&self) -> Self {
        #[cfg(not(feature = "static-ref-arc"))]
        return Self(self.0);
        #[cfg(feature = "static-ref-arc")]
        return Self(self.0.clone());
    }
}

impl<T> Deref for StaticRef<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        #[cfg(not(feature = "static-ref-arc"))]
        return self.0;
        #[cfg(feature = "static-ref-arc")]
        return &self.0;
    }
}

impl<T: fmt::Debug> fmt::Debug for StaticRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_the_same_value() {
        let a = StaticRef::new(std::sync::atomic::AtomicU32::new(0));
        let b = a.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || b.store(7, std::sync::atomic::Ordering::Relaxed));
        });
        assert_eq!(a.load(std::sync::atomic::Ordering::Relaxed), 7);
    }

    #[cfg(feature = "static-ref-arc")]
    #[test]
    fn with_the_feature_the_last_clone_frees_the_value() {
        let value = std::sync::Arc::new(());
        let handle = StaticRef::new(value.clone());
        drop(handle.clone());
        assert_eq!(std::sync::Arc::strong_count(&value), 2);
        drop(handle);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    }
}
