//! Folders as Firebase's emulators export them: `firebase-export-metadata.json`, and a file of JSON for each
//! database in `database_export`. Reads which databases such a folder holds, and writes one; what other
//! emulators have put in it stays. The JSON itself is the client verbs' matter.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::{AccessArgs, TargetArgs};
use crate::client::{Call, Client, Target, Verb};
use crate::exit::{Failure, Result};

const METADATA: &str = "firebase-export-metadata.json";
const DATABASES: &str = "database_export";

/// What the emulators' own metadata say of the database emulator; the version is of its format.
const FORMAT_VERSION: &str = "4.11.2";

/// The files to load from `source`, each with its database. A file goes to the default one; a folder holds
/// one for each, named after it.
///
/// # Errors
/// `source` can't be read, or its metadata are no JSON.
pub(crate) fn import_files(source: &Path) -> Result<Vec<(Option<String>, PathBuf)>> {
    if source.is_file() {
        return Ok(vec![(None, source.to_owned())]);
    }
    let named = metadata(source)?.pointer("/database/path").and_then(Value::as_str).map(|path| source.join(path));
    let exported = named.unwrap_or_else(|| source.join(DATABASES));
    let dir = if exported.is_dir() { exported } else { source.to_owned() };
    let entries = std::fs::read_dir(&dir).map_err(|error| Failure::file(&dir, &error))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| Some((name_of(path.file_stem()?.to_str()?), path)))
        .filter(|(name, path)| standpipe_engine::check_name(name).is_ok() && !path.ends_with(METADATA))
        .map(|(name, path)| (Some(name), path))
        .collect();
    files.sort();
    Ok(files)
}

/// The database of a file: what the emulator calls by its name, and what we escape.
fn name_of(stem: &str) -> String {
    standpipe_engine::name_of(stem).unwrap_or_else(|| stem.to_owned())
}

/// The metadata of a folder; an empty object where it has none.
fn metadata(dir: &Path) -> Result<Value> {
    let file = dir.join(METADATA);
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())).help("export the folder again")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Object(Map::new())),
        Err(error) => Err(Failure::file(&file, &error)),
    }
}

/// Writes every database that holds anything, or the one that `target` names, into `dir`. The files take their
/// place only when all of them are on disk. Gives the names.
///
/// # Errors
/// A database can't be read, or the folder can't be written or is somebody else's.
pub(crate) fn export(target: &TargetArgs, dir: &Path) -> Result<Vec<String>> {
    let mut described = metadata(dir)?;
    let failed = |error: std::io::Error| Failure::file(dir, &error);
    if dir.is_dir() && described == json!({}) && std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(Failure::failed(format!("{} is no folder of an emulator, and not empty", dir.display()))
            .help("name a new folder, or one with a firebase-export-metadata.json"));
    }
    std::fs::create_dir_all(dir).map_err(failed)?;
    let part = dir.join(format!("{DATABASES}.{}.part", std::process::id()));
    let names = fill(target, &part).inspect_err(|_| drop(std::fs::remove_dir_all(&part)))?;
    let place = dir.join(DATABASES);
    let old = dir.join(format!("{DATABASES}.{}.old", std::process::id()));
    if place.exists() {
        std::fs::rename(&place, &old).map_err(failed)?;
    }
    std::fs::rename(&part, &place).map_err(failed)?;
    // Left over it takes room and harms nobody.
    let _ = std::fs::remove_dir_all(&old);
    let known = described.as_object_mut().ok_or_else(|| Failure::failed(format!("{METADATA} is no object")))?;
    known.entry("version").or_insert_with(|| json!(env!("CARGO_PKG_VERSION")));
    known.insert("database".into(), json!({ "version": FORMAT_VERSION, "path": DATABASES }));
    let text = serde_json::to_string_pretty(&described).expect("JSON that was read");
    std::fs::write(dir.join(METADATA), text).map_err(failed)?;
    Ok(names)
}

