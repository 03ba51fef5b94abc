//! Scripts that attack the runtime, for tests and benches: the folder `tests/luau/hostile`.
//!
//! Each says in its header what it tries, and how that must end: `-- Ends: ` and the texts, separated by ` | `, with one
//! of which its error begins (after the line, if there is one), or `ok` for a script that returns `"ok"` because all it
//! tried was refused.

/// A script.
#[derive(Clone, Copy, Debug)]
pub struct HostileScript {
    /// The name of its file, without the ending.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

macro_rules! scripts {
    ($($name:literal,)*) => {
        &[$(HostileScript {
            name: $name,
            source: include_str!(concat!("../tests/luau/hostile/", $name, ".luau")),
        },)*]
    };
}

/// All scripts, by name.
pub const SCRIPTS: &[HostileScript] = scripts![
    "cpu_buffer",
    "cpu_close_self",
    "cpu_collect",
    "cpu_collect_always",
    "cpu_compiler",
    "cpu_concat",
    "cpu_concat_numbers",
    "cpu_coroutine_ping_pong",
    "cpu_date_formats",
    "cpu_debug_text",
    "cpu_deep_coroutines",
    "cpu_defer_storm",
    "cpu_error_in_error_handler",
    "cpu_errors_of_bytes",
    "cpu_format_widths",
    "cpu_gsub_callback",
    "cpu_hash_collisions",
    "cpu_holes",
    "cpu_index_chain",
    "cpu_index_function_recursion",
    "cpu_iter",
    "cpu_iter_that_yields",
    "cpu_loaded_chunk",
    "cpu_loaded_chunk_async",
    "cpu_loop",
    "cpu_loop_in_pcall",
    "cpu_loop_in_xpcall_handler",
    "cpu_metamethods",
    "cpu_native_metamethods",
    "cpu_next_deleted",
    "cpu_numbers_of_texts",
    "cpu_pattern",
    "cpu_pattern_backtracking",
    "cpu_pattern_sets",
    "cpu_plain_find",
    "cpu_print",
    "cpu_select_unpack",
    "cpu_sort_comparator",
    "cpu_sort_inconsistent",
    "cpu_sort_native",
    "cpu_sort_strings",
    "cpu_spawn_in_spawn",
    "cpu_split_flood",
    "cpu_table_move",
    "cpu_timers_that_rearm",
    "cpu_tostring_recursion",
    "cpu_traceback",
    "cpu_utf8",
    "cpu_vector_keys",
    "escape_bytecode",
    "escape_chunk_names",
    "escape_gc",
    "escape_kept_context",
    "escape_metatables",
    "escape_missing_globals",
    "escape_other_template",
    "escape_require",
    "escape_withlimits",
    "memory_buffer",
    "memory_buffers_kept",
    "memory_caught",
    "memory_chunks",
    "memory_closures",
    "memory_concat",
    "memory_coroutines",
    "memory_coroutines_in_coroutines",
    "memory_deep_result",
    "memory_deferred_arguments",
    "memory_error_object",
    "memory_format",
    "memory_globals",
    "memory_gsub",
    "memory_interned_strings",
    "memory_kept_events",
    "memory_limited_contexts",
    "memory_pack",
    "memory_recursion",
    "memory_recursion_in_pcall",
    "memory_rep",
    "memory_rep_kept",
    "memory_store",
    "memory_string_doubling",
    "memory_table_clone",
    "memory_table_create",
    "memory_tables",
    "memory_waiting_threads",
    "memory_wide_result",
    "memory_wide_value",
    "native_arguments",
    "storage_flood_of_threads",
    "storage_key_flood",
    "storage_large_value",
    "storage_scopes",
    "work_of_many_threads",
    "work_without_waiting",
];

impl HostileScript {
    const ENDS: &str = "-- Ends: ";

    /// What its error may begin with, or `ok`.
    fn ends(&self) -> impl Iterator<Item = &'static str> {
        let line = self.source.lines().find_map(|line| line.strip_prefix(Self::ENDS));
        line.into_iter().flat_map(|line| line.split(" | "))
    }

    /// Whether it should end with this: its error, or what it returned.
    pub fn ends_with(&self, text: &str) -> bool {
        let without_line = text
            .strip_prefix("/init.luau:")
            .and_then(|rest| rest.split_once(": "))
            .filter(|(line, _)| line.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(text, |(_, message)| message);
        self.ends().any(|end| without_line.starts_with(end))
    }

    /// The script as `/init.luau`: it answers `"next"` to an event whose data has a field `next`, and attacks otherwise.
    pub fn entry(&self) -> String {
        format!("do local evt = ... if evt.data.next then return \"next\" end end {}", self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_listed_and_says_how_it_ends() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/luau/hostile");
        let files: BTreeSet<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".luau").to_owned())
            .collect();
        assert_eq!(files, SCRIPTS.iter().map(|script| script.name.to_owned()).collect());
        for script in SCRIPTS {
            assert!(script.ends().next().is_some_and(|end| !end.is_empty()), "{}", script.name);
            // What begins so may be anything.
            assert!(script.ends().all(|end| !end.starts_with('/')), "{}", script.name);
        }
    }
}
