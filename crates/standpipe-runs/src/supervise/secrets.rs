//! The values of secrets, looked up when a process is started and forgotten with it. Nothing here is logged,
//! stored or shown: an error names the variable, never the value.

use std::io::Read as _;
use std::path::Path;

use crate::command::{Secret, SecretSource};

/// Most bytes of a secret: a variable has to fit in a process' environment beside the others.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The values of `secrets` by their variables.
///
/// # Errors
/// What is wrong with which secret, for people.
pub(super) fn look_up(
    secrets: &[Secret],
    variable: fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, String> {
    let value = |secret: &Secret| match &secret.from {
        SecretSource::Env(name) => variable(name).ok_or_else(|| format!("the server has no variable {name}")),
        SecretSource::File(path) => read(path).map_err(|error| format!("can't read {}: {error}", path.display())),
    };
    let named = |secret: &Secret| match value(secret) {
        Ok(value) => Ok((secret.name.clone(), value)),
        Err(error) => Err(format!("secret {}: {error}", secret.name)),
    };
    secrets.iter().map(named).collect()
}

/// A file's text, without a newline at its end. A pipe or a device would make us wait, so it is refused.
fn read(path: &Path) -> std::io::Result<String> {
    let refused = |text: &str| std::io::Error::other(text.to_owned());
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused("it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(refused("it is larger than 64 KiB"));
    }
    if text.contains('\0') {
        return Err(refused("it holds a NUL, which no variable can"));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: SecretSource, expected: Result<&str, &str>) {
        let variable = |name: &str| (name == "HAVE").then(|| "it".to_owned());
        let found = look_up(&[Secret { name: "S".to_owned(), from }], variable);
        match expected {
            Ok(value) => assert_eq!(found.unwrap(), [("S".to_owned(), value.to_owned())]),
            Err(told) => assert!(found.as_ref().unwrap_err().contains(told), "{found:?}"),
        }
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            std::fs::write(dir.path().join(name), text).unwrap();
            SecretSource::File(dir.path().join(name))
        };
        check(SecretSource::Env("HAVE".to_owned()), Ok("it"));
        check(SecretSource::Env("NOT".to_owned()), Err("secret S: the server has no variable NOT"));
        check(file("a", b"hunter2\n"), Ok("hunter2"));
        check(file("b", b"a\nb\r\n"), Ok("a\nb"));
        check(file("c", b"a\n\n"), Ok("a\n"));
        check(file("d", &[0xff]), Err("secret S: can't read"));
        check(file("e", b"a\0b"), Err("holds a NUL"));
        check(file("f", &vec![b'a'; (64 << 10) + 1]), Err("larger than 64 KiB"));
        check(SecretSource::File(dir.path().join("gone")), Err("secret S: can't read"));
        check(SecretSource::File(dir.path().to_owned()), Err("no regular file"));
    }
}
