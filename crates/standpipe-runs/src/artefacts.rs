//! Artefacts: where a path that a task declares may lead.
use std::path::{Component, Path, PathBuf};

/// The path of an artefact inside of its task's folder.
///
/// # Errors
/// It leads out of the folder, or to no file.
pub(crate) fn relative(path: &str) -> Result<PathBuf, String> {
    let inside = Path::new(path);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let names = inside.components().any(|part| matches!(part, Component::Normal(_)));
    if inside.components().all(plain) && names && !path.contains('\0') && !path.ends_with('/') {
        Ok(inside.components().filter(|part| matches!(part, Component::Normal(_))).collect())
    } else {
        Err(format!("{path:?} is no file inside of the task's folder"))
    }
}
