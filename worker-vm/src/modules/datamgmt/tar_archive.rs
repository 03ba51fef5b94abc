//! `TarArchive`: files by name, read from a tar file and written as one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::io::{self, Read};
use std::path::{Component, Path};
use std::rc::Weak;

use bytes::Bytes;

use super::INPUT_BYTES_MAX;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::List;
use crate::modules::blob::BlobBytes;
use crate::runtime::held::Held;
use crate::runtime::long_work::{self, Bounds, INLINE_BYTES_MAX, Place, Work};
use crate::runtime::vm::Vm;

/// Files of an archive; of a tar file that is read, all its members count.
const ENTRIES_MAX: usize = 4_096;

/// Bytes of an archive as a file.
const ARCHIVE_BYTES_MAX: usize = 8 << 20;

/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 4_096;

/// Tar files are made of blocks.
const BLOCK_BYTES: usize = 512;

const PLACE: Place = Place::InlineUpTo(INLINE_BYTES_MAX);

/// A template's archive.
pub(crate) struct TarArchive(RefCell<Files>);

#[derive(Default)]
struct Files {
    list: Vec<File>,
    /// Bytes of the archive as a file, without its end.
    bytes: usize,
}

struct File {
    name: String,
    content: BlobBytes,
    /// For the name and the place in the list.
    _held: Held,
}

/// A file within a tar file.
enum Found {
    /// It is there as it is.
    At(usize, usize),
    /// It was put together: a sparse file.
    Made(Vec<u8>),
}

/// `TarArchive(data?)`.
pub(super) fn open(call: &Call) -> Result<Work<Object<TarArchive>>, ApiError> {
    if call.is_nil(1) {
        return Ok(Work::Done(Object(TarArchive(RefCell::default()))));
    }
    let input = long_work::input(call, 1, "data", INPUT_BYTES_MAX)?;
    let (size, data) = (input.bytes().len(), input.bytes().clone());
    let finish = |vm: Weak<Vm>, (input, found): (BlobBytes, Vec<(String, Found)>)| {
        let mut files = Files::default();
        for (name, found) in found {
            let content = match found {
                Found::At(start, end) => input.slice(start, end),
                Found::Made(bytes) => BlobBytes::new(vm.clone(), bytes)?,
            };
            files.add(&vm, name, content)?;
        }
        Ok(Object(TarArchive(RefCell::new(files))))
    };
    let whole = input.clone();
    long_work::run(
        call,
        PLACE,
        size,
        input,
        move |bounds| read(&data, bounds),
        move |vm, found| finish(vm, (whole, found)),
    )
}

/// The files of a tar file; of several with one name the last.
fn read(data: &Bytes, bounds: &Bounds) -> Result<Vec<(String, Found)>, ApiError> {
    let invalid = |error: io::Error| ApiError::invalid_argument(format_args!("data (not a tar file: {error})"));
    let mut files: Vec<(String, Found)> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    let mut made_bytes = 0;
    let mut archive = tar::Archive::new(&data[..]);
    for (count, entry) in archive.entries().map_err(invalid)?.enumerate() {
        bounds.check(0)?;
        if count == ENTRIES_MAX {
            return Err(ApiError::too_large(format_args!("data (more than {ENTRIES_MAX} entries)")));
        }
        let mut entry = entry.map_err(invalid)?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name.len() > NAME_BYTES_MAX {
            return Err(ApiError::too_large(format_args!("data (a name of more than {NAME_BYTES_MAX} bytes)")));
        }
        let found = if kind.is_gnu_sparse() {
            // Holes cost nothing in the file: what it says of its size is not believed.
            let mut bytes = Vec::new();
            let left = (ARCHIVE_BYTES_MAX - made_bytes) as u64;
            entry.by_ref().take(left + 1).read_to_end(&mut bytes).map_err(invalid)?;
            made_bytes += bytes.len();
            if made_bytes > ARCHIVE_BYTES_MAX {
                return Err(ApiError::too_large(format_args!("data (more than {ARCHIVE_BYTES_MAX} bytes in it)")));
            }
            Found::Made(bytes)
        } else {
            let range = usize::try_from(entry.raw_file_position()).ok().and_then(|start| {
                let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                (end <= data.len()).then_some((start, end))
            });
            let (start, end) =
                range.ok_or_else(|| ApiError::invalid_argument("data (not a tar file: it ends within a member)"))?;
            Found::At(start, end)
        };
        match by_name.get(&name) {
            Some(&index) => files[index].1 = found,
            None => {
                by_name.insert(name.clone(), files.len());
                files.push((name, found));
            }
        }
    }
    Ok(files)
}

/// Bytes that a file takes in a tar file. A long name has a member of its own.
fn packed_bytes(name: &str, content: usize) -> usize {
    let name_bytes = if name.len() > 100 { BLOCK_BYTES + (name.len() + 1).next_multiple_of(BLOCK_BYTES) } else { 0 };
    BLOCK_BYTES + content.next_multiple_of(BLOCK_BYTES) + name_bytes
}

