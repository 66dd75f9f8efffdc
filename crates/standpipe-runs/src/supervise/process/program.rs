//! What is executed: where the program is looked for, and, when it can't be started, what to tell people.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::super::launch::{LaunchError, Spec};
use super::sys::{Failure, Stage};

/// Where programs are looked for when the environment does not say it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The texts of a program to be executed, as the system wants them.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) paths: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) cwd: Option<CString>,
}

/// # Errors
/// There is no program, or a text has a NUL in it.
pub(super) fn texts(spec: &Spec, mark: (&str, &str)) -> Result<Texts, LaunchError> {
    let Some(program) = spec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(LaunchError("there is no program to start".to_owned()));
    };
    let text = |what: &str, text: String| {
        CString::new(text).map_err(|_| LaunchError(format!("{what} has a NUL in it, which no process can be given")))
    };
    let variable = |(name, value): (&str, &str)| {
        if name.is_empty() || name.contains('=') {
            return Err(LaunchError(format!("{name:?} can't be the name of a variable")));
        }
        text(&format!("the variable {name}"), format!("{name}={value}"))
    };
    let env = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| *name != mark.0);
    Ok(Texts {
        paths: candidates(program, search_path(spec))
            .into_iter()
            .map(|path| text("the program", path))
            .collect::<Result<_, _>>()?,
        argv: spec.argv.iter().map(|argument| text("an argument", argument.clone())).collect::<Result<_, _>>()?,
        // The mark comes first: it must be found however large the others are.
        env: std::iter::once(mark).chain(env).map(variable).collect::<Result<_, _>>()?,
        cwd: spec.cwd.as_deref().map(|cwd| text("the folder", path_text(cwd))).transpose()?,
    })
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn search_path(spec: &Spec) -> &str {
    spec.env.get("PATH").map_or(PATH, String::as_str)
}

/// Where a program may be: a name with a slash is a path, others are looked for (execvp(3)). An empty part of the
/// search path is the folder it is started in.
fn candidates(program: &str, search: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let folder = |folder: &str| if folder.is_empty() { program.to_owned() } else { format!("{folder}/{program}") };
    search.split(':').map(folder).collect()
}

/// What to tell people about a process that could not be started.
pub(super) fn explain(spec: &Spec, failure: &Failure) -> LaunchError {
    let Failure { stage, error } = failure;
    let program = spec.argv.first().map_or("", String::as_str);
    let errno = Errno::from_io_error(error);
    LaunchError(match (stage, errno) {
        (Stage::Process, Some(Errno::AGAIN)) => {
            "no more processes can be started (EAGAIN): end others, or raise the limit (ulimit -u, pids.max)".to_owned()
        }
        (Stage::Folder, _) => {
            let folder = spec.cwd.as_deref().unwrap_or(Path::new("."));
            format!("can't be started in {}: {}", folder.display(), plain(error))
        }
        (Stage::Program, Some(Errno::NOENT)) if program.contains('/') => {
            format!("there is no program {program}, or its #! line names one that is not there")
        }
        (Stage::Program, Some(Errno::NOENT)) => {
            format!("there is no program {program} in PATH ({}): install it, or give its path", search_path(spec))
        }
        (Stage::Program, Some(Errno::ACCESS)) => {
            format!("{program} may not be executed: is it executable (chmod +x), and its folder accessible?")
        }
        (Stage::Program, Some(Errno::NOEXEC)) => {
            format!("{program} is no program of this machine: a script needs a #! line")
        }
        (Stage::Program, Some(Errno::TOOBIG)) => "its arguments and environment are too long (E2BIG)".to_owned(),
        (Stage::Program, _) => format!("{program} can't be executed: {}", plain(error)),
        (Stage::Limit, _) => format!("one of its resource limits can't be set: {}", plain(error)),
        (Stage::Group, _) => format!("it can't enter its cgroup: {}", plain(error)),
        (Stage::Process | Stage::Setup, _) => format!("no process can be made: {}", plain(error)),
    })
}

/// `No such file or directory` without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        assert_eq!(candidates("./a", "/bin"), ["./a"]);
        assert_eq!(candidates("a", "/bin:/usr/bin"), ["/bin/a", "/usr/bin/a"]);
        assert_eq!(candidates("a", "/bin::"), ["/bin/a", "a", "a"]);
    }

    #[test]
    fn texts_that_no_process_can_have_are_named() {
        let check = |argv: &[&str], variable: (&str, &str), told: &str| {
            let argv = argv.iter().map(|text| (*text).to_owned()).collect();
            let env = [(variable.0.to_owned(), variable.1.to_owned())].into();
            let error = texts(&Spec { argv, env, ..Spec::default() }, ("MARK", "1")).unwrap_err();
            assert!(error.0.contains(told), "{error}");
        };
        check(&[], ("A", ""), "no program");
        check(&[""], ("A", ""), "no program");
        check(&["a\0b"], ("A", ""), "the program has a NUL");
        check(&["a", "\0"], ("A", ""), "an argument has a NUL");
        check(&["a"], ("A", "\0"), "the variable A has a NUL");
        check(&["a"], ("A=B", ""), "\"A=B\" can't be the name");
        check(&["a"], ("", ""), "\"\" can't be the name");
    }
}
