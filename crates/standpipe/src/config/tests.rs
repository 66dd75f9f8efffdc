//! Precedence, and what the user is told about each kind of mistake.

use super::*;

fn node(config: Option<&str>, arguments: NodeArgs) -> (tempfile::TempDir, NodeArgs) {
    let dir = tempfile::tempdir().unwrap();
    let path = config.map(|text| {
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    (dir, NodeArgs { config: path, ..arguments })
}

fn load(config: Option<&str>, variables: &[(&str, &str)], arguments: NodeArgs) -> Result<(Values, Layers), String> {
    let (dir, arguments) = node(config, arguments);
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read = || {
        let layers = layers(Mode::Serve, &arguments, variables)?;
        Ok((checked(&layers)?, layers))
    };
    read().map_err(|failure: Failure| {
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
        failure.to_string().replace(&format!("{}/", dir.path().display()), "")
    })
}

#[test]
fn later_layers_win() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n";
    let variables = [("STANDPIPE_LISTEN", "127.0.0.1:2"), ("OTHER", "x")];
    let arguments = || NodeArgs { listen: Some("127.0.0.1:3".into()), ..NodeArgs::default() };
    let check = |config, variables: &[_], arguments, listen: &str, origin: &str| {
        let (values, layers) = load(config, variables, arguments).unwrap();
        assert_eq!(values.server.listen, listen);
        let (_, _, place) = layers.entries().find(|(name, ..)| *name == "server.listen").unwrap();
        assert!(place.to_string().ends_with(origin), "{place} is not {origin}");
    };
    check(None, &[], NodeArgs::default(), "127.0.0.1:9000", "default");
    check(Some(file), &[], NodeArgs::default(), "127.0.0.1:1", "c.toml:2:1");
    check(Some(file), &variables, NodeArgs::default(), "127.0.0.1:2", "variable STANDPIPE_LISTEN");
    check(Some(file), &variables, arguments(), "127.0.0.1:3", "argument --listen");
}

#[test]
fn every_kind_of_value_can_come_from_every_layer() {
    let file =
        "[databases]\nnames = [\"default\", \"a\"]\n[engine]\ndurability = \"interval\"\n[limits]\ndrain_ms = 7\n";
    let (values, _) = load(Some(file), &[], NodeArgs::default()).unwrap();
    assert_eq!(values.databases.names, ["default", "a"]);
    assert_eq!((values.engine.durability, values.limits.drain_ms), (Durability::Interval, 7));

    let variables = [
        ("STANDPIPE_DATABASES_NAMES", "default, b"),
        ("STANDPIPE_ENGINE_DURABILITY", "commit"),
        ("STANDPIPE_LIMITS_DRAIN_MS", "1_000"),
        ("STANDPIPE_LOG_FORMAT", "json"),
        ("STANDPIPE_TOKEN", "another part's"),
        ("STANDPIPE_PORT_9000_TCP", "a cluster's"),
    ];
    let (values, _) = load(Some(file), &variables, NodeArgs::default()).unwrap();
    assert_eq!(values.databases.names, ["default", "b"]);
    assert_eq!((values.engine.durability, values.limits.drain_ms), (Durability::Commit, 1_000));
    assert_eq!(values.server.log_format, LogFormat::Json);

    let arguments = NodeArgs {
        data: Some("d".into()),
        durability: Some(Durability::Interval),
        log_format: Some(LogFormat::Human),
        ..NodeArgs::default()
    };
    let (values, _) = load(Some(file), &variables, arguments).unwrap();
    assert_eq!((values.engine.durability, values.server.log_format), (Durability::Interval, LogFormat::Human));
    assert_eq!(values.server.data, Path::new("d"));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let check = |config: &str, variables: &[(&str, &str)], parts: &[&str]| {
        let told = load(Some(config), variables, NodeArgs::default()).map(|(values, _)| values).unwrap_err();
        parts.iter().for_each(|part| assert!(told.contains(part), "{part:?} is not in {told:?}"));
    };
    check(
        "[server]\n  lisen = \"x\"\n",
        &[],
        &["error: c.toml:2:3: unknown setting server.lisen", "did you mean server.listen?"],
    );
    check("listen = \"x\"\n", &[], &["c.toml:1:1: unknown setting listen", "did you mean server.listen?"]);
    check("[sever]\nlisten = \"x\"\n", &[], &["c.toml:2:1: unknown setting sever.listen", "server.listen?"]);
    check("[limits]\nqqq = 1\n", &[], &["c.toml:2:1: unknown setting limits.qqq", "config show --defaults"]);
    check("[limits]\n\ndrain_ms = \"a\"\n", &[], &["c.toml:3:1: limits.drain_ms: invalid type: string \"a\""]);
    check("[limits]\ndrain_ms = -1\n", &[], &["c.toml:2:1: limits.drain_ms: invalid value"]);
    check("[databases]\nnames = [1]\n", &[], &["c.toml:2:1: databases.names: invalid type: integer"]);
    check(
        "[engine]\ndurability = \"fast\"\n",
        &[],
        &["c.toml:2:1: engine.durability: unknown variant", "`commit` or `interval`"],
    );
    check("[server\n", &[], &["error: c.toml:1:8: ", "help: the file is TOML"]);
    check("[server]\nlisten = \"9000\"\n", &[], &["c.toml:2:1: server.listen: \"9000\" is no address", "HOST:PORT"]);
    check("[databases]\nnames = [\"a\"]\n", &[], &["c.toml:2:1: databases.names: the default database \"default\""]);
    check("[databases]\nnames = [\"../a\"]\n", &[], &["c.toml:2:1: databases.names: invalid database name"]);
    check("[engine]\ninterval_ms = 0\n", &[], &["c.toml:2:1: engine.interval_ms: use 1 to 60000"]);
    check(
        "[limits]\nworkers_min = 9\nworkers_max = 1\n",
        &[],
        &["c.toml:2:1: limits.workers_min", "c.toml:3:1: limits.workers_max"],
    );
    check("", &[("STANDPIPE_LISTN", "x")], &["unknown variable STANDPIPE_LISTN", "did you mean STANDPIPE_LISTEN?"]);
    check(
        "",
        &[("STANDPIPE_LIMITS_DRAIN_MS", "soon")],
        &["variable STANDPIPE_LIMITS_DRAIN_MS=soon: not a value for limits.drain_ms"],
    );
    check(
        "",
        &[("STANDPIPE_LIMITS_DRAIN_MS", "-4")],
        &["variable STANDPIPE_LIMITS_DRAIN_MS: limits.drain_ms: invalid value"],
    );
}

#[test]
fn a_mistake_is_told_where_a_later_layer_covers_it() {
    let covered = [("STANDPIPE_LISTEN", "127.0.0.1:1"), ("STANDPIPE_LIMITS_DRAIN_MS", "1")];
    for config in ["[server]\nlisten = \"here\"\n", "[limits]\ndrain_ms = \"soon\"\n"] {
        let told = load(Some(config), &covered, NodeArgs::default()).map(|(values, _)| values).unwrap_err();
        assert!(told.contains("c.toml:2:1: "), "{told}");
    }
    // But values only have to fit each other in the end.
    let names = "[databases]\nnames = [\"a\"]\n";
    load(Some(names), &[("STANDPIPE_DATABASES_DEFAULT", "a")], NodeArgs::default()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let arguments = NodeArgs { config: Some("no-such-file.toml".into()), ..NodeArgs::default() };
    let failure = Settings::load(Mode::Dev, &arguments).unwrap_err();
    assert!(failure.to_string().starts_with("error: no-such-file.toml: "), "{failure}");
}

#[test]
fn dev_and_serve_keep_their_data_apart() {
    let data = |mode| Values::defaults(mode).server.data;
    assert_ne!(data(Mode::Dev), data(Mode::Serve));
}

#[test]
fn pipes_are_tables_of_their_own() {
    let text = "[[pipe]]\npath = \"/home\"\nfile = \"home.pipe\"\n\n[[pipe]]\nfolder = \"docs\"\nfile = \"docs.md\"\nmode = \"file\"\n";
    let (values, layers) = load(Some(text), &[], NodeArgs::default()).unwrap();
    let files: Vec<_> = values.pipe.iter().map(|pipe| (pipe.file.to_str().unwrap(), pipe.mode)).collect();
    assert_eq!(files, [("home.pipe", crate::pipe::PipeMode::Fifo), ("docs.md", crate::pipe::PipeMode::File)]);
    let (_, _, place) = layers.entries().find(|(name, ..)| *name == "pipe.001.mode").unwrap();
    assert!(place.to_string().ends_with("c.toml:8:1"), "{place}");

    let check = |pipe: &str, parts: &[&str]| {
        let told = load(Some(&format!("[[pipe]]\n{pipe}")), &[], NodeArgs::default()).map(drop).unwrap_err();
        parts.iter().for_each(|part| assert!(told.contains(part), "{part:?} is not in {told:?}"));
    };
    check("path = \"/a\"\nfile = \"f\"\nmode = \"fast\"\n", &["c.toml:4:1: pipe.mode: unknown variant `fast`"]);
    check("path = \"/a\"\nfil = \"f\"\n", &["c.toml:3:1: unknown setting pipe.fil", "did you mean pipe.file?"]);
    check("path = \"/a\"\n", &["c.toml:2:1: pipe.path: missing field `file`"]);
    check("file = \"f\"\n", &["c.toml:2:1: pipe.file: name what it serves"]);
    check("path = \"/a\"\nfolder = \"d\"\nfile = \"f\"\n", &["c.toml:3:1: pipe.folder: a pipe has a path or a folder"]);
    check("path = \"/a$b\"\nfile = \"f\"\n", &["c.toml:2:1: pipe.path: \"/a$b\": "]);
    check("path = \"/a\"\nfile = \"f\"\nperm = \"0666\"\n", &["c.toml:4:1: pipe.perm: \"0666\" is no mode"]);
    let told = load(Some("pipe = [1]\n"), &[], NodeArgs::default()).map(drop).unwrap_err();
    assert!(told.contains("c.toml:1:9: a pipe is a table of its own"), "{told}");
}