impl Files {
    fn add(&mut self, vm: &Weak<Vm>, name: String, content: BlobBytes) -> Result<(), ApiError> {
        let packed = packed_bytes(&name, content.bytes().len());
        let bytes_held = name.len() + size_of::<File>();
        let held = Held::new(vm.clone(), bytes_held)
            .ok_or_else(|| ApiError::memory("no room for the entry within the tenant's memory limit"))?;
        self.list.push(File { name, content, _held: held });
        self.bytes += packed;
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<BlobBytes> {
        let index = self.list.iter().position(|file| file.name == name)?;
        let file = self.list.remove(index);
        self.bytes -= packed_bytes(&file.name, file.content.bytes().len());
        Some(file.content)
    }
}

/// `takefile(name)`.
fn take_file(call: &Call) -> Result<Option<BlobBytes>, ApiError> {
    let archive = call.object::<TarArchive>(1, "self")?;
    let Some(content) = archive.0.borrow_mut().take(call.str(2, "name")?) else { return Ok(None) };
    content.on_its_own(call.vm().weak()).map(Some)
}

/// `addfile(name, data)`: replaces a file of that name.
fn add_file(call: &Call) -> Result<(), ApiError> {
    let archive = call.object::<TarArchive>(1, "self")?;
    let name = call.str(2, "name")?;
    check_name(name)?;
    let content = long_work::input(call, 3, "data", ARCHIVE_BYTES_MAX)?;
    let mut files = archive.0.borrow_mut();
    let replaced = files.list.iter().find(|file| file.name == name);
    let freed = replaced.map_or(0, |file| packed_bytes(&file.name, file.content.bytes().len()));
    if replaced.is_none() && files.list.len() >= ENTRIES_MAX {
        return Err(ApiError::too_large(format_args!("archive (more than {ENTRIES_MAX} entries)")));
    }
    if files.bytes - freed + packed_bytes(name, content.bytes().len()) + 2 * BLOCK_BYTES > ARCHIVE_BYTES_MAX {
        return Err(ApiError::too_large(format_args!("archive (more than {ARCHIVE_BYTES_MAX} bytes)")));
    }
    files.take(name);
    files.add(&call.vm().weak(), name.to_owned(), content)
}

/// Names that a tar file can hold, and that lead nowhere else when somebody unpacks it.
fn check_name(name: &str) -> Result<(), ApiError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(ApiError::too_large(format_args!("name ({} bytes, at most {NAME_BYTES_MAX})", name.len())));
    }
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if name.is_empty() || name.contains('\0') || !plain {
        return Err(ApiError::invalid_argument("name (expected a relative path without `..`)"));
    }
    Ok(())
}

/// `entries()`.
fn entries(call: &Call) -> Result<List<String>, ApiError> {
    let archive = call.object::<TarArchive>(1, "self")?;
    let files = archive.0.borrow();
    Ok(List(files.list.iter().map(|file| file.name.clone()).collect()))
}

/// `toblob()`: the archive is empty afterwards.
fn to_blob(call: &Call) -> Result<Work<BlobBytes>, ApiError> {
    let archive = call.object::<TarArchive>(1, "self")?;
    let size = archive.0.borrow().bytes;
    if size > INLINE_BYTES_MAX && !call.can_yield() {
        // Said before the archive is used up.
        return Err(ApiError::too_large("archive (to pack it has to wait, which is impossible here)"));
    }
    for file in &archive.0.borrow().list {
        check_name(&file.name)?;
    }
    let files = archive.0.take();
    let contents: Vec<_> = files.list.iter().map(|file| (file.name.clone(), file.content.bytes().clone())).collect();
    long_work::run(call, PLACE, size, files, move |bounds| write(&contents, bounds), BlobBytes::new)
}

fn write(files: &[(String, Bytes)], bounds: &Bounds) -> Result<Vec<u8>, ApiError> {
    let failed = |error: io::Error| bounds.or_error(|| ApiError::invalid_argument(format_args!("name ({error})")));
    let mut builder = tar::Builder::new(bounds.output());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).map_err(failed)?;
    }
    let bytes = builder.into_inner().map_err(failed)?.into_bytes();
    if bytes.len() > ARCHIVE_BYTES_MAX {
        return Err(ApiError::too_large(format_args!("archive (more than {ARCHIVE_BYTES_MAX} bytes)")));
    }
    Ok(bytes)
}

impl Class for TarArchive {
    const TAG: c_int = tags::TAR_ARCHIVE;
    const NAME: &'static str = "TarArchive";
    const C_NAME: &'static CStr = c"TarArchive";

    fn register(class: &mut ClassBuilder) {
        class
            .meta(c"__len", |call: &Call| Ok(call.object::<Self>(1, "self")?.0.borrow().list.len() as f64))
            .method(c"takefile", take_file)
            .method(c"addfile", add_file)
            .method(c"entries", entries)
            .working(c"toblob", to_blob);
    }
}
