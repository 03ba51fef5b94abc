//! `CreateTemplate` as scripts give it.

use std::ffi::c_int;

use worker_core::{CompatDate, TemplateLimits, TemplateName, TemplateNameError, Value};
use worker_db::{FileMap, NewTemplate};

use crate::error::ApiError;
use crate::luau::native::Call;
use crate::luau::stack::Kind;
use crate::modules::lazy::Lazy;

/// The name of a template.
pub(super) fn name(call: &Call, index: c_int) -> Result<TemplateName, ApiError> {
    let text = call.str(index, "name")?;
    TemplateName::new(text).map_err(|error| match error {
        TemplateNameError::Length(_) if !text.is_empty() => ApiError::too_large("name (at most 128 characters)"),
        error => ApiError::invalid_argument(format_args!("name ({error})")),
    })
}

/// The name of a template to look for: `None` is one that no template can have.
pub(super) fn wanted_name(call: &Call, index: c_int) -> Result<Option<TemplateName>, ApiError> {
    Ok(TemplateName::new(call.str(index, "name")?).ok())
}

/// A CreateTemplate. Whether its name is free, its capabilities are held, its sizes are allowed and its error channel is one
/// is asked later.
pub(super) fn template(call: &Call, index: c_int, compat: CompatDate) -> Result<NewTemplate, ApiError> {
    if call.table_field(index, c"language", |call, index| Ok(call.str_opt(index, "language")? != Some("luau")))? {
        return Err(ApiError::invalid_argument("language (expected \"luau\")"));
    }
    let name = call.table_field(index, c"name", name)?;
    let files = if name.is_builtins() || name.shop().is_some() {
        // Their code is elsewhere.
        FileMap::new()
    } else {
        call.table_field(index, c"content", files)?
    };
    let allowed_caps = call.table_field(index, c"allowed_caps", |call, index| call.strings(index, "allowed_caps"))?;
    Ok(NewTemplate {
        name,
        files,
        events: call.table_field(index, c"events", |call, index| call.strings(index, "events"))?,
        allowed_caps: allowed_caps.into_iter().collect(),
        error_channel: call.table_field(index, c"error_channel", |call, index| match call.kind(index) {
            Kind::None | Kind::Nil | Kind::LightUserdata => Ok(None),
            _ => call.snowflake(index, "error_channel").map(Some),
        })?,
        compat,
        paused: call.table_field(index, c"paused", |call, index| call.flag(index, "paused"))?,
    })
}

/// Paths and sources: a table, or a Lazy of one.
fn files(call: &Call, index: c_int) -> Result<FileMap, ApiError> {
    if let Some(lazy) = call.object_opt::<Lazy>(index) {
        // What was read may have been changed since.
        let converted = Lazy::read_converted(call.state(), index, |l, index| file_table(&Call::new(l), index));
        return converted.unwrap_or_else(|| file_map(lazy.value()));
    }
    file_table(call, index)
}

fn file_table(call: &Call, index: c_int) -> Result<FileMap, ApiError> {
    let TemplateLimits { template_bytes_max, files_max, .. } = *call.vm().surroundings.state.db().template_limits();
    let (mut files, mut bytes) = (FileMap::new(), 0);
    call.entries(index, "content", |call, key, value| {
        if call.kind(key) != Kind::String || call.kind(value) != Kind::String {
            return Err(not_files());
        }
        let (path, text) = (call.str(key, "content")?, call.str(value, "content")?);
        bytes += text.len();
        // Said here, before more is copied than can be kept.
        if bytes > template_bytes_max {
            return Err(ApiError::too_large(format_args!("content: at most {template_bytes_max} bytes")));
        }
        if files.len() >= files_max {
            return Err(ApiError::too_large(format_args!("content: at most {files_max} files")));
        }
        files.insert(path.to_owned(), text.to_owned());
        Ok(())
    })?;
    Ok(files)
}

fn file_map(value: Value) -> Result<FileMap, ApiError> {
    let entries = match value {
        Value::Map(entries) => entries,
        Value::List(items) if items.is_empty() => return Ok(FileMap::new()),
        Value::Lazy(inner) => return file_map(*inner),
        _ => return Err(not_files()),
    };
    let entry = |(path, text)| match text {
        Value::Text(text) => Ok((path, text)),
        _ => Err(not_files()),
    };
    entries.into_iter().map(entry).collect()
}

fn not_files() -> ApiError {
    ApiError::invalid_argument("content (expected a map from paths to sources)")
}