/// Writes a file for each database into `dir`, which is new.
fn fill(target: &TargetArgs, dir: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::file(dir, &error))?;
    let mut written = Vec::new();
    for name in names(target)? {
        let file = dir.join(format!("{}.json", standpipe_engine::folder_name(&name)));
        let access = AccessArgs { db: Some(name.clone()), ..target.access.clone() };
        let mut source = Target::open(&TargetArgs { access, ..target.clone() })?;
        if one(&mut source, &file)? {
            written.push(name);
        } else {
            std::fs::remove_file(&file).map_err(|error| Failure::file(&file, &error))?;
        }
    }
    Ok(written)
}

/// Writes a database; says whether it holds anything.
fn one(source: &mut Target, path: &Path) -> Result<bool> {
    let failed = |error| Failure::file(path, &error);
    let mut file = File::create(path).map_err(failed)?;
    let call = Call { query: vec![("format", "export".into())], ..Call::new(Verb::Get, "/") };
    let mut out = Counted { file: &mut file, bytes: 0, null: true };
    source.call(&call, &mut out)?;
    let holds = !out.null;
    file.sync_all().map_err(failed)?;
    Ok(holds)
}

/// A file, and whether what was written is more than `null`.
struct Counted<'f> {
    file: &'f mut File,
    bytes: usize,
    null: bool,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.null &= b"null".get(self.bytes..self.bytes + count) == Some(&bytes[..count]);
        self.bytes += count;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The databases that are meant.
fn names(target: &TargetArgs) -> Result<Vec<String>> {
    match (&target.access.db, &target.data) {
        (Some(name), _) => Ok(vec![name.clone()]),
        (None, Some(dir)) => Ok(standpipe_engine::database_names(dir)?),
        (None, None) => {
            let listed = Client::new(&target.url, &target.access)?.databases()?;
            let listed: Vec<Map<String, Value>> = serde_json::from_slice(&listed)
                .map_err(|error| Failure::failed(format!("the list of databases is none: {error}")))?;
            Ok(listed.iter().filter_map(|one| Some(one.get("name")?.as_str()?.to_owned())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        dir
    }

    /// The databases that a folder of these files holds.
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let dir = folder(files);
        let found: Vec<_> = import_files(dir.path()).unwrap().into_iter().filter_map(|(name, _)| name).collect();
        assert_eq!(found, expected, "{files:?}");
    }

    #[test]
    fn folders_hold_a_file_for_each_database() {
        let metadata = r#"{"version":"15.34.2","database":{"version":"4.11.2","path":"database_export"}}"#;
        check(&[(METADATA, metadata), ("database_export/b.json", "1"), ("database_export/a.json", "1")], &["a", "b"]);
        check(&[(METADATA, r#"{"database":{"path":"elsewhere"}}"#), ("elsewhere/a.json", "1")], &["a"]);
        check(&[("database_export/a.json", "1"), ("database_export/notes.txt", "")], &["a"]);
        check(&[(METADATA, metadata), ("a.json", "1")], &["a"]);
        check(&[("database_export/a.b.json", "1"), ("database_export/a%2Fb.json", "1")], &["a.b", "a/b"]);
        check(&[(&format!("database_export/{}.json", "n".repeat(65)), "1")], &[]);
    }

    #[test]
    fn metadata_that_are_no_json_are_named() {
        let dir = folder(&[(METADATA, "{")]);
        assert!(import_files(dir.path()).unwrap_err().to_string().contains(METADATA));
    }

    #[test]
    fn null_is_nothing_however_it_comes() {
        for (pieces, null) in [
            (&["null"][..], true),
            (&["nu", "ll"], true),
            (&["null", " "], false),
            (&["nul", "1"], false),
            (&["{}"], false),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            let mut out = Counted { file: &mut file, bytes: 0, null: true };
            pieces.iter().for_each(|piece| out.write_all(piece.as_bytes()).unwrap());
            assert_eq!(out.null, null, "{pieces:?}");
        }
    }
}
