//! In place of the emulator: its folders go in and come out, its conventions hold, and a project's own
//! tests run untouched (story 1 of the users, as typed).

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, Server};

use crate::cli::Cli;
use crate::sdk::{scripts, tools};
use crate::support::{dev, quiet, write};

const METADATA: &str = "firebase-export-metadata.json";

fn json_of(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The JSON that a GET of `target` gives.
fn get(server: &Server, target: &str) -> Value {
    request(server.addr(), "GET", target, &[], b"").unwrap().json().unwrap()
}

/// A folder as the emulators write it, with something of another emulator in it.
fn exported() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let metadata = json!({
        "version": "15.34.2",
        "auth": {"version": "15.34.2", "path": "auth_export"},
        "database": {"version": "4.11.2", "path": "database_export"},
    });
    std::fs::write(dir.path().join(METADATA), metadata.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("database_export")).unwrap();
    std::fs::create_dir(dir.path().join("auth_export")).unwrap();
    std::fs::write(dir.path().join("auth_export/accounts.json"), "{}").unwrap();
    let file = |name: &str, value: Value| {
        std::fs::write(dir.path().join("database_export").join(name), value.to_string()).unwrap();
    };
    file("demo-app.json", json!({"a": {".value": 1, ".priority": "p"}, "list": ["x", null, "y"]}));
    file("demo-app-default-rtdb.json", json!({"b": true}));
    dir
}

fn launch(folder: &Path) -> Launch {
    let import = ["--import".as_ref(), folder.as_os_str(), "--export-on-exit".as_ref()];
    Launch::dev().args(import)
}

#[test]
fn a_folder_goes_in_and_comes_out() {
    let folder = exported();
    let server = launch(folder.path()).start().unwrap();
    assert_eq!(get(&server, "/.json?ns=demo-app-default-rtdb"), json!({"b": true}));
    assert_eq!(get(&server, "/list.json?ns=demo-app"), json!(["x", null, "y"]));
    write(server.addr(), "PUT", "/b.json?ns=demo-app-default-rtdb", "2");
    write(server.addr(), "PUT", "/c.json?ns=new", "3");
    write(server.addr(), "PUT", "/c.json?ns=empty", "3");
    write(server.addr(), "DELETE", "/c.json?ns=empty", "");
    quiet(server, &[]);
    let databases = folder.path().join("database_export");
    let mut names: Vec<_> =
        std::fs::read_dir(&databases).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["demo-app-default-rtdb.json", "demo-app.json", "new.json"]);
    let expected = json!({"a": {".value": 1, ".priority": "p"}, "list": {"0": "x", "2": "y"}});
    assert_eq!(json_of(&databases.join("demo-app.json")), expected);
    assert_eq!(json_of(&databases.join("demo-app-default-rtdb.json")), json!({"b": 2}));
    let metadata = json_of(&folder.path().join(METADATA));
    assert_eq!((&metadata["auth"]["path"], &metadata["version"]), (&json!("auth_export"), &json!("15.34.2")));
    assert!(folder.path().join("auth_export/accounts.json").exists(), "what others exported stays");
    // Nothing of the exchange is left over, and the next server on a fresh folder takes it.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    let again = launch(folder.path()).start().unwrap();
    assert_eq!(get(&again, "/a.json?ns=demo-app&format=export"), json!({".value": 1, ".priority": "p"}));
}

#[test]
fn the_first_start_has_no_folder_yet() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("emulator-data");
    let server = launch(&folder).start().unwrap();
    write(server.addr(), "PUT", "/a.json?ns=demo-app", "1");
    quiet(server, &[]);
    assert_eq!(json_of(&folder.join("database_export/demo-app.json")), json!({"a": 1}));
    let server = launch(&folder).start().unwrap();
    assert_eq!(get(&server, "/a.json?ns=demo-app"), json!(1));
}

