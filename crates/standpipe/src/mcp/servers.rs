//! The file of servers: found, read within a limit, and its mistakes told as those of every file.

use std::io::Read as _;
use std::path::Path;

use standpipe_mcp::gateway::{FILE_BYTES_MAX, ServerEntry, read};

use crate::exit::{Failure, Result};

/// The servers of a file. `NAME` in `${NAME}` is a variable of ours, but for those that hold our own secrets.
///
/// # Errors
/// The file can't be read, or the first mistake in it with its place.
pub(super) fn servers(path: &Path) -> Result<Vec<ServerEntry>> {
    let failed = |error: std::io::Error| Failure::file(path, &error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{}: longer than {FILE_BYTES_MAX} bytes", path.display()))
            .help("a file of servers is a few hundred lines at most: is it the right one?"));
    }
    read(&text, &|name| std::env::var(name).ok())
        .map_err(|error| Failure::usage(format!("{}:{error}", path.display())).help(error.help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_with_file_and_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |text: &str, expected: &str| {
            std::fs::write(file.path(), text).unwrap();
            let told = servers(file.path()).unwrap_err().to_string();
            assert!(told.contains(expected) && told.contains(&*file.path().to_string_lossy()), "{told}");
        };
        check(
            "{\"mcpServers\":{\"a\":{\"command\":\"x\",\"argz\":[]}}}",
            ":1:42: mcpServers.a.argz: unknown key\nhelp: did you mean args?",
        );
        check(&" ".repeat(FILE_BYTES_MAX as usize + 1), "longer than 1048576 bytes");
        assert!(servers(Path::new("no-such-file")).unwrap_err().to_string().contains("no-such-file"));
    }
}
