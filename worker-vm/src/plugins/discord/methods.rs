//! Every method of `ctx.Discord` that yields (template API, sections 5.2 and 5.3), by name.

use std::ffi::CStr;

use super::endpoints::TABLE;

/// What a method returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    /// Nothing.
    Nil,
    /// A Lazy with an object of Discord's.
    Lazy,
    /// A Lazy with a list of them.
    LazyList,
}

/// The methods: each asks for the capability `discord:<name>` and counts in the bucket `<name>`.
///
/// `antiraid_bulk_op` and `antiraid_check_reason`, which do not yield, are not among them.
pub(crate) const METHODS: [(&CStr, Returns); TABLE.len()] = {
    let mut methods = [(c"", Returns::Nil); TABLE.len()];
    let mut place = 0;
    while place < methods.len() {
        methods[place] = (TABLE[place].name, TABLE[place].returns);
        place += 1;
    }
    methods
};