#[test]
fn exports_of_a_server_and_of_a_folder_are_the_same() {
    let mut server = dev();
    let cli = Cli::new(&server);
    write(server.addr(), "PUT", "/a.json?ns=one", r#"{".value":1,".priority":2}"#);
    write(server.addr(), "PUT", "/a.json?ns=two", r#"[1,2]"#);
    let databases = json!({"databases": ["one", "two"]}).to_string();
    let told = cli.ok(&["export", "--format", "emulator", "live", "--token", "owner"]);
    assert_eq!(told.trim(), databases);
    server.stop().unwrap();
    let data = server.data().to_str().unwrap().to_owned();
    assert_eq!(cli.ok(&["export", "--format", "emulator", "cold", "--data", &data]).trim(), databases);
    for file in [METADATA, "database_export/one.json", "database_export/two.json"] {
        assert_eq!(json_of(&cli.dir().join("live").join(file)), json_of(&cli.dir().join("cold").join(file)), "{file}");
    }
    cli.ok(&["export", "--format", "emulator", "single", "--data", &data, "--db", "two"]);
    assert!(!cli.dir().join("single/database_export/one.json").exists());
}

#[test]
fn folders_of_others_are_left_alone() {
    let server = dev();
    let cli = Cli::new(&server);
    write(server.addr(), "PUT", "/a.json", "1");
    std::fs::create_dir(cli.dir().join("mine")).unwrap();
    std::fs::write(cli.dir().join("mine/precious.txt"), "x").unwrap();
    let told = cli.fails(1, &["export", "--format", "emulator", "mine", "--token", "owner"]);
    assert!(told.contains("not empty"), "{told}");
    assert_eq!(std::fs::read_dir(cli.dir().join("mine")).unwrap().count(), 1);
    cli.fails(2, &["export", "--format", "emulator"]);
}

#[test]
fn the_hub_answers_in_dev_only() {
    let server = dev();
    let answer = get(&server, "/emulators");
    assert_eq!(answer["database"], json!({"name": "database", "host": "127.0.0.1", "port": server.addr().port()}));
    let listed = request(
        server.addr(),
        "GET",
        "/.inspect/databases.json?ns=demo-app",
        &[("authorization", "Bearer owner")],
        b"",
    );
    assert!(serde_json::from_str::<Vec<Value>>(&listed.unwrap().text()).is_ok());
    let locked = Launch::serve().start().unwrap();
    assert_eq!(request(locked.addr(), "GET", "/emulators", &[], b"").unwrap().status, 404);
}

/// The project of a tester, with its packages, its rules, and a folder of the emulator.
fn project() -> tempfile::TempDir {
    let dir = exported();
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("database_export/demo-app.json"), at("database_export/demo-story.json")).unwrap();
    std::fs::create_dir(at("emulator-data")).unwrap();
    for name in [METADATA, "database_export", "auth_export"] {
        std::fs::rename(at(name), at("emulator-data").join(name)).unwrap();
    }
    for name in ["story.test.mjs", "database.rules.json"] {
        std::fs::copy(scripts().join("story").join(name), at(name)).unwrap();
    }
    std::fs::write(
        at("package.json"),
        r#"{"scripts": {"test": "node --test --test-force-exit --test-timeout=30000"}}"#,
    )
    .unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(tools().unwrap().join("node_modules"), at("node_modules")).unwrap();
    dir
}

/// Story 1, as typed, but for the port: nine thousand may be taken.
#[cfg(unix)]
#[test]
fn a_project_moves_from_the_emulator() {
    if tools().is_none() {
        return;
    }
    let project = project();
    let server: Server = Launch::dev()
        .args(["--rules".as_ref(), project.path().join("database.rules.json").as_os_str()])
        .args(["--import".as_ref(), project.path().join("emulator-data").as_os_str()])
        .start()
        .unwrap();
    let script = format!("export FIREBASE_DATABASE_EMULATOR_HOST={}\nnpm test", server.addr());
    let output = Command::new("sh").args(["-euc", &script]).current_dir(project.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", server.stderr());
    assert!(said.contains("# pass 5"), "{said}");
    quiet(server, &[]);
}
