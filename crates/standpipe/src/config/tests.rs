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
    check("[databases]\nnames = [\"\\u0007\"]\n", &[], &["c.toml:2:1: databases.names: invalid database name"]);
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
    assert!(told.contains("c.toml:1:9: an item of pipe is a table of its own"), "{told}");
}

#[test]
fn keys_of_issuers_are_tables_of_their_own() {
    let file = "[auth]\nfirebase_project = \"p\"\n[[auth.key]]\nfile = \"a.pem\"\n\n\
                [[auth.key]]\nurl = \"https://id.example.com/keys\"\nalgorithm = \"RS256\"\nissuer = \"i\"\naudience = \"a\"\n\
                administrators = true\n";
    let arguments = || NodeArgs { auth: vec!["firebase:q".into(), "key:b.pem".into()], ..NodeArgs::default() };
    let (values, layers) = load(Some(file), &[], arguments()).unwrap();
    assert_eq!(values.auth.firebase_project, "q");
    let files: Vec<_> = values.auth.key.iter().map(|key| key.file.as_deref().and_then(Path::to_str)).collect();
    assert_eq!(files, [Some("a.pem"), None, Some("b.pem")]);
    assert!(values.auth.key[1].administrators && !values.auth.key[2].administrators);
    let (_, _, origin) = layers.entries().find(|(name, ..)| *name == "auth.key.002.file").unwrap();
    assert_eq!(origin.to_string(), "argument --auth");
    let check = |config: &str, auth: &[&str], expected: &str| {
        let auth = auth.iter().map(ToString::to_string).collect();
        let told = load(Some(config), &[], NodeArgs { auth, ..NodeArgs::default() }).unwrap_err();
        assert!(told.contains(expected), "{told:?} lacks {expected:?}");
    };
    check("", &["github"], "--auth github: neither firebase:PROJECT nor key:FILE");
    check("", &["firebase:"], "neither");
    check("", &["firebase:My Project"], "argument --auth: auth.firebase_project: \"My Project\" is no project id");
    check("[[auth.key]]\nkid = \"a\"\n", &[], "c.toml:2:1: auth.key.kid: name the key");
    check("[[auth.key]]\nfile = \"a\"\nurl = \"b\"\n", &[], "c.toml:3:1: auth.key.url: name a file or a url");
    check("[[auth.key]]\nurl = \"https://a/\"\n", &[], "name the algorithm too");
    check("[[auth.key]]\nurl = \"https://a/\"\nalgorithm = \"RS256\"\n", &[], "name the issuer and the audience");
    let http = "[[auth.key]]\nurl = \"http://a/\"\nalgorithm = \"RS256\"\nissuer = \"i\"\naudience = \"a\"\n";
    check(http, &[], "c.toml:2:1: auth.key.url: \"http://a/\": keys are fetched over https");
    check("[[auth.key]]\nfile = \"a\"\nalgorithm = \"none\"\n", &[], "c.toml:3:1: auth.key.algorithm");
    check("[[auth.key]]\nfil = \"a\"\n", &[], "unknown setting auth.key.fil");
    check("[auth]\nkey = [7]\n", &[], "an item of auth.key is a table of its own");
    check("[auth]\nfirebase_keys_url = \"http://a/\"\nfirebase_project = \"p\"\n", &[], "auth.firebase_keys_url");
}

#[test]
fn nothing_plain_where_others_can_read_along() {
    let check = |mode, arguments: NodeArgs, expected: Option<&str>| {
        let layers = layers(mode, &arguments, std::iter::empty()).unwrap();
        let told = exposure::check(mode, &checked(&layers).unwrap(), &layers).map_err(|failure| failure.to_string());
        match (told, expected) {
            (Ok(()), None) => {}
            (Err(told), Some(part)) => assert!(told.contains(part), "{told:?} lacks {part:?}"),
            (told, expected) => panic!("{arguments:?}: {told:?}, not {expected:?}"),
        }
    };
    let listen = |at: &str| NodeArgs { listen: Some(at.into()), ..NodeArgs::default() };
    check(Mode::Serve, NodeArgs::default(), None);
    check(Mode::Dev, NodeArgs::default(), None);
    check(Mode::Serve, listen("[::1]:9000"), None);
    check(Mode::Serve, listen("0.0.0.0:9000"), Some("--tls NAME --tls-listen 0.0.0.0:9000"));
    check(Mode::Serve, listen("10.0.0.1:9000"), Some("--insecure"));
    check(Mode::Serve, NodeArgs { insecure: true, ..listen("0.0.0.0:9000") }, None);
    check(Mode::Dev, listen("0.0.0.0:9000"), Some("--dangerously-expose-emulator"));
    check(Mode::Dev, NodeArgs { insecure: true, ..listen("0.0.0.0:9000") }, Some("`owner` is the administrator"));
    check(Mode::Dev, NodeArgs { dangerously_expose_emulator: true, ..listen("0.0.0.0:9000") }, None);
    let resp = |at: &str| NodeArgs { resp: Some(at.into()), tls: Some("a.b".into()), ..NodeArgs::default() };
    check(Mode::Serve, resp("0.0.0.0:6380"), Some("--resp tls:0.0.0.0:6380"));
    check(Mode::Serve, resp("tls:0.0.0.0:6380"), None);
    check(Mode::Serve, resp("/run/x.sock"), None);
    let told = load(None, &[], NodeArgs { resp: Some("tls:0.0.0.0:1".into()), ..NodeArgs::default() }).unwrap_err();
    assert!(told.contains("tls: needs an address and a certificate"), "{told}");
    let told = load(Some("[tls]\ncert = \"a\"\n"), &[], NodeArgs::default()).unwrap_err();
    assert!(told.contains("c.toml:2:1: tls.cert: tls.cert and tls.key belong together"), "{told}");
}
