//! What `antiraid dev` is made of: a folder of templates that is loaded again whenever it changes, workers whose doings are
//! told, and a web page to look at a simulated Discord and act in it.

pub mod desk;
pub mod live_folder;
pub mod log_tail;
pub mod watched_workers;
